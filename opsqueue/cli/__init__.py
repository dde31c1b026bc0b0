"""The `opsqueue` command: its group is in `commands`, and each command in a module."""

from opsqueue.model.extras import needing


def main() -> None:
    """Run `opsqueue`."""
    with needing("cli", by="opsqueue"):
        # Imported here since the packages that it needs may not be installed.
        from opsqueue.cli.commands import main as command  # noqa: PLC0415 as above
    command(prog_name="opsqueue")
