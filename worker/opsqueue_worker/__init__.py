"""The worker: reserves chunks, runs handlers in child processes, reports.

Each step of a chunk's path is a module: intake (reserves) -> pool (sends the chunk to a child) ->
child (fetches the input, runs the handler, saves the output) -> pool -> intake (reports, in the
round trip that reserves the next chunks). The heartbeat runs beside it: it reports that the worker
is alive and learns which reservations were revoked. The sweeper reclaims chunks of dead workers
and cleans up.
"""

from opsqueue.model.extras import needing


def main() -> None:
    """Run `opsqueue-worker`."""
    with needing("worker", by="opsqueue-worker"):
        # Imported here because its dependencies may not be installed.
        from opsqueue_worker.cli import main as command  # noqa: PLC0415 as above
        from opsqueue_worker.ending import end_soon  # noqa: PLC0415 as above
    code: object = 1
    try:
        command(prog_name="opsqueue-worker")
    except SystemExit as exc:
        code = exc.code or 0
        raise
    finally:
        # The app was imported here, too, and may have started threads.
        end_soon(code if isinstance(code, int) else 1)
