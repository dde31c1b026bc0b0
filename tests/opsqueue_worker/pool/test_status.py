"""The status of a child's chunks in shared memory, read while it is written."""

from __future__ import annotations

import subprocess
import sys

from opsqueue_worker.pool.status import Status

BUSY = """
import sys
from opsqueue_worker.pool.status import Status
status = Status(int(sys.argv[1]), 2)
for sequence in range(1_000, 2**62):
    status.begin(1, sequence)
    status.end(1)
"""


def test_a_chunk_that_has_just_begun_has_not_run_for_long() -> None:
    """Otherwise its process would be killed although it keeps its time limit."""
    status = Status.new(2)
    begins = [sys.executable, "-c", BUSY, str(status.descriptor)]

    with subprocess.Popen(begins, pass_fds=(status.descriptor,)) as busy:
        try:
            seen: list[tuple[int, float]] = []
            while len(seen) < 20_000 and busy.poll() is None:
                seen += status.running().items()
        finally:
            busy.kill()
    status.close()

    assert len(seen) >= 20_000
    assert [] == [one for one in seen if one[0] < 1_000 or not 0 <= one[1] < 60]
    sequences = [sequence for sequence, _ in seen]
    assert sequences == sorted(sequences)


def test_slots_tell_what_runs_in_each() -> None:
    status = Status.new(2)

    status.begin(1, 7)
    status.begin(0, 8)
    status.end(1)
    status.note_memory()

    assert list(status.running()) == [8]
    assert status.peak_memory_bytes() > 1_000_000
    status.close()
