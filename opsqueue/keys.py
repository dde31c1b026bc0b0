"""Names of queues and of their keys. Everything below a queue's base is the scripts' own affair."""

from __future__ import annotations

import re
from typing import Final

from opsqueue.exceptions import InvalidArgumentError

_QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
QUEUES_KEY: Final = "oq:queues"
"""A set of the names of all queues that ever had a submission or a worker."""


def check_queue_name(name: str) -> str:
    """Return the name, or raise InvalidArgumentError saying what a name may be."""
    if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
        message = (
            f"queue name {name!r}: at most 100 letters, digits and _.- beginning with a letter, "
            "a digit or _"
        )
        raise InvalidArgumentError(message)
    return name


def base_key(queue: str) -> str:
    """Give what all keys of a queue begin with; the braces make a cluster keep them in one slot."""
    return f"oq:{{{check_queue_name(queue)}}}:"
