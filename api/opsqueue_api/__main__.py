"""`python -m opsqueue_api` is `opsqueue-api`."""

from opsqueue_api.cli import main

main(prog_name="opsqueue-api")
