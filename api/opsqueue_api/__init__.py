"""The HTTP API: `opsqueue-api`."""

from opsqueue.model.extras import needing


def main() -> None:
    """Run `opsqueue-api`."""
    with needing("api", by="opsqueue-api"):
        # Imported here because its dependencies may not be installed.
        from opsqueue_api.cli import main as command  # noqa: PLC0415 as above
    command(prog_name="opsqueue-api")
