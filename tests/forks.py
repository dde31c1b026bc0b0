"""Work in forked children of the test's own process; the test waits for their results."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest


class Child:
    """A forked child that does some work, reports the outcome, and ends without clean-up."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            # Where it hangs is told when its parent asks.
            faulthandler.register(signal.SIGUSR2)
            try:
                try:
                    answer = (True, work())
                except BaseException as exc:  # noqa: BLE001 told to the test
                    answer = (False, f"{type(exc).__name__}: {exc}\n{traceback.format_exc()}")
                with os.fdopen(writing, "wb") as file:
                    pickle.dump(answer, file)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)

    def outcome(self, *, within_s: float = 30.0) -> tuple[bool, Any]:
        """Whether it returned, and what; else what it raised, as a text. A child that hangs fails.

        Killed in any case once this returns.
        """
        told, deadline = b"", time.monotonic() + within_s
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                if select.select([self._reading], [], [], left_s)[0]:
                    part = os.read(self._reading, 1 << 16)
                    if not part:
                        break
                    told += part
            else:
                os.kill(self.pid, signal.SIGUSR2)
                select.select([self._reading], [], [], 1.0)  # while it writes its traceback
        finally:
            os.close(self._reading)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if not told:
            pytest.fail(f"a forked child said nothing within {within_s:g} s")
        is_well, answer = pickle.loads(told)  # noqa: S301 our own child's
        return is_well, answer

    def result(self, *, within_s: float = 30.0) -> Any:
        """What its work returned; what it raised fails the test."""
        is_well, answer = self.outcome(within_s=within_s)
        if not is_well:
            pytest.fail(f"a forked child raised {answer}")
        return answer


def in_child(work: Callable[[], object], *, within_s: float = 30.0) -> Any:
    """Do the work in a forked child and return its result."""
    return Child(work).result(within_s=within_s)


def error_in_child(work: Callable[[], object], *, within_s: float = 30.0) -> str:
    """Do the work in a forked child and return the error that it raised."""
    is_well, answer = Child(work).outcome(within_s=within_s)
    assert not is_well, f"no error but {answer!r}"
    return str(answer)
