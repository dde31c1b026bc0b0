"""The schedule of faults is determined by the seed."""

from __future__ import annotations

from collections import Counter

from tests.chaos import schedule
from tests.chaos.explanations import KINDS
from tests.chaos.injectors import INJECTORS


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert schedule.schedule(7, seconds=30) == schedule.schedule(7, seconds=30)
    assert schedule.schedule(7, seconds=30) != schedule.schedule(8, seconds=30)


def test_every_kind_of_fault_has_an_injector_and_a_rule() -> None:
    assert schedule.KINDS == set(INJECTORS)
    # What producers do, and what befalls the machine, is not planned.
    assert KINDS - schedule.KINDS == {"cancel-and-retry", "machine-stall", "store-slow"}


def test_twenty_seeds_have_every_kind_many_times() -> None:
    planned = Counter(
        plan.kind for seed in range(20) for plan in schedule.schedule(seed, seconds=40)
    )

    assert set(planned) == schedule.KINDS
    assert min(planned.values()) > 10


def test_no_program_is_killed_while_it_is_stopped() -> None:
    """Otherwise one fault would undo the other."""
    for seed in range(20):
        busy: dict[str, float] = {}
        for plan in schedule.schedule(seed, seconds=60):
            if plan.kind.startswith(("kill-", "stop-")):
                assert plan.at_s >= busy.get(plan.target, 0.0)
                busy[plan.target] = plan.at_s + plan.seconds
