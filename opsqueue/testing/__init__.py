"""Your handlers, tested in one process, without a server: fakeredis and the memory store."""

from contextlib import suppress

from opsqueue.testing.in_process import LocalOpsqueue, local

__all__ = ["LocalOpsqueue", "local", "opsqueue_local"]

with suppress(ImportError):  # where pytest is not installed there is no fixture
    from opsqueue.testing.in_process import opsqueue_local
