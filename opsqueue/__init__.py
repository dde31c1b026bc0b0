"""Opsqueue: a distributed parallel map for heavy loads, on Redis.

from opsqueue import Opsqueue

app = Opsqueue()

@app.operation_handler("numbers")
def increment(number: int) -> int:
return number + 1
"""

from opsqueue.app import Chunk, Opsqueue

__all__ = ["Chunk", "Opsqueue", "__version__"]
__version__ = "0.1.0"
