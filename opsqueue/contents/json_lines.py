r"""JSON lines (NDJSON): one value a line, by the same rules on the command line and over HTTP.

| in the text                                | treatment                                     |
|--------------------------------------------|-----------------------------------------------|
| a byte order mark at the very beginning    | skipped                                       |
| a blank line (spaces, tabs)                | skipped                                       |
| `\r\n`, a last line without an end          | like `\n`; no other character ends a line      |
| a line longer than the limit               | refused                                       |
| NaN, Infinity, 1e400                       | refused: JSON has no form for their values    |
| a lone surrogate, invalid UTF-8, UTF-16    | refused: it is not text                       |
| integers of up to 4,300 digits             | exact                                         |
| a key that is repeated in an object        | the last one stays                            |

Pure, no I/O: lines come from an iterator.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from opsqueue.contents.codec import MAX_DEPTH

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""The default size of a whole body of the API. A longer line is mostly an error."""

_BOM: Final = b"\xef\xbb\xbf"
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_WHITE: Final = b" \t\r\n"
_DECODER: Final = msgspec.json.Decoder()
_SHOWN_CHARACTERS: Final = 60

# Possessive, and with an optional end, so that it takes one pass through any text.
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]|[^\s\[\]{},:"]+', re.DOTALL)
_FRACTION: Final = re.compile(r"[.eE]")
_MAX_DIGITS: Final = 4_300
"""The longest integer that Python reads."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONSTANTS: Final = ("NaN", "Infinity", "-Infinity")


class JsonLineError(ValueError):
    """A line is not one JSON value."""

    def __init__(self, line: int, column: int, why: str, text: str = "") -> None:
        """Store the place (from 1, in characters), the reason and the line's beginning."""
        self.line = line
        self.column = column
        self.why = why
        text = "".join(
            one if one.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for one in text[: _SHOWN_CHARACTERS + 1]
        )
        self.text = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        super().__init__(f"line {line:,}, column {column:,}: {why}")


def is_blank(line: bytes, number: int) -> bool:
    """Return whether a line has no value; `number` counts from 1."""
    return not _without_bom(line, number).strip(_WHITE)


def values_of(lines: Iterable[bytes], *, limit_bytes: int = MAX_LINE_BYTES) -> Iterator[Any]:
    """Yield the value of each line that is not blank.

    Args:
        lines: lines that were split at line feeds only, and may still end with them.
        limit_bytes: the limit of a line.

    Raises:
        JsonLineError: a line is too long, or not one JSON value.
    """
    for number, whole in enumerate(lines, 1):
        line = _without_bom(whole, number)
        if len(line) > limit_bytes and len(line.removesuffix(b"\n")) > limit_bytes:
            why = (
                f"the line is longer than the limit (max-line-bytes) of {limit_bytes:,} bytes: "
                "raise it, or store large data in the object store, and put its location into the "
                "operation"
            )
            raise JsonLineError(number, limit_bytes + 1, why)
        if not line.strip(_WHITE):
            continue
        try:
            yield _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise _explained(line, number, exc) from exc


def _without_bom(line: bytes, number: int) -> bytes:
    return line.removeprefix(_BOM) if number == 1 else line


def _explained(line: bytes, number: int, exc: Exception) -> JsonLineError:
    """Return the place and the reason of a line's error, which the fast decoder lacks."""
    if line.startswith(_UTF_16):
        return JsonLineError(number, 1, "this is UTF-16: save it as UTF-8")
    try:
        text = line.decode()
    except UnicodeDecodeError as found:
        column = len(line[: found.start].decode()) + 1
        return JsonLineError(number, column, "this byte is not UTF-8")
    text = text.rstrip("\r\n")
    position, why = _diagnosed(text, exc)
    return JsonLineError(number, position + 1, why, text.strip(" \t"))


def _diagnosed(text: str, exc: Exception) -> tuple[int, str]:
    if isinstance(exc, RecursionError):
        return _too_deep(text)
    try:
        json.loads(text)
    except json.JSONDecodeError as found:
        return found.pos, _reason(text[found.pos : found.pos + 1], found.msg)
    except (ValueError, RecursionError):
        pass  # an integer of more digits than Python reads
    # Find what Python's decoder accepts although it is not JSON.
    for token in _TOKEN.finditer(text):
        if why := _refusal_of(token[0]):
            return token.start(), why
    return 0, str(exc)


def _reason(character: str, message: str) -> str:
    match character, message:
        case "\ufeff", _:
            return "a byte order mark: only the first line may begin with one"
        case "\x00", _:
            return "a NUL character: if this is UTF-16, save it as UTF-8"
        case _, "Extra data":
            return "Extra data: each line is one JSON value"
    return message.removesuffix(" at")


def _too_deep(text: str) -> tuple[int, str]:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > MAX_DEPTH:
            return token.start(), f"it is nested deeper than the limit of {MAX_DEPTH} levels"
    return 0, "it is nested too deeply"


def _refusal_of(token: str) -> str:
    """Return why a string, a number or a constant is refused; '' if it is not."""
    if token.startswith('"'):
        has_lone = _SURROGATE.search(json.loads(token))
        return "a lone surrogate in this string, which is not a character" if has_lone else ""
    if token in _CONSTANTS:
        return f"{token} is not JSON: give null or a string instead"
    if token[0] not in "-0123456789" or not _is_beyond(token):
        return ""
    shown = token if len(token) <= _SHOWN_CHARACTERS else f"{token[:_SHOWN_CHARACTERS]}…"
    return f"{shown} is beyond the range of numbers"


def _is_beyond(number: str) -> bool:
    if _FRACTION.search(number):
        return math.isinf(float(number))
    return len(number.lstrip("-")) > _MAX_DIGITS
