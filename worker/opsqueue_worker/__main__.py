"""`python -m opsqueue_worker` is `opsqueue-worker`."""

from opsqueue_worker import main

main()
