"""Opsqueue: a distributed parallel map for heavy loads, on Redis.

    from opsqueue import Opsqueue

    app = Opsqueue()

    @app.operation_handler("numbers")
    def increment(number: int) -> int:
        return number + 1

Names are imported when first used, with only what they need: a producer needs no Redis client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from opsqueue.model.version import __version__

if TYPE_CHECKING:
    from opsqueue.handlers.app import Chunk, Opsqueue
    from opsqueue.strategy import Strategy

__all__ = ["Chunk", "Opsqueue", "Strategy", "__version__"]

_HOMES = {
    "Chunk": "opsqueue.handlers.app",
    "Opsqueue": "opsqueue.handlers.app",
    "Strategy": "opsqueue.strategy",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever has that name
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
