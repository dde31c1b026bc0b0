"""Which submission a worker takes its next chunk from. Values: the script decides by them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Oldest:
    """The submission inserted first; its chunks in ascending index."""

    def wire(self) -> str:
        """As the script reads it."""
        return "oldest"


@dataclass(frozen=True, slots=True)
class Newest:
    """The submission inserted last."""

    def wire(self) -> str:
        """As the script reads it."""
        return "newest"


@dataclass(frozen=True, slots=True)
class Random:
    """Any submission, each as likely as the others, whatever its size."""

    def wire(self) -> str:
        """As the script reads it."""
        return "random"


AnyStrategy = Oldest | Newest | Random


class Strategy:
    """The strategies by the names that users write: `Strategy.Oldest()`."""

    Oldest = Oldest
    Newest = Newest
    Random = Random
