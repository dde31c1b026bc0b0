"""Invariants of the keys in Redis after each step: everything is in one place, as in the model."""

from __future__ import annotations

from opsqueue.model.submission import SubmissionState
from tests.opsqueue.queue_actions import META_KEYS
from tests.opsqueue.queue_model import Model
from tests.opsqueue.queue_snapshot import Snapshot, has_bit
from tests.opsqueue.submission_model import Place, entry_of


def every_chunk_is_in_exactly_one_place(model: Model, now: Snapshot) -> None:
    assert model.subs.keys() == now.submissions.keys()
    for id_, sub in model.subs.items():
        keys = now.submissions[id_]
        is_completed = sub.state is SubmissionState.COMPLETED
        assert not (is_completed and (keys.done or keys.redo))
        cursor = keys.number("cursor")
        reserved = {index for owner, index in now.entries.values() if owner == str(id_)}
        for index, place in enumerate(sub.places):
            places = [
                *([Place.DONE] if keys.is_done(index) or is_completed else []),
                *([Place.REDO] if index in keys.redo else []),
                *([Place.CURSOR] if index >= cursor else []),
                *([Place.DELAYED] if f"{id_}:{index}" in now.delayed else []),
                *([Place.RESERVED] if index in reserved and now.pending is not None else []),
            ]
            assert places == ([] if place is Place.LOST else [place])


def reservations_are_the_pending_entries(model: Model, now: Snapshot) -> None:
    stream = {entry_of(token): entry for token, entry in model.stream.items()}
    assert {t: (str(e.id), e.index) for t, e in stream.items() if e.is_there} == now.entries
    pending = {t: e.worker for t, e in stream.items() if e.is_pending}
    assert now.pending == (pending if model.has_group else None)


def a_lost_chunk_is_found_by_a_repair(model: Model, now: Snapshot) -> None:
    """Under way already, or begun by whoever meets what was lost: nothing, or a pending entry."""
    assert model.is_repairing == now.is_repairing
    pending = {(e.id, e.index) for e in model.stream.values() if e.is_pending}
    lost = {
        (id_, index)
        for id_, sub in model.subs.items()
        for index, place in enumerate(sub.places)
        if place is Place.LOST
    }
    assert now.is_repairing or now.pending is None or lost <= pending


def in_hand_counts_are_right(model: Model, now: Snapshot) -> None:
    assert {key: model.in_hand_by(key) for key in META_KEYS} == now.in_hand
    for id_, sub in model.subs.items():
        assert now.submissions[id_].number("chunks_in_hand") == sub.in_hand
        assert sub.in_hand == sum(p in (Place.RESERVED, Place.LOST) for p in sub.places)


def indexes_and_totals_are_right(model: Model, now: Snapshot) -> None:
    assert [str(id_) for id_ in model.ready()] == now.ready
    assert {f"{id_}:{n}": at for (id_, n), at in model.delayed.items()} == now.delayed
    assert model.workers == now.workers
    assert model.dead_at == now.dead_at
    assert model.begun == now.begun
    waiting = {f"{id_}:{n}" for id_, n in model.suspects if (id_, n) in model.delayed}
    # Those of ended submissions are removed when the next suspect is chosen.
    ended = {str(id_) for id_, sub in model.subs.items() if not sub.is_running}
    assert {name for name in waiting if name.partition(":")[0] not in ended} <= set(now.suspects)
    assert waiting <= set(now.delayed)
    assert now.is_isolating or not (now.suspects or now.hosts)
    assert model.is_paused == now.is_paused
    assert {name: number for name, number in model.stats.items() if number} == now.stats
    for state in SubmissionState:
        ids = sorted(id_ for id_, sub in model.subs.items() if sub.state is state)
        assert [str(id_) for id_ in ids] == now.by_state[state.value]
    running = [sub for sub in model.subs.values() if sub.is_running]
    assert sum(len(s.places) - s.done for s in running) == now.stats.get("backlog_chunks", 0)


def submissions_are_as_they_should_be(model: Model, now: Snapshot) -> None:
    for id_, sub in model.subs.items():
        keys = now.submissions[id_]
        assert sub.state.value == keys.fields["state"]
        assert (sub.done, sub.operations_done, sub.operations_failed) == tuple(
            keys.number(name) for name in ("chunks_done", "operations_done", "operations_failed")
        )
        for index in range(len(sub.places)):
            assert (index in sub.failed_in) == has_bit(keys.errors, index)
        assert sub.meta == keys.meta
        assert (sub.inputs, sub.outputs) == (keys.inputs, keys.outputs)
        assert (None if sub.ended_at is None else str(sub.ended_at)) == keys.fields.get("ended_at")
        assert [str(part) for part in sub.last_failure or (None, None, None)] == [
            str(keys.failure.get(name)) for name in ("chunk_index", "attempt", "type")
        ]
