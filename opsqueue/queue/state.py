"""The state machine as data: each transition's source, target and condition.

ARCHITECTURE.md's table is printed from here (`python -m opsqueue.queue.state`). A test checks that
this table, the first line of each script in `lua/` and the methods of `Queue` agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ChunkState(StrEnum):
    """State of a chunk. It is in exactly one; a retry of the submission only keeps COMPLETED."""

    READY = "ready"
    """It is at or above the cursor, or in redo, until it is reserved."""
    DELAYED = "delayed"
    """It waits for its back-off; the first reserve after that instant frees it."""
    RESERVED = "reserved"
    """A worker holds it. Ends with a report, by reclaim (worker dead) or by expiry (it hangs)."""
    COMPLETED = "completed"
    """Its bit is set and its output is stored. This state is final."""
    FAILED = "failed"
    """Its last attempt failed, and so did the submission. A retry of the submission frees it."""
    DROPPED = "dropped"
    """It was unfinished when its submission ended. A retry of the submission frees it."""
    LOST = "lost"
    """It is in none of these states, because Redis lost its reservation. A repair frees it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One script that changes states."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    guard: str

    @property
    def arrow(self) -> str:
        """The first line of its script: `reserved -> delayed or ready or failed`."""
        return f"{' or '.join(self.sources)} -> {' or '.join(self.targets)}".strip()


TRANSITIONS: Final = (
    Transition(
        "insert_submission",
        (),
        ("ready",),
        "the prefix is `QUEUE/` and 32 hexadecimal digits, and no submission has it; with a known "
        "idempotency key it returns the first id and changes nothing, and a different request is "
        "refused; without chunks it completes at once",
    ),
    Transition(
        "restore_submission",
        (),
        ("ready", "completed"),
        "no submission has the prefix; the chunks named are done; if all are, it completes at "
        "once; beyond max_failed_operations the submission fails",
    ),
    Transition(
        "reserve_chunks",
        ("ready",),
        ("reserved",),
        "the queue is not paused; the strategy chooses the submission again for each chunk",
    ),
    Transition(
        "complete_chunks",
        ("reserved",),
        ("completed",),
        "token pending, else lost; submission in progress, else dropped; the last chunk completes "
        "it; beyond max_failed_operations the submission fails, and this chunk is done",
    ),
    Transition(
        "fail_chunk",
        ("reserved",),
        ("delayed", "ready", "failed"),
        "token pending, else lost; submission in progress, else dropped; the last attempt fails it",
    ),
    Transition(
        "release_chunks",
        ("reserved",),
        ("ready", "delayed"),
        "token pending, else lost; submission in progress, else dropped; no attempt used",
    ),
    Transition(
        "heartbeat",
        ("reserved",),
        ("ready",),
        "frees only what is pending for this worker, unknown to it, and old enough",
    ),
    Transition(
        "note_begun",
        ("reserved",),
        ("reserved",),
        "the worker is known; only what it reports as begun uses an attempt if it dies",
    ),
    Transition(
        "reclaim_dead",
        ("reserved",),
        ("ready", "failed"),
        "the worker's own heartbeat timeout has passed; one sweeper at a time; uses an attempt of "
        "those that had begun",
    ),
    Transition(
        "reclaim_expired",
        ("reserved",),
        ("ready", "failed"),
        "the reservation has expired; one sweeper at a time; uses an attempt of those that had "
        "begun",
    ),
    Transition(
        "retire_worker",
        ("reserved",),
        ("ready",),
        "called by the worker itself; no attempt used",
    ),
    Transition(
        "cancel_submission",
        ("in_progress",),
        ("cancelled",),
        "in progress, else the state is returned",
    ),
    Transition(
        "retry_submission",
        ("failed", "cancelled"),
        ("in_progress",),
        "failed or cancelled, else the state is returned; finished chunks stay finished; back-offs "
        "end; max_failed_operations no longer applies; if nothing is left to do, it completes at "
        "once",
    ),
    Transition(
        "update_metadata",
        ("in_progress",),
        ("in_progress",),
        "in progress, else the state is returned",
    ),
    Transition(
        "watch_submission",
        ("in_progress",),
        ("in_progress",),
        "in progress, else the state is returned; its progress is published for that time",
    ),
    Transition("pause_queue", ("running",), ("paused",), "none; repeating it changes nothing"),
    Transition("resume_queue", ("paused",), ("running",), "none; repeating it changes nothing"),
    Transition(
        "set_limit",
        ("running",),
        ("running",),
        "none; applies to every later reserve",
    ),
    Transition(
        "set_defaults",
        ("running",),
        ("running",),
        "the longest back-off is not shorter than the first; applies to submissions that are "
        "inserted later and don't set these options",
    ),
    Transition(
        "set_partitions",
        ("running",),
        ("running",),
        "not fewer than there are",
    ),
    Transition(
        "upgrade_queue",
        ("running",),
        ("running",),
        "none; from then on, programs that can't read the new format refuse the queue",
    ),
    Transition(
        "delete_queue",
        ("running",),
        ("deleted",),
        "no submission, no object pending deletion and no live worker, for an unused queue no "
        "setting and no recent event either; an insert creates it again",
    ),
    Transition(
        "delete_inputs",
        ("completed",),
        ("completed",),
        "requested at the insert; the next call reports what was deleted",
    ),
    Transition(
        "forget_submissions",
        ("completed", "failed", "cancelled"),
        ("forgotten",),
        "ended, retention over, no chunk reserved",
    ),
    Transition(
        "discard_prefixes",
        (),
        ("forgotten",),
        "the prefix has that form, and no submission has it; from then on, an insert with it is "
        "refused",
    ),
    Transition(
        "repair",
        ("lost",),
        ("ready",),
        "below the cursor and neither done, ready, delayed nor reserved; one sweeper at a time",
    ),
)

READINGS: Final = (
    "get_reservations",
    "get_submission",
    "done_chunks",
    "list_submissions",
    "lookup_submissions",
    "inline_contents",
    "lookup_prefix",
    "lookup_key",
    "get_partitions",
    "chunks_with_errors",
    "list_workers",
    "get_workers",
    "list_limits",
    "get_defaults",
    "unknown_prefixes",
    "count_queue",
    "get_durations",
    "count_cells",
    "list_reservations",
    "list_delayed",
    "wake_next",
    "next_due",
)


def as_markdown() -> str:
    """Return the table for ARCHITECTURE.md."""
    rows = ["| transition | from -> to | what must hold |", "|---|---|---|"]
    rows += [f"| `{t.name}` | {t.arrow} | {t.guard} |" for t in TRANSITIONS]
    return "\n".join(rows) + "\n"


def as_diagram() -> str:
    """Return the states of a chunk as a Mermaid diagram for ARCHITECTURE.md."""
    chunk_states = {state.value for state in ChunkState}
    lines = ["stateDiagram-v2", "    [*] --> ready: insert_submission"]
    lines += [
        f"    {source} --> {target}: {t.name}"
        for t in TRANSITIONS
        for source in t.sources
        for target in t.targets
        if source in chunk_states - {"completed", "failed"} and target in chunk_states
    ]
    lines.append("    completed --> [*]")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown())  # noqa: T201 this is what running the module is for
    print(as_diagram())  # noqa: T201 this is what running the module is for
