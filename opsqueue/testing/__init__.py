"""Tests of handlers in one process, without a server: on fakeredis and the memory store.

The names are imported when they are first used: `opsqueue dev`, whose embedded server is in this
package, does not need pytest. PYTEST_DONT_REWRITE: there are no assertions in it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsqueue.testing.faults import Faults
    from opsqueue.testing.in_process import LocalOpsqueue, local
    from opsqueue.testing.pytest_plugin import opsqueue_local

__all__ = ["Faults", "LocalOpsqueue", "local", "opsqueue_local"]
_HOMES = {
    "Faults": "opsqueue.testing.faults",
    "LocalOpsqueue": "opsqueue.testing.in_process",
    "local": "opsqueue.testing.in_process",
    "opsqueue_local": "opsqueue.testing.pytest_plugin",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever has that name
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
