"""Tests of handlers in one process, without a server: on fakeredis and the memory store.

The names are imported when they are first used: `opsqueue dev`, whose embedded server is in this
package, does not need pytest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsqueue.testing.in_process import LocalOpsqueue, local, opsqueue_local

__all__ = ["LocalOpsqueue", "local", "opsqueue_local"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever has that name
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from opsqueue.testing import in_process  # noqa: PLC0415 as above

    return getattr(in_process, name)  # without pytest there is no fixture


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
