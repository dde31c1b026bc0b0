"""Checks of values before a script is called: a script that fails half-way is not rolled back."""

from __future__ import annotations

import re
from typing import Final, TypeGuard

from opsqueue.model.errors import InvalidArgumentError

MAX_MS: Final = 3650 * 24 * 3600 * 1000
"""The longest time that a script is given, ten years; Redis can add to it without overflow."""

MAX_LIMIT: Final = 2**31 - 1

INT64: Final = range(-(2**63), 2**63)
"""The range of Redis's integers."""


def checked_whole(name: str, value: int, *, least: int = 0, most: int) -> int:
    """Return the number, or raise InvalidArgumentError if it is not an int or out of bounds."""
    if not is_whole(value) or not least <= value <= most:
        message = f"{name} is {shown(value)}: give a whole number from {least:,} to {most:,}"
        raise InvalidArgumentError(message)
    return value


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether the value is an int; a bool or float that compares equal is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: object) -> TypeGuard[str]:
    """Return whether the value is text that UTF-8 can encode, unlike lone surrogates."""
    if not isinstance(value, str) or value.isascii():
        return isinstance(value, str)
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_host(name: str) -> bool:
    """Return whether a name can be looked up; sockets raise a ValueError for others."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def counted(number: int, noun: str) -> str:
    """Return the number with its noun: `1 chunk`, `2 chunks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tab and line feed
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # directions, separators of lines
    "\ud800-\udfff]"  # lone surrogates
)


def printable(text: str, *, is_line: bool = False) -> str:
    r"""Escape characters that would act on a terminal or reorder text, as `\x1b` or `\u202e`.

    Use it for text from others: failures, names, log lines. Line feeds and tabs are kept, unless
    `is_line` is set.
    """
    text = _UNPRINTABLE.sub(_escaped, text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if is_line else text


def printable_json(document: str) -> str:
    """Escape the same characters in a JSON document, whose value stays the same."""
    # In a document, such characters occur only within strings.
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown(value: object) -> str:
    """Return the `repr` of any value for messages, shortened. Never raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 a user's value can raise anything
        kind = type(value)
        is_number = issubclass(kind, int)
        return "a number of more digits than Python writes" if is_number else f"a {kind.__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"
