"""Opsqueue: a distributed parallel map for heavy loads, on Redis.

from opsqueue import Opsqueue

app = Opsqueue()

@app.operation_handler("numbers")
def increment(number: int) -> int:
return number + 1
"""

from opsqueue.app import Chunk, Opsqueue
from opsqueue.strategy import Strategy

__all__ = ["Chunk", "Opsqueue", "Strategy", "__version__"]
__version__ = "0.1.0"
