"""JSON lines: operations read one by one, results written so that half a file is never seen."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, NoReturn

from opsqueue.exceptions import InvalidArgumentError

STANDARD: Final = Path("-")
_BOM: Final = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS: Final = 60


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open a file of lines; `-` is standard input.

    Raises:
        InvalidArgumentError: it can't be opened.
    """
    if file == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as exc:
        message = f"can't read {file}: {exc.strerror}"
        raise InvalidArgumentError(message) from exc
    with stream:
        yield stream


def operations_of(stream: BinaryIO, file: Path) -> Iterator[Any]:
    """Yield the value of each line, with memory for one.

    Raises:
        InvalidArgumentError: a line is no JSON, or empty; names file, line and column.
    """
    name = "standard input" if file == STANDARD else str(file)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    for number, raw in enumerate(_lines_of(stream, name), start=1):
        line = raw.removeprefix(_BOM) if number == 1 else raw
        try:
            text = line.decode().strip(" \t\r\n")
            if not text:
                _refuse(name, number, 1, "the line is empty; each is one JSON value", text)
            yield decoder.decode(text)
        except UnicodeDecodeError as exc:
            _refuse(name, number, exc.start + 1, "this byte is no UTF-8", "")
        except json.JSONDecodeError as exc:
            _refuse(name, number, _column(line, exc.pos), exc.msg, text)
        except (ValueError, RecursionError) as exc:
            _refuse(name, number, 1, str(exc), text)


def _column(line: bytes, position: int) -> int:
    """Count the white space in front, which was stripped before parsing."""
    return len(line) - len(line.lstrip(b" \t\r\n")) + position + 1


def _lines_of(stream: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        yield from stream
    except OSError as exc:
        message = f"can't read {name}: {exc.strerror or exc}; nothing was handed in"
        raise InvalidArgumentError(message) from exc


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _refuse(name: str, line: int, column: int, why: str, text: str) -> NoReturn:
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
    message = f"{name}, line {line:,}, column {column:,}: {why}; nothing was handed in"
    raise InvalidArgumentError(f"{message}\n  {shown}" if shown else message) from None


def check_writable(file: Path) -> None:
    """Find out before hours of work that nothing could be written.

    Raises:
        InvalidArgumentError: says why.
    """
    if file == STANDARD:
        return
    if file.is_dir():
        message = f"can't write {file}: it is a folder"
        raise InvalidArgumentError(message)
    place = file if file.exists() and not file.is_file() else file.absolute().parent
    if not os.access(place, os.W_OK):
        why = "no permission" if place.exists() else f"there is no folder {place}"
        message = f"can't write {file}: {why}"
        raise InvalidArgumentError(message)


@contextmanager
def replaced(file: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears when it is whole; `-` is standard output, as pipes are, at once.

    Raises:
        InvalidArgumentError: it can't be written.
    """
    if file == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    is_plain = file.is_file() or not file.exists()
    # Beside the file a link names, so that the link stays.
    target = file.resolve() if is_plain else file
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part") if is_plain else target
    try:
        try:
            with unfinished.open("wb") as stream:
                yield stream
            if is_plain:
                unfinished.replace(target)
        except OSError as exc:
            message = f"can't write {file}: {exc.strerror or exc}"
            raise InvalidArgumentError(message) from exc
    finally:
        if is_plain:
            unfinished.unlink(missing_ok=True)
