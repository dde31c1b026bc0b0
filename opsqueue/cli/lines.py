"""Files of JSON lines: operations are read one by one, results appear as a complete file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from opsqueue.contents.json_lines import JsonLineError, values_of
from opsqueue.exceptions import InvalidArgumentError
from opsqueue.model.checks import printable_json

STANDARD: Final = Path("-")


def json_line(line: bytes) -> bytes:
    """Escape control characters in a line of JSON that others wrote, without changing its value."""
    if not line.isascii() or b"\x7f" in line:
        return printable_json(line.decode()).encode()
    return line


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


def operations_of(stream: BinaryIO, file: Path, *, limit_bytes: int) -> Iterator[Any]:
    """Yield the value of each line, with memory for one line of `limit_bytes`; see `json_lines`.

    Raises:
        InvalidArgumentError: a line is not JSON; the message names file, line and column.
    """
    name = "standard input" if file == STANDARD else str(file)
    try:
        yield from values_of(_lines_of(stream, name, limit_bytes), limit_bytes=limit_bytes)
    except JsonLineError as exc:
        message = f"{name}, {exc}; nothing was submitted"
        raise InvalidArgumentError(f"{message}\n  {exc.text}" if exc.text else message) from None


def _lines_of(stream: BinaryIO, name: str, limit_bytes: int) -> Iterator[bytes]:
    try:
        # The limit, one byte more and the line feed: a longer line is not read to its end.
        while line := stream.readline(limit_bytes + 2):
            yield line
    except OSError as exc:
        message = f"can't read {name}: {exc.strerror or exc}; nothing was submitted"
        raise InvalidArgumentError(message) from exc


def check_writable(file: Path) -> None:
    """Check, before hours of work, that a file can be written.

    Raises:
        InvalidArgumentError: it can't be; the message says why.
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
    """Yield a stream for a file that appears when it is complete.

    `-` is standard output. Standard output and pipes are written to at once.

    Raises:
        InvalidArgumentError: the file can't be written.
    """
    if file == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    is_plain = file.is_file() or not file.exists()
    # Beside the target of a link, so that the link stays.
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
