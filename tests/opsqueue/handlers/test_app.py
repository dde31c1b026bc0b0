"""Registering and finding handlers, and the errors if that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opsqueue.exceptions import HandlerError
from opsqueue.handlers.app import Opsqueue, load_app


def test_a_decorated_function_stays_as_it_is() -> None:
    """It can be called and tested like any other."""
    app = Opsqueue()

    @app.operation_handler("numbers")
    def increment(number: int) -> int:
        return number + 1

    assert increment(1) == 2
    assert app.handlers["numbers"].function is increment


def test_a_queue_has_one_handler() -> None:
    """The error names the existing handler."""
    app = Opsqueue()
    app.operation_handler("numbers")(abs)

    with pytest.raises(HandlerError, match=r"has the handler builtins\.abs"):
        app.chunk_handler("numbers")(sorted)


def test_a_decorator_without_its_queue_says_how_to_write_it() -> None:
    """`@app.operation_handler` without parentheses gets the function instead of a queue."""
    app = Opsqueue()

    with pytest.raises(HandlerError, match=r'with its queue: @app\.operation_handler\("'):
        app.operation_handler(abs)  # type: ignore[arg-type]


def test_a_handler_that_wants_more_than_it_gets_is_refused() -> None:
    """Found when it is decorated, not with the first chunk."""
    app = Opsqueue()

    with pytest.raises(HandlerError, match="takes number, factor"):

        @app.operation_handler("numbers")
        def multiply(number: int, factor: int) -> int:
            return number * factor


@pytest.mark.parametrize("handler", [lambda: 1, lambda *, number: number, lambda chunk: chunk])
def test_a_handler_that_takes_no_operations_is_refused(handler: Callable[..., Any]) -> None:
    with pytest.raises(HandlerError, match="takes no operations"):
        Opsqueue().operation_handler("numbers")(handler)


@pytest.mark.parametrize("seconds", [0, -1, 10**9])
def test_a_time_limit_that_cannot_be_meant_is_refused(seconds: float) -> None:
    """Zero, negative values and years are refused."""
    app = Opsqueue()

    with pytest.raises(HandlerError, match="time_limit"):
        app.operation_handler("numbers", time_limit=seconds)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_app_is_found_in_the_current_folder(folder: Path) -> None:
    """As `opsqueue-worker module:name` names it."""
    (folder / "found_tasks.py").write_text(
        "from opsqueue import Opsqueue\napp = Opsqueue()\napp.operation_handler('q')(abs)\n"
    )

    app = load_app("found_tasks:app")

    assert list(app.handlers) == ["q"]


def test_a_module_that_needs_something_missing_says_what(folder: Path) -> None:
    """The message names the missing module, not found_tasks, which exists."""
    (folder / "needy_tasks.py").write_text("import surely_not_installed\n")

    with pytest.raises(HandlerError, match="needs 'surely_not_installed'"):
        load_app("needy_tasks:app")


def test_a_module_that_raises_says_what_it_raised(folder: Path) -> None:
    """And keeps the exception as the cause."""
    (folder / "raising_tasks.py").write_text("1 / 0\n")

    with pytest.raises(HandlerError, match="ZeroDivisionError: division by zero") as caught:
        load_app("raising_tasks:app")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("wrong_tasks", "give MODULE:NAME"),
        ("wrong_task:app", "no module 'wrong_task'"),
        ("wrong_tasks:ap", "apps found there: wrong_tasks:app"),
        ("wrong_tasks:act", "is a function, not an Opsqueue"),
    ],
)
def test_a_wrong_path_says_what_is_wrong(folder: Path, path: str, says: str) -> None:
    """With what would be right."""
    (folder / "wrong_tasks.py").write_text(
        "from opsqueue import Opsqueue\napp = Opsqueue()\n"
        "@app.operation_handler('q')\ndef act(number): return number\n"
    )

    with pytest.raises(HandlerError, match=says):
        load_app(path)


def test_a_module_that_raises_says_where(folder: Path) -> None:
    """The message has the innermost line of the user's code."""
    (folder / "placed_tasks.py").write_text("import json\n\njson.loads('no')\n")

    with pytest.raises(HandlerError, match=r"\(file .*placed_tasks\.py, line 3\)"):
        load_app("placed_tasks:app")


def test_a_module_that_exits_is_refused(folder: Path) -> None:
    """A script whose last line calls sys.exit() would end the worker without a word."""
    (folder / "leaving_tasks.py").write_text("import sys\nsys.exit(0)\n")

    with pytest.raises(HandlerError, match="importing leaving_tasks raised SystemExit"):
        load_app("leaving_tasks:app")


def test_an_app_without_handlers_is_refused(folder: Path) -> None:
    """Its worker would wait forever."""
    (folder / "empty_tasks.py").write_text("from opsqueue import Opsqueue\napp = Opsqueue()\n")

    with pytest.raises(HandlerError, match="has no handlers"):
        load_app("empty_tasks:app")


async def asynchronous(*_: object) -> None: ...


def generator(*_: object) -> Iterator[None]:
    yield


async def asynchronous_generator(*_: object) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("kind", ["chunk_handler", "operation_handler"])
@pytest.mark.parametrize("function", [generator, asynchronous_generator, partial(generator, 1)])
def test_a_handler_that_is_a_generator_is_refused(kind: str, function: Callable[..., Any]) -> None:
    """Calling it runs none of its code."""
    app = Opsqueue()

    with pytest.raises(HandlerError, match=r"generator.* has a `yield`.* return the result"):
        getattr(app, kind)("numbers")(function)
    assert app.handlers == {}


@pytest.mark.parametrize("kind", ["on_worker_start", "on_worker_stop"])
@pytest.mark.parametrize("function", [asynchronous, generator, asynchronous_generator])
def test_a_hook_whose_call_runs_nothing_is_refused(kind: str, function: Callable[..., Any]) -> None:
    """It would seem to succeed at each worker's start."""
    app = Opsqueue()

    with pytest.raises(HandlerError, match=f"hook {function.__name__} .*would run nothing"):
        getattr(app, kind)(function)
    assert app.start_hooks == app.stop_hooks == []
