"""SoftTimeLimitExceeded in the middle of a handler, in each kind of pool."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from opsqueue.exceptions import SoftTimeLimitExceeded
from opsqueue_worker.pool import soft_limit


def test_it_ends_a_blocking_call_on_the_main_thread() -> None:
    """It uses a signal."""
    with (
        pytest.raises(SoftTimeLimitExceeded, match=r"soft_time_limit of 0\.05 s"),
        soft_limit.on_main_thread(0.05),
    ):
        threading.Event().wait(20)


def test_it_ends_a_loop_on_any_thread() -> None:
    """It uses an exception that is set from outside."""
    end = time.monotonic() + 20

    def handle() -> None:
        with soft_limit.on_this_thread(0.05):
            while time.monotonic() < end:
                pass

    with pytest.raises(SoftTimeLimitExceeded, match=r"soft_time_limit of 0\.05 s"):
        handle()


def test_it_cancels_a_task_on_the_loop() -> None:
    """The handler gets a cancellation, and the worker reports the limit."""
    seen = []

    async def handle() -> None:
        async with soft_limit.on_the_loop(0.05):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    with pytest.raises(SoftTimeLimitExceeded):
        asyncio.run(handle())

    assert seen == ["cancelled"]


def test_a_handlers_own_timeout_is_its_own() -> None:
    """It does not count as the limit."""

    async def handle() -> None:
        async with soft_limit.on_the_loop(20):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        asyncio.run(handle())


@pytest.mark.parametrize("limited", [soft_limit.on_main_thread, soft_limit.on_this_thread])
def test_a_handler_in_time_is_left_alone(
    limited: Callable[[float], AbstractContextManager[None]],
) -> None:
    """Nothing is raised in it or after it."""
    for _ in range(50):
        with limited(0.5):
            pass

    threading.Event().wait(0.6)
