"""The state machine as data: which transition moves what from where to where, and when it may.

ARCHITECTURE.md's table is printed from here (`python -m opsqueue.queue.state`). A test holds this
table, the first line of each script in `lua/` and the methods of `Queue` equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ChunkState(StrEnum):
    """Where a chunk is. In exactly one of these at a time; none but done outlives a retry."""

    READY = "ready"
    """At or above the cursor, or in redo. Reserving moves it on."""
    DELAYED = "delayed"
    """Waits for its back-off; the first reserve after that instant frees it."""
    RESERVED = "reserved"
    """In a worker's hands. Ends by a report, by reclaim (worker dead) or by expiry (it hangs)."""
    COMPLETED = "completed"
    """Its bit is set, its output is stored. Final."""
    FAILED = "failed"
    """Its last attempt failed, and the submission with it. A retry of the submission frees it."""
    DROPPED = "dropped"
    """Unfinished when its submission ended. A retry of the submission frees it."""
    LOST = "lost"
    """None of these, because Redis lost its reservation. Repair frees it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One script."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    guard: str

    @property
    def arrow(self) -> str:
        """As the first line of its script has it: `reserved -> delayed or ready or failed`."""
        return f"{' or '.join(self.sources)} -> {' or '.join(self.targets)}".strip()


TRANSITIONS: Final = (
    Transition(
        "insert_submission",
        (),
        ("ready",),
        "the prefix is `QUEUE/` and 32 hexadecimal digits, and no submission has it; "
        "same idempotency key: the first one's id, nothing changes, refused where it asks for "
        "something else; no chunks: completed at once",
    ),
    Transition(
        "restore_submission",
        (),
        ("ready", "completed"),
        "no submission has the prefix; the chunks named are done, all of them: completed at once; "
        "past max_failed_operations the submission fails",
    ),
    Transition(
        "reserve_chunks",
        ("ready",),
        ("reserved",),
        "queue not paused; the strategy picks the submission anew for each chunk",
    ),
    Transition(
        "complete_chunks",
        ("reserved",),
        ("completed",),
        "token pending, else lost; submission in progress, else dropped; the last bit completes "
        "it; past max_failed_operations the submission fails, this chunk being done",
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
        "reclaim_dead",
        ("reserved",),
        ("ready", "failed"),
        "the worker has been silent for as long as it said; one sweeper at a time; uses an attempt",
    ),
    Transition(
        "reclaim_expired",
        ("reserved",),
        ("ready", "failed"),
        "the reservation's time is over; one sweeper at a time; uses an attempt",
    ),
    Transition(
        "retire_worker",
        ("reserved",),
        ("ready",),
        "the worker says so itself; no attempt used",
    ),
    Transition(
        "cancel_submission",
        ("in_progress",),
        ("cancelled",),
        "in progress, else the state is answered",
    ),
    Transition(
        "retry_submission",
        ("failed", "cancelled"),
        ("in_progress",),
        "failed or cancelled, else the state is answered; finished chunks stay finished; "
        "back-offs end; max_failed_operations holds no longer; nothing left to do: completed at "
        "once",
    ),
    Transition(
        "update_metadata",
        ("in_progress",),
        ("in_progress",),
        "in progress, else the state is answered",
    ),
    Transition(
        "watch_submission",
        ("in_progress",),
        ("in_progress",),
        "in progress, else the state is answered; for that long its progress is told",
    ),
    Transition("pause_queue", ("running",), ("paused",), "none; twice is once"),
    Transition("resume_queue", ("paused",), ("running",), "none; twice is once"),
    Transition(
        "set_limit",
        ("running",),
        ("running",),
        "none; holds for every reserve from then on",
    ),
    Transition(
        "set_defaults",
        ("running",),
        ("running",),
        "the longest back-off is at least the first; holds for submissions that are inserted from "
        "then on and do not say it themselves",
    ),
    Transition(
        "set_partitions",
        ("running",),
        ("running",),
        "as many as there are, or more",
    ),
    Transition(
        "upgrade_queue",
        ("running",),
        ("running",),
        "none; programs that can't read the new format refuse the queue from then on",
    ),
    Transition(
        "delete_queue",
        ("running",),
        ("deleted",),
        "no submission, no object to be deleted and no live worker; an insert begins it anew",
    ),
    Transition(
        "delete_inputs",
        ("completed",),
        ("completed",),
        "asked for at the insert; what was deleted is said by the next call",
    ),
    Transition(
        "forget_submissions",
        ("completed", "failed", "cancelled"),
        ("forgotten",),
        "ended, retention over, no chunk in hand",
    ),
    Transition(
        "discard_prefixes",
        (),
        ("forgotten",),
        "the prefix is of that form, and no submission has it; an insert with it is refused from "
        "then on",
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
    "list_limits",
    "get_defaults",
    "unknown_prefixes",
    "count_queue",
    "get_durations",
    "count_cells",
    "list_reservations",
    "list_delayed",
)


def as_markdown() -> str:
    """Print the table for ARCHITECTURE.md."""
    rows = ["| transition | from -> to | what must hold |", "|---|---|---|"]
    rows += [f"| `{t.name}` | {t.arrow} | {t.guard} |" for t in TRANSITIONS]
    return "\n".join(rows) + "\n"


def as_diagram() -> str:
    """Print the life of a chunk as a Mermaid state diagram for ARCHITECTURE.md."""
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
