"""Inspect and describe what users' code has raised, without running code of theirs unguarded.

An exception's class may override `__str__`, `__cause__`, `__class__` or any other attribute with
code that raises, exits or returns nonsense. Types are therefore compared by `is_a` rather than
isinstance, which asks for `__class__`, and the interpreter's own fields are read past the class.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

_FIELDS: Final = vars(BaseException)
_TYPE_FIELDS: Final = vars(type)
_NOTES_AT_MOST: Final = 100


def is_a(error: object, *kinds: type[BaseException]) -> bool:
    """Return whether an exception is of one of these types."""
    return issubclass(type(error), kinds)


def frames_of(error: BaseException) -> TracebackType | None:
    """Return its traceback."""
    frames: TracebackType | None = _FIELDS["__traceback__"].__get__(error)
    return frames


def cause_of(error: BaseException) -> BaseException | None:
    """Return the exception that it was raised from."""
    cause: BaseException | None = _FIELDS["__cause__"].__get__(error)
    return cause


def members_of(error: BaseException) -> Sequence[BaseException]:
    """Return the exceptions of a group; another exception has none."""
    if not is_a(error, BaseExceptionGroup):
        return ()
    members: Sequence[BaseException] = vars(BaseExceptionGroup)["exceptions"].__get__(error)
    return members


def related_to(error: BaseException) -> list[BaseException]:
    """Return its cause, its context and, if it is a group, its members."""
    related = [cause_of(error), _FIELDS["__context__"].__get__(error), *members_of(error)]
    return [one for one in related if one is not None]


def name_of(kind: type) -> str:
    """Return a type's own name."""
    name: str = _TYPE_FIELDS["__name__"].__get__(kind)  # the interpreter's text, always a str
    return name


def type_name(kind: type) -> str:
    """Return a type's name with its module, which is left out if it is no text or says nothing."""
    name = _attempted(lambda: _TYPE_FIELDS["__qualname__"].__get__(kind), "its type")
    try:
        module = str.__str__(_TYPE_FIELDS["__module__"].__get__(kind))
    except BaseException:  # noqa: BLE001 it may have been deleted or replaced
        return name
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def text_of(error: BaseException) -> str:
    """Return an exception's message, even if its `__str__` raises, and then its notes."""
    lines = [_attempted(lambda: str(error), "its __str__")]
    try:
        notes = getattr(error, "__notes__", ())
        if issubclass(type(notes), list | tuple):
            lines += [_attempted(lambda: str(note), "a note") for note in notes[:_NOTES_AT_MOST]]  # noqa: B023 called at once
    except BaseException as exc:  # noqa: BLE001 also SystemExit: the chunk must be reported
        lines.append(_said_of("its __notes__", exc))
    return "\n".join(lines)


def traceback_of(error: BaseException) -> str:
    """Return its traceback with causes, without the last lines, which are its type and message.

    If Python can't format it (a SyntaxError with odd details, a cause of the same kind), only the
    frames are returned.
    """

    def whole() -> str:
        formatted = traceback.TracebackException(type(error), error, frames_of(error))
        lines = list(formatted.format())
        if members_of(error):
            return "".join(lines)  # type and message stand above the members
        return "".join(lines[: -len(list(formatted.format_exception_only())) or None])

    def frames() -> str:
        lines = "".join(traceback.format_tb(frames_of(error)))
        return f"Traceback (most recent call last):\n{lines}"

    for describe in (whole, frames):
        try:
            return str.__str__(describe())
        except BaseException as exc:  # noqa: BLE001 see `text_of`
            failed = _said_of("formatting its traceback", exc)
    return failed


def described(error: BaseException) -> str:
    """Return traceback, type and message in Python's format."""
    last = f"{type_name(type(error))}: {text_of(error)}"
    above = traceback_of(error).rstrip()
    return f"{above}\n{last}" if above else last


def _attempted(describe: Callable[[], Any], what: str) -> str:
    try:
        # A plain str: subclasses, such as those of template engines, may not be encodable.
        return str.__str__(describe())
    except BaseException as exc:  # noqa: BLE001 see `text_of`
        return _said_of(what, exc)


def _said_of(what: str, raised: BaseException) -> str:
    said = f"{what} raised {name_of(type(raised))}"
    try:
        text = str.__str__(str(raised))
    except BaseException:  # noqa: BLE001 not again
        return said
    return f"{said}: {text}" if text else said
