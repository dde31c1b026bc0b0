"""`python -m opsqueue_api` is `opsqueue-api`."""

from opsqueue_api import main

main()
