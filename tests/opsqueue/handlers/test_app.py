"""Registering and finding handlers, and the errors if that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opsqueue.exceptions import HandlerError, SubmissionFailedError
from opsqueue.handlers.app import Opsqueue, load_app
from opsqueue.testing import local


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

        @app.operation_handler("numbers")  # type: ignore[type-var]
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


@pytest.mark.parametrize(
    "option",
    [
        {"concurrency": 2.5},
        {"concurrency": "5"},
        {"time_limit": "5"},
        {"time_limit": None},
        {"soft_time_limit": "5"},
    ],
)
def test_an_option_of_another_type_is_refused(option: dict[str, Any]) -> None:
    """When it is registered, and with its name and value."""
    ((name, value),) = option.items()

    with pytest.raises(HandlerError, match=f"^{name}={value!r} of queue 'numbers': give "):
        Opsqueue().operation_handler("numbers", **option)


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


def notebook(cell: str, name: str, **variables: Any) -> Any:
    """Run a cell as a notebook does, and return its variable `f`."""
    variables["__name__"] = "__main__"
    exec(compile(cell, name, "exec"), variables)  # noqa: S102 it is ours
    return variables["f"]


CELL = "@app.operation_handler('q')\ndef f(n): return n * {}\n"
HOOKS = "@app.on_worker_start\n@app.on_worker_stop\ndef f(): seen.append({})\n"


def test_a_cell_that_is_run_again_replaces_its_handler() -> None:
    """Changed or not, and with other options."""
    app = Opsqueue()
    for factor, name in (
        (2, "<ipython-input-1>"),
        (2, "<ipython-input-1>"),
        (3, "/ipykernel_7/8.py"),
    ):
        function = notebook(CELL.format(factor), name, app=app)
    collecting = CELL.replace("'q'", "'q', on_error='collect'")

    assert app.handlers["q"].function is function
    notebook(collecting.format(4), "<ipython-input-4>", app=app)
    assert app.handlers["q"].on_error == "collect"


def test_a_cell_that_is_run_again_replaces_its_hooks() -> None:
    """Otherwise each run would add one."""
    app = Opsqueue()
    seen: list[int] = []
    for number in (1, 2):
        notebook(HOOKS.format(number), f"<ipython-input-{number}>", app=app, seen=seen)

    for hook in (*app.start_hooks, *app.stop_hooks):
        hook()

    assert seen == [2, 2]


def test_another_function_replaces_no_handler_in_a_notebook() -> None:
    """Only its own earlier definition is meant to be replaced."""
    app = Opsqueue()
    notebook(CELL.format(2), "<ipython-input-1>", app=app)

    with pytest.raises(HandlerError, match=r"has the handler __main__\.f"):
        app.operation_handler("q")(abs)
    with pytest.raises(HandlerError, match=r"has the handler __main__\.f"):
        notebook("@app.operation_handler('q')\ndef g(n): return n\n", "<ipython-input-2>", app=app)


def test_two_functions_of_one_name_in_a_program_are_two_handlers(folder: Path) -> None:
    """In a file that is run, or a module: the second one was not meant to replace the first."""
    program = "from opsqueue import Opsqueue\napp = Opsqueue()\n" + CELL.format(2) + CELL.format(3)
    (folder / "twice_tasks.py").write_text(program)

    ended = subprocess.run(
        [sys.executable, "twice_tasks.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert "queue 'q' has the handler __main__.f" in ended.stderr
    with pytest.raises(HandlerError, match=r"has the handler twice_tasks\.f"):
        load_app("twice_tasks:app")


class Reversed:
    """A serialization format of the user's own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value).encode()[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return json.loads(data[::-1])


def app_of(**handlers: Callable[..., Any]) -> Opsqueue:
    app = Opsqueue()
    for queue, function in handlers.items():
        app.operation_handler(queue)(function)
    return app


def test_an_app_has_the_handlers_of_the_apps_that_it_includes() -> None:
    """Also those that are registered later; the included app stays as it is."""
    inner, outer = app_of(numbers=abs), app_of(words=len)
    outer.include(inner)
    inner.operation_handler("texts")(str)

    assert {"numbers", "words", "texts"} == set(outer.handlers)
    assert {"numbers", "texts"} == set(inner.handlers)


def test_an_app_can_be_included_twice() -> None:
    """By itself, and by two apps that a third one includes; its hooks run once."""
    seen: list[str] = []
    shared, left, right, whole = app_of(a=abs), app_of(b=abs), app_of(c=abs), app_of(d=abs)
    shared.on_worker_start(lambda: seen.append("shared"))
    for app in (left, right):
        app.include(shared)
        app.include(shared)
        whole.include(app)

    for hook in whole.start_hooks:
        hook()

    assert {"a", "b", "c", "d"} == set(whole.handlers)
    assert ["shared"] == seen


def test_two_apps_with_a_handler_for_one_queue_cannot_be_one() -> None:
    """The error names both, and nothing is changed, whichever comes first."""
    inner, outer = app_of(a=abs, b=abs), app_of(b=len, c=len)
    says = r"queue 'b' has two handlers, builtins\.len and builtins\.abs"

    with pytest.raises(HandlerError, match=says):
        outer.include(inner)
    assert {"b", "c"} == set(outer.handlers)

    outermost = app_of(d=len)
    outermost.include(outer)
    with pytest.raises(HandlerError, match=r"queue 'd' has two handlers"):
        outer.operation_handler("d")(abs)
    assert {"b", "c"} == set(outer.handlers)
    assert outermost.handlers["d"].function is len


def test_apps_cannot_include_each_other() -> None:
    """Nor themselves; what is no app is refused, too."""
    inner, outer = app_of(a=abs), app_of(b=abs)
    outer.include(inner)

    for app, other in ((inner, outer), (outer, outer)):
        with pytest.raises(HandlerError, match="can't include itself"):
            app.include(other)
    with pytest.raises(HandlerError, match="include\\(\\) got str"):
        outer.include("tasks:app")  # type: ignore[arg-type]


def test_hooks_of_an_included_app_come_along() -> None:
    """Its start hooks run after those of the app around it, its stop hooks before them."""
    seen: list[str] = []
    inner, outer = app_of(a=abs), app_of(b=abs)
    outer.include(inner)
    for name, app in (("inner", inner), ("outer", outer)):
        app.on_worker_start(partial(seen.append, f"{name} starts"))
        app.on_worker_stop(partial(seen.append, f"{name} stops"))

    with local(outer):
        pass

    assert ["outer starts", "inner starts", "inner stops", "outer stops"] == seen


def test_observing_hooks_and_codecs_hold_for_what_an_app_includes() -> None:
    """And not for the app around it."""

    def fail(_: object) -> None:
        raise ValueError

    seen: list[str] = []
    inner, outer = Opsqueue(codecs=[Reversed]), app_of(outer=fail)
    inner.operation_handler("inner")(fail)
    outer.include(inner)
    inner.on_chunk_failure(lambda _, chunk: seen.append(f"inner: {chunk.queue}"))
    outer.on_chunk_failure(lambda _, chunk: seen.append(f"outer: {chunk.queue}"))

    with local(outer) as opsqueue:
        for queue, form in (("inner", Reversed), ("outer", None)):
            with pytest.raises(SubmissionFailedError, match="ValueError"):
                opsqueue.run_submission(queue, [1], max_attempts=1, serialization_format=form)

    assert ["inner: inner", "outer: inner", "outer: outer"] == seen
    assert outer.handlers["outer"].codecs == ()
