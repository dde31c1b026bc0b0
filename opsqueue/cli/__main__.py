"""`python -m opsqueue.cli` is `opsqueue`."""

from opsqueue.cli import main

main()
