"""Which callables are handlers, by which names, and which are refused when they are registered."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from opsqueue import Chunk, Opsqueue
from opsqueue.exceptions import HandlerError, SubmissionFailedError
from opsqueue.handlers.callables import name_of
from opsqueue.model.chunk import OperationFailed
from opsqueue.testing import local

if TYPE_CHECKING:
    from decimal import Decimal

HERE = __name__


def scale(number: int, by: int) -> int:
    return number * by


async def scale_later(number: int, by: int) -> int:
    await asyncio.sleep(0)
    return number * by


async def twice_later(number: int) -> int:
    return await scale_later(number, 2)


def begin_twice(number: int) -> Any:
    return twice_later(number)


class Doubler:
    def __call__(self, number: int) -> int:
        return number * 2

    def method(self, number: int) -> int:
        return number * 2

    async def later(self, number: int) -> int:
        return await twice_later(number)

    @classmethod
    def of_class(cls, number: int) -> int:
        return number * 2

    @staticmethod
    def static(number: int) -> int:
        return number * 2

    def no_operation(self) -> int:
        return 2


class LaterDoubler:
    async def __call__(self, number: int, chunk: Chunk) -> int:
        return await twice_later(number) + chunk.retries


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function without regard to `async def`, as many decorators do."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def with_factor(function: Callable[..., Any]) -> Callable[[int], Any]:
    """Supply an argument; the signature that is shown is still that of the function."""

    @functools.wraps(function)
    def wrapper(number: int) -> Any:
        return function(number, 2)

    return wrapper


class Hidden:
    """An object that hides what it is."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self, number: int) -> int:
        return number * 2


double = MagicMock(side_effect=lambda number: number * 2)
double_later = AsyncMock(side_effect=lambda number: number * 2)

CALLABLES = {
    "a-partial": (functools.partial(scale, by=2), f"{HERE}.scale"),
    "a-partial-by-position": (functools.partial(scale, 2), f"{HERE}.scale"),
    "a-partial-of-an-async-function": (functools.partial(scale_later, by=2), f"{HERE}.scale_later"),
    "a-partial-of-an-object": (functools.partial(Doubler()), f"{HERE}.Doubler"),
    "an-object": (Doubler(), f"{HERE}.Doubler"),
    "an-object-with-an-async-call": (LaterDoubler(), f"{HERE}.LaterDoubler"),
    "an-object-that-hides-what-it-is": (Hidden(), f"{HERE}.Hidden"),
    "a-method": (Doubler().method, f"{HERE}.Doubler.method"),
    "an-async-method": (Doubler().later, f"{HERE}.Doubler.later"),
    "a-classs-method": (Doubler.of_class, f"{HERE}.Doubler.of_class"),
    "a-static-method": (Doubler.static, f"{HERE}.Doubler.static"),
    "a-static-method-in-its-class": (vars(Doubler)["static"], f"{HERE}.Doubler.static"),
    "a-lambda": (lambda number: number * 2, f"{HERE}.<lambda>"),
    "a-function-that-returns-a-coroutine": (begin_twice, f"{HERE}.begin_twice"),
    "a-wrapped-async-function": (logged(twice_later), f"{HERE}.twice_later"),
    "a-wrapped-async-method": (logged(Doubler().later), f"{HERE}.Doubler.later"),
    "a-wrapper-with-another-signature": (with_factor(scale), f"{HERE}.scale"),
    "such-a-wrapper-of-an-async-function": (with_factor(scale_later), f"{HERE}.scale_later"),
    "a-cached-function": (functools.lru_cache(Doubler().method), f"{HERE}.Doubler.method"),
    "a-mock": (double, "unittest.mock.MagicMock"),
    "an-async-mock": (double_later, "unittest.mock.AsyncMock"),
    "a-built-in-method": ([0, 2, 4, 6].__getitem__, "builtins.list.__getitem__"),
}


@pytest.mark.parametrize("options", [{}, {"concurrency": 3}, {"on_error": "collect"}], ids=str)
def test_every_callable_is_a_handler_with_a_name(options: dict[str, Any]) -> None:
    """Its results are values: a coroutine is awaited, wherever it comes from."""
    app = Opsqueue()
    for queue, (function, _) in CALLABLES.items():
        app.operation_handler(queue, **options)(function)

    with local(app) as opsqueue:
        results = {
            queue: list(opsqueue.run_submission(queue, [1, 2, 3], chunk_size=3))
            for queue in CALLABLES
        }

    assert {queue: [2, 4, 6] for queue in CALLABLES} == results
    assert {queue: name for queue, (_, name) in CALLABLES.items()} == {
        queue: handler.name for queue, handler in app.handlers.items()
    }


@pytest.mark.parametrize(
    "function", [str.upper, [].append, max, int, functools.partial(int, base=16), MagicMock(name=3)]
)
def test_a_name_is_that_of_a_module_and_something_in_it(function: Callable[..., Any]) -> None:
    """For banners and spans, of builtins, too."""
    assert name_of(function).startswith(("builtins.", "unittest.mock."))
    assert "None" not in name_of(function)


async def fail_later(number: int) -> int:
    await asyncio.sleep(0)
    if number % 2 == 0:
        raise ValueError(number)
    return number


def begin_failing(number: int) -> Any:
    return fail_later(number)


class FailsLater:
    async def __call__(self, number: int) -> int:
        return await fail_later(number)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    ("function", "first_frame"),
    [
        (logged(fail_later), "in wrapper"),
        (begin_failing, "in fail_later"),
        (functools.partial(fail_later), "in fail_later"),
        (FailsLater(), "in __call__"),
    ],
)
def test_what_an_awaited_coroutine_raises_is_its_operations_error(
    function: Callable[..., Any], first_frame: str, concurrency: int
) -> None:
    """Collected with a traceback that has no frames of opsqueue or of the loop."""
    app = Opsqueue()
    app.operation_handler("q", on_error="collect", concurrency=concurrency)(function)

    with local(app) as opsqueue:
        one, two, three = opsqueue.run_submission("q", [1, 2, 3], chunk_size=3, errors="yield")

    assert [1, 3] == [one, three]
    assert isinstance(two, OperationFailed)
    assert ("ValueError", "2") == (two.type, two.message)
    assert two.traceback.splitlines()[1].endswith(("in fail_later", first_frame))


@pytest.mark.parametrize("function", [logged(fail_later), begin_failing])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_an_awaited_coroutine_raises_fails_its_chunk(
    function: Callable[..., Any], concurrency: int
) -> None:
    """And is not reported as done."""
    app = Opsqueue()
    app.operation_handler("q", concurrency=concurrency)(function)

    with local(app) as opsqueue, pytest.raises(SubmissionFailedError, match="ValueError: 2"):
        opsqueue.run_submission("q", [1, 2, 3, 4], chunk_size=4, max_attempts=1)


def test_a_result_that_is_a_future_of_a_thread_fails_the_chunk() -> None:
    """Nothing of ours can await it."""
    app = Opsqueue()

    @app.operation_handler("futures")
    def promise(_: int) -> Any:
        return Future[int]()

    with (
        local(app) as opsqueue,
        pytest.raises(SubmissionFailedError, match="is a Future, which has not run"),
    ):
        opsqueue.run_submission("futures", [1, 2], chunk_size=2, max_attempts=1)


def test_a_plain_chunk_handler_that_returns_a_coroutine_is_awaited() -> None:
    """Its results are checked like those of any other handler."""
    app = Opsqueue()

    async def double_each(numbers: list[int]) -> list[int]:
        return [await twice_later(number) for number in numbers]

    app.chunk_handler("right")(logged(double_each))
    app.chunk_handler("wrong")(lambda numbers: double_each(numbers[1:]))

    with local(app) as opsqueue:
        assert [2, 4] == list(opsqueue.run_submission("right", [1, 2], chunk_size=2))
        with pytest.raises(SubmissionFailedError, match="returned 1 results for 2 operations"):
            opsqueue.run_submission("wrong", [1, 2], chunk_size=2, max_attempts=1)


def generator(number: int) -> Iterator[int]:
    yield number


class Generates:
    def __call__(self, number: int) -> Iterator[int]:
        yield number

    async def method(self, number: int) -> AsyncIterator[int]:
        yield number


def chunk_first(chunk: Chunk, number: int) -> int:
    return number + chunk.retries


def chunk_by_position(number: int, chunk: Chunk, /) -> int:
    return number + chunk.retries


def needs_a_factor(number: int, *, factor: int) -> int:
    return number * factor


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (Doubler, r"is a class, and calling it only makes an instance: .*\(Doubler\(…\)\)"),
        (vars(Doubler)["of_class"], "is a classmethod that is not bound yet"),
        (Doubler.method, "is a method that is not bound yet"),
        (Doubler.no_operation, "is a method that is not bound yet"),
        (Generates(), "has a `yield`"),
        (Generates().method, "has a `yield`"),
        (functools.partial(Generates()), "has a `yield`"),
        (chunk_first, "write `chunk` behind the operations"),
        (chunk_by_position, "write `chunk` behind the operations"),
        (needs_a_factor, r"takes number, factor: .*bind the others by functools\.partial"),
        (logged(scale), "takes number, by: it gets its operations"),
        (functools.partial(scale, number=1, by=2), "takes no operations"),
        (scale_later(1, 2).close(), "is None: decorate a function"),
        ("tasks.scale", "is 'tasks.scale': decorate a function"),
        (property(lambda _: 1), "decorate a function"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(function: Any, says: str) -> None:
    """When it is registered, not with the first chunk."""
    app = Opsqueue()

    with pytest.raises(HandlerError, match=says):
        app.operation_handler("q")(function)
    assert app.handlers == {}


# Of the following, only the signatures matter: none of them is called.


def of_int(numbers: int) -> list[int]:
    raise NotImplementedError


def of_text(numbers: str) -> list[int]:
    raise NotImplementedError


def of_chunk(first: Chunk) -> list[int]:
    raise NotImplementedError


def of_list_as_chunk(numbers: list[int], chunk: list[int]) -> list[int]:
    raise NotImplementedError


def to_text(numbers: list[int]) -> str:
    raise NotImplementedError


def to_mapping(numbers: list[int]) -> dict[int, int]:
    raise NotImplementedError


def to_iterator(numbers: list[int]) -> Iterator[int]:
    raise NotImplementedError


def to_annotated_text(numbers: list[int]) -> Annotated[str, "shown"]:
    raise NotImplementedError


async def to_number_later(numbers: list[int]) -> int:
    raise NotImplementedError


def with_unknown_types(numbers: list[Decimal]) -> Sequence[Decimal]:
    raise NotImplementedError


def of_many_types(numbers: Sequence[int] | int) -> list[int] | str:
    raise NotImplementedError


def to_tuple(numbers: tuple[int, ...]) -> tuple[int, ...]:
    raise NotImplementedError


def untyped(numbers, chunk):  # type: ignore[no-untyped-def]
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (of_int, "takes `int` as numbers: a chunk handler gets the list"),
        (of_text, "takes `str` as numbers: a chunk handler gets the list"),
        (of_chunk, "takes a Chunk as first, where it gets operations"),
        (of_list_as_chunk, "takes `list` as `chunk`: that argument gets the Chunk"),
        (to_text, "returns `str`: a chunk handler returns a list"),
        (to_mapping, "returns `dict`: a chunk handler returns a list"),
        (to_iterator, "returns `Iterator`: a chunk handler returns a list"),
        (to_annotated_text, "returns `str`"),
        (to_number_later, "returns `int`"),
        (scale, "takes number, by"),
    ],
)
def test_annotations_that_cannot_be_true_are_refused(function: Any, says: str) -> None:
    """A list never is an int, and a text is no list of results."""
    with pytest.raises(HandlerError, match=says):
        Opsqueue().chunk_handler("q")(function)


@pytest.mark.parametrize("function", [with_unknown_types, of_many_types, to_tuple, untyped])
def test_annotations_that_may_be_true_are_accepted(function: Any) -> None:
    """Also such as can't be evaluated, or are not quite right and work nevertheless."""
    app = Opsqueue()

    app.chunk_handler("q")(function)

    assert app.handlers["q"].function is function


def test_an_operation_handler_takes_and_returns_what_it_likes() -> None:
    """Except an iterator, which is no value."""
    app = Opsqueue()

    def characters(text: str) -> Generator[str, None, None]:
        return (character for character in text)

    app.operation_handler("texts")(to_text)
    app.operation_handler("numbers")(of_int)
    with pytest.raises(HandlerError, match="returns `Generator`: return the result itself"):
        app.operation_handler("iterators")(characters)


def test_a_bound_chunk_argument_stays_as_it_was_bound() -> None:
    """The user's own value is not replaced."""
    app = Opsqueue()
    app.operation_handler("q")(functools.partial(lambda n, chunk: (n, chunk), chunk="mine"))

    with local(app) as opsqueue:
        assert [[1, "mine"]] == list(opsqueue.run_submission("q", [1]))
