"""SoftTimeLimitExceeded in the middle of a handler, in each kind of pool."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from opsqueue.exceptions import SoftTimeLimitExceeded
from opsqueue.handlers import soft_limit


def test_it_ends_a_blocking_call_on_the_main_thread() -> None:
    """It uses a signal."""
    with (
        pytest.raises(SoftTimeLimitExceeded, match=r"soft_time_limit of 0\.05 s"),
        soft_limit.in_plain_code(0.05),
    ):
        threading.Event().wait(20)


def test_it_ends_a_loop_on_any_thread() -> None:
    """It uses an exception that is set from outside."""
    end = time.monotonic() + 20

    def handle() -> None:
        with soft_limit.in_plain_code(0.05):
            while time.monotonic() < end:
                pass

    with ThreadPoolExecutor(1) as thread:
        error = thread.submit(handle).exception(20)

    assert isinstance(error, SoftTimeLimitExceeded)
    assert "soft_time_limit of 0.05 s" in str(error)


def test_it_cancels_a_task_on_the_loop() -> None:
    """The handler gets a cancellation, and the worker reports the limit."""
    seen = []

    async def handle() -> None:
        async with soft_limit.OnLoop(0.05):
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
        async with soft_limit.OnLoop(20):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        asyncio.run(handle())


@pytest.mark.parametrize("is_main", [True, False])
def test_a_handler_in_time_is_left_alone(*, is_main: bool) -> None:
    """Nothing is raised in it or after it."""

    def handle() -> None:
        for _ in range(50):
            with soft_limit.in_plain_code(0.5):
                pass
        threading.Event().wait(0.6)

    if is_main:
        handle()
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(handle).result(20)


def test_an_interrupt_that_has_not_arrived_is_taken_back() -> None:
    """The thread was in a blocking call until the end of the block."""
    entered, fired = threading.Event(), threading.Event()
    interrupt = soft_limit.Interrupt()
    fire = interrupt.fire

    def handle() -> str:
        with suppress(SoftTimeLimitExceeded), interrupt:
            entered.set()
            fired.wait(20)
        return "went on"

    with ThreadPoolExecutor(1) as thread:
        going = thread.submit(handle)
        assert entered.wait(20)
        fire(SoftTimeLimitExceeded)
        fired.set()
        assert going.result(20) == "went on"
        fire(SoftTimeLimitExceeded)
        assert thread.submit(lambda: "next").result(20) == "next"


def test_a_timer_outside_goes_on_behind_the_limit() -> None:
    """A test's runner may have one, and its signal handler."""
    rang = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: rang.set())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with soft_limit.in_plain_code(20):
            pass

        assert rang.wait(20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
