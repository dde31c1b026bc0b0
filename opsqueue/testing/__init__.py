"""Your handlers, tested in one process, without a server: fakeredis and the memory store.

Loaded when a name is asked for: the embedded server of `opsqueue dev` needs no pytest.
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
