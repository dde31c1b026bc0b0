"""The smallest app: an operation is a number, and its result is the next number."""

from opsqueue import Opsqueue

app = Opsqueue()


@app.operation_handler("numbers")
def increment(number: int) -> int:
    return number + 1
