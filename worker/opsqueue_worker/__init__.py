"""The worker: reserves chunks, runs handlers in child processes, reports.

The path of a chunk, a module a step: intake (reserves) -> pool (hands to a child) -> child (fetch,
run, save) -> pool -> intake (reports, in the round trip that reserves the next). Beside it:
heartbeat (alive, what is void) and sweeper (takes back from the dead, cleans up).
"""

from opsqueue.model.extras import needing


def main() -> None:
    """Run `opsqueue-worker`."""
    with needing("worker", by="opsqueue-worker"):
        # Only now: what it needs may not be installed.
        from opsqueue_worker.cli import main as command  # noqa: PLC0415 as above
    command(prog_name="opsqueue-worker")
