"""`python -m opsqueue_worker` is `opsqueue-worker`."""

from opsqueue_worker.cli import main

main(prog_name="opsqueue-worker")
