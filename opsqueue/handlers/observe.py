"""Calling the hooks that observe failures, see `Opsqueue.on_chunk_failure`.

A hook can't fail the chunk: what it raises is logged. It runs while its chunk counts as running, so
that the chunk's time limit ends one that hangs.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opsqueue.exceptions import SoftTimeLimitExceeded
from opsqueue.handlers.app import Chunk, Handler, Hook
from opsqueue.model.chunk import ChunkFailure
from opsqueue.model.process import EndsForkedChildren
from opsqueue.model.raised import is_a

logger = logging.getLogger("opsqueue.handlers")


class KilledError(BaseException):
    """Stands for the end of the process in `opsqueue.testing`, where there is none to kill.

    A killed process calls no hook, and no handler catches its end.
    """


@dataclass(frozen=True, slots=True)
class Enclosed:
    """An operation with something about it, which hooks don't see."""

    operation: object


def observes_failures(handler: Handler) -> bool:
    """Return whether `chunk_failed` has anything to call."""
    return any(observers.of_chunks for observers in handler.observers)


def observes_errors(handler: Handler) -> bool:
    """Return whether `operation_failed` has anything to call."""
    return any(observers.of_operations for observers in handler.observers)


def chunk_failed(handler: Handler, error: BaseException, chunk: Chunk) -> BaseException | None:
    """Call the hooks for a failed attempt; return a Ctrl-C that came meanwhile."""
    if is_a(error, KilledError):
        return None
    hooks = (hook for observers in handler.observers for hook in observers.of_chunks)
    try:
        _call_each(hooks, error, chunk)
    except KeyboardInterrupt as exc:
        return exc
    return None


def operation_failed(
    handler: Handler, error: BaseException, chunk: Chunk, index: int, operation: object
) -> None:
    """Call the hooks for an operation whose error is collected.

    Args:
        handler: the handler, with its observers.
        error: the exception.
        chunk: the operation's chunk.
        index: the operation's place in the chunk.
        operation: what the handler was called with.

    Raises:
        SoftTimeLimitExceeded, KeyboardInterrupt: the chunk's, not the hook's own.
    """
    while isinstance(operation, Enclosed):
        operation = operation.operation
    hooks = (hook for observers in handler.observers for hook in observers.of_operations)
    _call_each(hooks, error, chunk, chunk.first_index + index, operation, handler=handler)


def _call_each(
    hooks: Iterable[Hook],
    *arguments: Any,  # noqa: ANN401 those of the hook
    handler: Handler | None = None,
) -> None:
    for hook in hooks:
        try:
            with EndsForkedChildren():
                hook(*arguments)
        except BaseException as exc:
            is_limit = is_a(exc, SoftTimeLimitExceeded)
            if is_limit and handler is not None and handler.soft_time_limit is not None:
                raise
            if is_a(exc, KeyboardInterrupt) and _may_be_interrupted():
                raise
            failure = ChunkFailure.of(exc)
            logger.error(  # noqa: TRY400 the exception may be one that can't be formatted
                "the hook %r raised %s: %s; the chunk is reported all the same\n%s",
                *(hook, failure.type, failure.message, failure.traceback),
            )


def _may_be_interrupted() -> bool:
    """Return whether Ctrl-C raises KeyboardInterrupt in this thread: not in a worker's child."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL)
