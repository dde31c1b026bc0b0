"""Faults that `local` injects, and what it finds out about handlers."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import InvalidArgumentError, SubmissionFailedError
from opsqueue.handlers.app import Handler
from opsqueue.handlers.execute import Fetched
from opsqueue.model.chunk import OperationFailed
from opsqueue.model.submission import SubmissionId
from opsqueue.testing import Faults, local
from opsqueue.testing.faults import Fault, RepeatedOperation

ALL: dict[str, Any] = {"kill": 0.3, "expire": 0.2, "store_errors": 0.2}


def add_one(number: int) -> int:
    return number + 1


async def add_one_later(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1


def begin_adding(number: int) -> Any:
    return add_one_later(number)


@pytest.fixture
def app() -> Opsqueue:
    app = Opsqueue()
    app.operation_handler("plain")(add_one)
    app.operation_handler("threads", concurrency=3)(add_one)
    app.operation_handler("async", concurrency=3)(add_one_later)
    app.operation_handler("hidden")(begin_adding)
    app.chunk_handler("chunks")(lambda numbers, chunk: [n + 1 for n in numbers if chunk.attempt])
    return app


@pytest.mark.parametrize("queue", ["plain", "threads", "async", "hidden", "chunks"])
def test_results_are_complete_whatever_happens(app: Opsqueue, queue: str) -> None:
    """Every kind of fault occurs, and the report counts what was repeated."""
    faults = Faults(seed=3, **ALL)

    with local(app, faults=faults) as opsqueue:
        results = list(opsqueue.run_submission(queue, range(120), chunk_size=2))

    assert list(range(1, 121)) == results
    assert {"kill", "expire", "store_error"} == {name.split()[0] for name in faults.report.injected}
    repeated = faults.report.repeated
    assert repeated
    assert faults.report.operations_called == 120 + sum(one.times - 1 for one in repeated)
    assert {one.operation + 1 for one in repeated} >= {
        result for one in repeated for result in one.results
    }


def test_the_same_seed_injects_the_same_faults(app: Opsqueue) -> None:
    """Whenever it runs, and also if one object is used twice; another seed injects others."""
    reports = []
    again = Faults(seed=5, **ALL)
    for faults in (again, again, Faults(seed=5, **ALL), Faults(seed=6, **ALL)):
        with local(app, faults=faults) as opsqueue:
            for queue in ("plain", "chunks"):
                list(opsqueue.run_submission(queue, range(60), chunk_size=3))
        reports.append(str(faults.report))

    assert reports[0] == reports[1] == reports[2] != reports[3]


@pytest.mark.parametrize("what", ["kill", "expire", "store_errors"])
def test_a_fault_at_every_attempt_ends_all_the_same(app: Opsqueue, what: str) -> None:
    """No fault uses the last attempt, so that the submission completes."""
    shares: dict[str, Any] = {what: 1.0}
    faults = Faults(seed=1, **shares)

    with local(app, faults=faults) as opsqueue:
        results = list(opsqueue.run_submission("plain", [1, 2, 3], chunk_size=1, max_attempts=4))

    assert [2, 3, 4] == results
    assert faults.report.injected.total() >= 3


def test_no_fault_is_injected_without_a_probability(app: Opsqueue) -> None:
    """The report still counts calls, and nothing was repeated."""
    faults = Faults(seed=1)

    with local(app, faults=faults) as opsqueue:
        list(opsqueue.run_submission("plain", range(6), chunk_size=2))

    assert (Counter(), 6) == (faults.report.injected, faults.report.operations_called)
    faults.report.assert_not_repeated()


class OneFault(Faults):
    """Injects a certain fault into the first attempt, and none after it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._left = [fault]

    def choose(self, fetched: Fetched, handler: Handler) -> Fault | None:
        super().choose(fetched, handler)
        return self._left.pop() if self._left else None


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (Fault("kill", "before"), 1),
        (Fault("kill", "in", 1), 2),
        (Fault("kill", "after"), 1),
        (Fault("expire", "before"), 1),
        (Fault("expire", "in"), 2),
        (Fault("expire", "after"), 1),
        (Fault("store_error", "before"), 1),
        (Fault("store_error", "in"), 2),
    ],
)
def test_a_stored_output_is_not_computed_again(app: Opsqueue, fault: Fault, calls: int) -> None:
    """A fault before the handler, or behind the storing of its output, repeats no call."""
    faults = OneFault(fault)

    with local(app, faults=faults) as opsqueue:
        results = list(opsqueue.run_submission("chunks", [1, 2], chunk_size=2))

    assert [2, 3] == results
    assert calls * 2 == faults.report.operations_called
    assert len(faults.report.repeated) == (2 if calls == 2 else 0)


def test_a_handler_whose_calls_differ_is_found() -> None:
    """The error says which operation returned what, and with which faults it happens again."""
    app, numbers = Opsqueue(), iter(range(1_000))
    app.operation_handler("tickets")(lambda _: next(numbers))
    faults = Faults(seed=2, kill=0.5)

    with (
        pytest.raises(AssertionError, match=r"not idempotent:\n  queue 'tickets', sub.*") as caught,
        local(app, faults=faults) as opsqueue,
    ):
        list(opsqueue.run_submission("tickets", ["a", "b", "c", "d"] * 10, chunk_size=2))

    assert "Faults(seed=2, kill=0.5, " in str(caught.value)
    assert "results_may_differ=True" in str(caught.value)
    first = faults.report.differing[0]
    assert f"operation {first.index} ({first.operation!r}): called 2 times" in str(caught.value)


class Plain:
    """An object without an equality of its own."""

    def __init__(self, *values: object) -> None:
        self.values = values


@pytest.mark.parametrize(
    "make",
    [
        partial(ValueError, "x"),
        partial(Plain, 1, [2], {"a": 3}),
        lambda: [Plain(), {"a": Plain(float("nan"))}],
    ],
)
def test_results_are_compared_by_content(make: Callable[[], object]) -> None:
    """Also those that are equal only to themselves."""
    app = Opsqueue()
    app.chunk_handler("q", on_error="collect", allow_pickle=True)(
        lambda given: [make()] * len(given)
    )
    faults = Faults(seed=2, kill=0.5)

    with local(app, faults=faults) as opsqueue:
        list(
            opsqueue.producer("q").run_submission(
                range(20), chunk_size=2, errors="skip", serialization_format=pickle
            )
        )

    assert faults.report.repeated


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ValueError("x"), ValueError("y")),
        (ValueError("x"), TypeError("x")),
        (Plain(1), Plain(2)),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
    ],
)
def test_other_contents_differ(one: object, other: object) -> None:
    repeated = RepeatedOperation("q", SubmissionId(1), 0, None, results=[one, other])

    assert repeated.has_differing_results


def test_a_handler_that_returns_one_growing_list_is_found() -> None:
    """Its earlier result is kept as it was."""
    app = Opsqueue()
    seen: list[int] = []
    app.operation_handler("q")(lambda number: seen.append(number) or seen)  # type: ignore[func-returns-value]

    with (
        pytest.raises(AssertionError, match="not idempotent"),
        local(app, faults=Faults(seed=2, kill=0.5)) as opsqueue,
    ):
        list(opsqueue.run_submission("q", range(10), chunk_size=2))


def test_a_handler_whose_results_may_differ_is_accepted() -> None:
    """Results may contain times or random values."""
    app, numbers = Opsqueue(), iter(range(1_000))
    app.operation_handler("tickets")(lambda _: next(numbers))
    faults = Faults(seed=2, kill=0.5, results_may_differ=True)

    with local(app, faults=faults) as opsqueue:
        list(opsqueue.run_submission("tickets", range(40), chunk_size=2))

    assert faults.report.differing


def test_what_a_handler_does_elsewhere_can_be_checked() -> None:
    """By its own fake, or by the report, for handlers that must not be repeated at all."""
    app = Opsqueue()
    sent: list[int] = []
    app.operation_handler("mails")(sent.append)
    faults = Faults(seed=2, kill=0.5)

    with local(app, faults=faults) as opsqueue:
        list(opsqueue.run_submission("mails", range(40), chunk_size=2))

    twice = {number for number, times in Counter(sent).items() if times > 1}
    assert twice == {one.operation for one in faults.report.repeated}
    with pytest.raises(AssertionError, match=f"{len(twice)} operations were called more than once"):
        faults.report.assert_not_repeated()


def test_a_test_that_fails_is_not_hidden_by_the_check() -> None:
    """The error of the test itself comes first."""
    app, numbers = Opsqueue(), iter(range(1_000))
    app.operation_handler("tickets")(lambda _: next(numbers))

    with pytest.raises(KeyError), local(app, faults=Faults(seed=2, kill=0.5)) as opsqueue:
        raise KeyError(list(opsqueue.run_submission("tickets", range(40), chunk_size=2)))


def test_work_that_is_left_is_finished_and_checked(app: Opsqueue) -> None:
    """A submission that the test did not wait for is complete at the end, too."""
    with local(app, faults=Faults(seed=3, **ALL)) as opsqueue:
        producer = opsqueue.producer("plain")
        id_ = producer.insert_submission(range(10), chunk_size=2)
        queue = opsqueue.queue("plain")
        opsqueue.check()

        assert queue.get_submission(id_).chunks_done == 5


@pytest.mark.parametrize("function", [add_one, add_one_later])
def test_handlers_fail_as_without_faults(function: Callable[..., Any]) -> None:
    """With their own errors and names; hooks see operations as they are, and no deaths."""
    app = Opsqueue()
    seen: list[Any] = []
    app.operation_handler("collecting", on_error="collect")(function)
    app.operation_handler("failing")(function)
    app.on_operation_error(lambda *given: seen.append(given[2:]))
    app.on_chunk_failure(lambda error, _: seen.append(type(error)))

    with local(app, faults=Faults(seed=4, **ALL)) as opsqueue:
        results = list(opsqueue.run_submission("collecting", [1, "2"], errors="yield"))
        with pytest.raises(SubmissionFailedError) as failed:
            opsqueue.run_submission("failing", ["2"], max_attempts=2)

    assert 2 == results[0]
    assert isinstance(results[1], OperationFailed)
    assert "TypeError" == results[1].type
    assert results[1].traceback.splitlines()[1].endswith(f"in {function.__name__}")
    assert isinstance(failed.value.__cause__, TypeError)
    assert {(1, "2"), TypeError} == set(seen)


def test_a_handler_gets_its_chunk_as_without_faults() -> None:
    """And is not given it where it does not ask."""
    app = Opsqueue()

    @app.operation_handler("q")
    def attempt(_: int, chunk: Chunk) -> str:
        return chunk.queue

    with local(app, faults=Faults(seed=4, **ALL)) as opsqueue:
        assert ["q"] * 4 == list(opsqueue.run_submission("q", range(4), chunk_size=2))


@pytest.mark.parametrize("shares", [{"kill": -0.1}, {"expire": 1.1}, {"kill": 0.6, "expire": 0.6}])
def test_impossible_probabilities_are_refused(shares: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="give probabilities from 0 to 1"):
        Faults(**shares)
