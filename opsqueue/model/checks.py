"""Values held to their bounds before a script is called: what fails in one is not rolled back."""

from __future__ import annotations

import re
from typing import Final, TypeGuard

from opsqueue.model.errors import InvalidArgumentError

MAX_MS: Final = 3650 * 24 * 3600 * 1000
"""The longest time that a script is given, ten years: what Redis adds to it still fits."""

MAX_LIMIT: Final = 2**31 - 1

INT64: Final = range(-(2**63), 2**63)
"""What Redis counts with."""


def checked_whole(name: str, value: int, *, least: int = 0, most: int) -> int:
    """Return the number, or raise InvalidArgumentError: no int, or out of bounds."""
    if not is_whole(value) or not least <= value <= most:
        message = f"{name} is {shown(value)}: give a whole number from {least:,} to {most:,}"
        raise InvalidArgumentError(message)
    return value


def is_whole(value: object) -> TypeGuard[int]:
    """Tell an int from what only compares like one."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: object) -> TypeGuard[str]:
    """Tell text that can be written as UTF-8, which lone surrogates can't."""
    if not isinstance(value, str) or value.isascii():
        return isinstance(value, str)
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_host(name: str) -> bool:
    """Tell what a name server can be asked for; sockets raise a ValueError for another."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def counted(number: int, noun: str) -> str:
    """Return `1 chunk`, `2 chunks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # directions, separators of lines
    "\ud800-\udfff]"  # lone surrogates
)


def printable(text: str, *, is_line: bool = False) -> str:
    r"""Escape what would act on a terminal or reorder text, as `\x1b` or `\u202e`.

    For what others wrote: failures, names, lines of logs. Line feeds and tabs stay, unless it is
    to be one line.
    """
    text = _UNPRINTABLE.sub(_escaped, text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if is_line else text


def printable_json(document: str) -> str:
    """Escape the same in a JSON document, which stays the same value."""
    # Within a document such characters are in texts alone.
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown(value: object) -> str:
    """Give any value as messages have it, however long it is."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of more digits than Python writes"
    return text if len(text) <= 80 else f"{text[:80]}…"
