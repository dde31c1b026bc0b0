"""The threads that run intakes: each when it is offered, one at a time, and none for nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from opsqueue_worker.intake import exchanges
from opsqueue_worker.intake.exchanges import THREADS, Exchanges, Next

WITHIN_S = 10.0


class Work:
    """An intake that does what the test tells it to."""

    def __init__(self, label: str, *, server: str = "") -> None:
        self.label, self.server = label, server
        self.runs = SimpleQueue[float]()
        self.answer: Callable[[], Next] = Next

    def run(self) -> Next:
        self.runs.put(time.monotonic())
        return self.answer()

    def ran(self) -> float:
        return self.runs.get(timeout=WITHIN_S)


@pytest.fixture
def no_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but an offer makes an intake that waits for places run again."""
    monkeypatch.setattr(exchanges, "_ASKS_AGAIN_S", 1_000.0)


def test_an_offer_is_one_run() -> None:
    work, run = Work("q"), Exchanges(lambda: None)

    run.offer(work)
    work.ran()
    run.offer(work)
    work.ran()

    assert work.runs.empty()


def test_an_offer_during_a_run_is_not_lost() -> None:
    work, run = Work("q"), Exchanges(lambda: None)
    may_end = threading.Event()

    def wait() -> Next:
        assert may_end.wait(WITHIN_S)
        return Next()

    work.answer = wait
    run.offer(work)
    work.ran()

    run.offer(work)
    may_end.set()

    work.ran()
    assert work.runs.empty()


def test_it_runs_again_at_its_instant() -> None:
    work, run = Work("q"), Exchanges(lambda: None)
    at = time.monotonic() + 0.05
    work.answer = lambda: Next(at=at) if work.runs.qsize() == 1 else Next()

    run.offer(work)

    work.ran()
    assert work.ran() >= at


def test_one_that_pauses_does_not_run_before_its_time() -> None:
    """Whatever is offered: its server does not answer."""
    work, run = Work("q"), Exchanges(lambda: None)
    answers = iter([Next(at=(at := time.monotonic() + 0.1), is_paused=True), Next(), Next()])
    work.answer = lambda: next(answers)
    run.offer(work)
    work.ran()

    run.offer(work)

    assert work.ran() >= at


@pytest.mark.usefixtures("no_asking")
def test_free_places_are_for_the_one_whose_turn_it_is() -> None:
    first, second = Work("first"), Work("second")
    run = Exchanges(lambda: "second")
    for work in (first, second):
        work.answer = lambda: Next(wants_places=True)
        run.offer(work)
        work.ran()

    while second.runs.empty():
        run.places_are_free()  # until both are known to want some

    assert first.runs.empty()


@pytest.mark.usefixtures("no_asking")
def test_free_places_are_offered_to_all_if_it_is_nobodys_turn() -> None:
    both = Work("first"), Work("second")
    run = Exchanges(lambda: None)
    for work in both:
        work.answer = lambda: Next(wants_places=True)
        run.offer(work)
        work.ran()

    for work in both:
        while work.runs.empty():
            run.places_are_free()


def test_a_server_that_hangs_holds_up_no_other() -> None:
    may_end, healthy = threading.Event(), Work("healthy", server="b")
    run = Exchanges(lambda: None)

    def hang() -> Next:
        may_end.wait(WITHIN_S)
        return Next()

    for number in range(THREADS + 1):
        hanging = Work(f"hangs-{number}", server="a")
        hanging.answer = hang
        run.offer(hanging)

    run.offer(healthy)

    healthy.ran()
    may_end.set()


def test_threads_without_work_end_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_ENDS_AFTER_S", 0.05)
    together = threading.Barrier(THREADS + 1)
    run, before = Exchanges(lambda: None), set(threading.enumerate())

    def meet() -> Next:
        together.wait(WITHIN_S)
        return Next()

    for number in range(THREADS):
        work = Work(f"q-{number}")
        work.answer = meet
        run.offer(work)
    together.wait(WITHIN_S)
    own = [one for one in threading.enumerate() if one not in before and one.name == "exchange"]

    deadline = time.monotonic() + WITHIN_S
    while sum(one.is_alive() for one in own) > 1:
        assert time.monotonic() < deadline
        own[0].join(0.01)
    later = Work("later")
    run.offer(later)
    later.ran()
