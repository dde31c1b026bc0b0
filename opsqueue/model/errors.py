"""The errors of values; `opsqueue.exceptions` contains them along with all others."""

from __future__ import annotations


class OpsqueueError(Exception):
    """The root of the tree."""


class IncorrectUsageError(OpsqueueError, TypeError):
    """The call itself is wrong: repeating it can't help."""


class InvalidArgumentError(IncorrectUsageError):
    """A value is out of range, of the wrong form or too large; nothing was changed."""


class OtherProcessError(IncorrectUsageError):
    """Work begun in one process can't be continued in a forked child of it."""

    def __init__(self, what: str, made_in: int, pid: int, help_: str) -> None:
        """Create the message from the object, both processes, and what to do instead."""
        super().__init__(
            f"{what} belongs to process {made_in}, and can't be used in {pid}, which was forked "
            f"from it: {help_}"
        )


class TryFromIntError(InvalidArgumentError):
    """A number is out of the range of ids."""
