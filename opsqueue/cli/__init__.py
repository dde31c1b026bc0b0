"""The `opsqueue` command: a group in `commands`, and modules for its commands."""

from opsqueue.model.extras import needing


def main() -> None:
    """Run `opsqueue`."""
    with needing("cli", by="opsqueue"):
        # Only now: what the command needs may not be installed.
        from opsqueue.cli.commands import main as command  # noqa: PLC0415 as above
    command(prog_name="opsqueue")
