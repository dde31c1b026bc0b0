"""A worker that is process 1 of its container reaps ended processes that it inherits."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")
PROGRAM = """
import subprocess, sys, time
from opsqueue_worker import orphans
from opsqueue_worker.orphans import Orphans, _ended_children

orphans._LOOK_EVERY_S = 0.0
reaper = Orphans()
# The shell ends at once, and its child becomes that of process 1.
subprocess.run(["/bin/sh", "-c", "(exit 0 & exec sleep 0.05) & exit 0"], check=True)
ours = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
while len(_ended_children()) < 3:
    time.sleep(0.01)
orphans._UNCLAIMED_S = 60.0
reaper.reap()
print(len(_ended_children()), ours.wait(), len(_ended_children()))
orphans._UNCLAIMED_S = 0.0
reaper.reap()
print(len(_ended_children()))
"""


def test_orphans_are_reaped_and_exit_codes_are_not_stolen() -> None:
    """A process that somebody waits for is left to them."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces of processes can't be made here")

    ended = subprocess.run(
        [*UNSHARE, sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.stdout.split("\n")[:2] == ["3 7 2", "0"], ended.stderr
