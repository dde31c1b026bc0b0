"""The smallest app: every operation is a number, its result is the next one."""

from opsqueue import Opsqueue

app = Opsqueue()


@app.operation_handler("numbers")
def increment(number: int) -> int:
    return number + 1
