"""An app: the registry of a user's handlers, one for each queue.

    app = Opsqueue()

    @app.operation_handler("numbers")
    def increment(number: int) -> int:
        return number + 1

The decorators only register functions; a worker or `opsqueue.testing` runs them. There is no I/O
and no global state.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

from opsqueue.exceptions import HandlerError
from opsqueue.handlers.callables import (
    check_annotations,
    check_hook,
    check_is_callable,
    is_async,
    is_redefinition,
    name_of,
    takes_chunk,
)
from opsqueue.model.names import check_queue_name
from opsqueue.model.raised import text_of
from opsqueue.model.submission import ChunkIndex, SubmissionId
from opsqueue.strategy import AnyStrategy, Random

if TYPE_CHECKING:
    from opsqueue.common import SerializationFormat
    from opsqueue.contents.codec import Codec


class Results(Protocol):
    """A sequence of results. A text is none: its `__contains__` takes no object."""

    def __contains__(self, value: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401 any result
    def __reversed__(self) -> Iterator[Any]: ...
    def index(self, value: Any, /) -> int:  # noqa: ANN401 any result
        """Return the place of a value; a dict has no such method."""
        ...


class _OfChunk(Protocol):
    def __call__(self, operations: list[Any], /) -> Results | Awaitable[Results]: ...


class _OfChunkAndChunk(Protocol):
    def __call__(
        self, operations: list[Any], /, *, chunk: Chunk
    ) -> Results | Awaitable[Results]: ...


class _OfOperation(Protocol):
    def __call__(self, operation: Any, /) -> Any: ...  # noqa: ANN401 any operation


class _OfOperationAndChunk(Protocol):
    def __call__(self, operation: Any, /, *, chunk: Chunk) -> Any: ...  # noqa: ANN401 any operation


Function = TypeVar("Function", bound=Callable[..., Any])
ChunkFunction = TypeVar("ChunkFunction", bound=_OfChunk | _OfChunkAndChunk)
OperationFunction = TypeVar("OperationFunction", bound=_OfOperation | _OfOperationAndChunk)
StartHook = TypeVar("StartHook", bound=Callable[[], object])
FailureHook = TypeVar("FailureHook", bound="Callable[[BaseException, Chunk], object]")
ErrorHook = TypeVar("ErrorHook", bound="Callable[[BaseException, Chunk, int, Any], object]")
Kind = Literal["chunk", "operation", "raw"]
OnError = Literal["fail", "collect"]
DEFAULT_TIME_LIMIT: Final = 600.0
"""The default time limit of a chunk, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The chunk that a handler or a consumer's callback works on, without its operations.

    The properties are the attributes of the reference's class.
    """

    submission_id: SubmissionId
    chunk_index: ChunkIndex
    attempt: int
    """1-based."""
    max_attempts: int
    chunks_total: int
    queue: str
    metadata: bytes | None
    strategic_metadata: Mapping[str, int]
    trace_context: Mapping[str, str] = field(default_factory=dict)
    """The producer's trace. `opsqueue.tracing.extract_context` makes it the parent of a span."""
    is_revoked: Callable[[], bool] = field(repr=False, compare=False)
    """Returns True once the reservation is revoked, because the submission was cancelled or failed,
    or the chunk was lost. Long-running handlers can call it to stop early."""
    first_index: int = 0
    """The index in the submission of the chunk's first operation."""
    prefix: str = ""
    """The beginning of the keys of all the submission's objects in the store."""
    input_content: bytes = field(default=b"", repr=False)
    """The encoded operations."""

    def is_void(self) -> bool:
        """See `is_revoked`."""
        return self.is_revoked()

    @property
    def index(self) -> ChunkIndex:
        """See `chunk_index`."""
        return self.chunk_index

    @property
    def retries(self) -> int:
        """The number of attempts before this one."""
        return self.attempt - 1

    @property
    def submission_prefix(self) -> str:
        """See `prefix`."""
        return self.prefix

    @property
    def submission_metadata(self) -> bytes | None:
        """See `metadata`."""
        return self.metadata

    @property
    def submission_strategic_metadata(self) -> dict[str, int]:
        """A copy of `strategic_metadata`."""
        return dict(self.strategic_metadata)

    @property
    def submission_otel_trace_carrier(self) -> dict[str, str]:
        """A copy of `trace_context`."""
        return dict(self.trace_context)


@dataclass(frozen=True, slots=True)
class Hook:
    """A function that an app runs at some point."""

    function: Callable[..., object]
    at: str

    def __call__(self, *arguments: object) -> None:
        """Call the function.

        Raises:
            HandlerError: it returned a coroutine, which nothing would run.
        """
        returned = self.function(*arguments)
        if hasattr(type(returned), "__await__"):
            if hasattr(returned, "close"):
                returned.close()
            message = (
                f"the {self.at} hook {name_of(self.function)} returned a "
                f"{type(returned).__name__}, which nothing awaits: call asyncio.run in it"
            )
            raise HandlerError(message)

    def __repr__(self) -> str:
        return name_of(self.function)


@dataclass(slots=True)
class Observers:
    """The hooks of one app that observe failures."""

    of_chunks: list[Hook] = field(default_factory=list)
    of_operations: list[Hook] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A handler with its options, see `Opsqueue.chunk_handler`, or a consumer's callback.

    A callback receives the chunk by position and not by name. If it is `raw`, it receives only the
    chunk and returns the encoded output.
    """

    queue: str
    function: Callable[..., Any]
    kind: Kind
    takes_chunk: bool
    is_async: bool = False
    allow_pickle: bool = False
    strategy: AnyStrategy = field(default_factory=Random)
    time_limit: float = DEFAULT_TIME_LIMIT
    soft_time_limit: float | None = None
    concurrency: int = 1
    """The number of operations of a chunk that run at once; 1 for chunk handlers."""
    on_error: OnError = "fail"
    codecs: tuple[Codec, ...] = ()
    """The user's own codecs, which it reads in addition to the built-in ones."""
    observers: tuple[Observers, ...] = field(default=(), repr=False, compare=False)
    """The hooks of its app, and of the apps that include that one."""
    codec_of: Callable[[str], Codec] | None = None
    """Set for callbacks only: returns the codec of a chunk, given the submission's codec name."""

    @property
    def is_callback(self) -> bool:
        """True if it is a consumer's callback."""
        return self.codec_of is not None

    @property
    def collects(self) -> bool:
        """True if a failed operation becomes an error record, and the others go on."""
        return self.on_error == "collect"

    @property
    def name(self) -> str:
        """Module and name of the function, for banners and messages."""
        return name_of(self.function)

    @property
    def readable_codecs(self) -> list[str]:
        """The names of the codecs that it reads, without `+zstd`."""
        from opsqueue.contents.codec import readable_codecs  # noqa: PLC0415 a slow import

        custom = [codec.plain_name for codec in self.codecs]
        return readable_codecs(allow_pickle=self.allow_pickle, custom=custom)

    @property
    def label(self) -> str:
        """The name of the handler or callback in messages."""
        return "the callback" if self.is_callback else f"handler {self.name}"

    @property
    def reservation_ms(self) -> int:
        """The duration of a reservation: the time limit, and as long again to wait for its turn."""
        return int(self.time_limit * 2_000)


@dataclass(eq=False, slots=True)
class _Parts:
    """The parts of an app: its own, and together with those of the apps that it includes."""

    codecs: tuple[Codec, ...]
    own: dict[str, Handler] = field(default_factory=dict)
    own_start: list[Hook] = field(default_factory=list)
    own_stop: list[Hook] = field(default_factory=list)
    observers: Observers = field(default_factory=Observers)
    included: list[_Parts] = field(default_factory=list)
    including: list[_Parts] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)
    start_hooks: list[Hook] = field(default_factory=list)
    stop_hooks: list[Hook] = field(default_factory=list)

    def add_handler(self, handler: Handler) -> None:
        """Add an own handler, or raise HandlerError and change nothing."""
        before, self.own = self.own, {**self.own, handler.queue: handler}
        try:
            self.compose()
        except HandlerError:
            self.own = before
            raise

    def include(self, other: _Parts) -> None:
        """Add another app, or raise HandlerError and change nothing."""
        if self in other.tree():
            message = "an app can't include itself, or an app that includes it"
            raise HandlerError(message)
        if other in self.included:
            return
        self.included.append(other)
        other.including.append(self)
        try:
            self.compose()
        except HandlerError:
            self.included.remove(other)
            other.including.remove(self)
            raise

    def tree(self) -> list[_Parts]:
        """Return this app and all that it includes, each once."""
        apps = {self: None}
        for one in self.included:
            apps.update(dict.fromkeys(one.tree()))
        return list(apps)

    def compose(self) -> None:
        """Compose this app and the ones that include it; a HandlerError changes none."""
        apps = {self: None}
        for app in (waiting := [self]):
            apps[app] = None
            waiting += [one for one in app.including if one not in apps]
        for app, handlers in [(app, app._composed()) for app in apps]:  # noqa: SLF001 own class
            app.handlers = handlers
            tree = app.tree()
            app.start_hooks = _together([one.own_start for one in tree])
            app.stop_hooks = _together([one.own_stop for one in reversed(tree)])

    def _composed(self) -> dict[str, Handler]:
        found: dict[str, Handler] = {}
        tree = self.tree()
        for app in tree:
            above = [one for one in tree if one is not app and app in one.tree()]
            for queue, handler in app.own.items():
                other = found.get(queue)
                if other is not None and not is_redefinition(handler.function, other.function):
                    message = (
                        f"queue {queue!r} has two handlers, {other.name} and {handler.name} of an "
                        "included app: one handler serves a queue; give one of them a queue of its "
                        "own"
                    )
                    raise HandlerError(message)
                found[queue] = replace(
                    handler,
                    codecs=(*handler.codecs, *(codec for one in above for codec in one.codecs)),
                    observers=(*handler.observers, *(one.observers for one in above)),
                )
        return found


class Opsqueue:
    """The handlers of an application, by queue, and the hooks that its workers run.

    Args:
        codecs: custom formats that the handlers read and write in addition to the built-in ones.
            Each is a `Codec`, or an object with `dumps` and `loads` like a producer's
            `serialization_format`. A submission records the name of its format, by which it is
            found here.
    """

    def __init__(self, *, codecs: Sequence[SerializationFormat | Codec] = ()) -> None:
        own: tuple[Codec, ...] = ()
        if codecs:
            from opsqueue.contents.formats import codec_of_format  # noqa: PLC0415 a slow import

            own = tuple(codec_of_format(one) for one in codecs)
        self._parts = _Parts(codecs=own)

    @property
    def handlers(self) -> dict[str, Handler]:
        """Its handlers and those of the apps that it includes, by queue."""
        return self._parts.handlers

    @property
    def start_hooks(self) -> list[Hook]:
        """The hooks that a worker process runs before its first chunk, in this order."""
        return self._parts.start_hooks

    @property
    def stop_hooks(self) -> list[Hook]:
        """The hooks that a worker process runs after its last chunk, in this order."""
        return self._parts.stop_hooks

    def chunk_handler(
        self,
        queue: str,
        *,
        strategy: AnyStrategy | None = None,
        time_limit: float = DEFAULT_TIME_LIMIT,
        soft_time_limit: float | None = None,
        allow_pickle: bool = False,
        on_error: OnError = "fail",
    ) -> Callable[[ChunkFunction], ChunkFunction]:
        """Register a function, plain or `async def`, that is called with a chunk's operations.

        It receives the list of operations and returns a list of results of the same length, in the
        same order. It may have a second argument named `chunk` (a `Chunk`). The decorator returns
        the function unchanged.

        Args:
            queue: the queue that it serves; each queue has one handler.
            strategy: selects the next submission; Random by default.
            time_limit: seconds that one chunk may take. After that its process is killed, and the
                attempt has failed.
            soft_time_limit: seconds after which SoftTimeLimitExceeded is raised in the handler, so
                that it can clean up. None: never.
            allow_pickle: accept submissions encoded with pickle. Reading them runs any code that
                their submitter has put in.
            on_error: with "collect", an exception among the results is the error of its operation,
                as `asyncio.gather(…, return_exceptions=True)` returns them; see
                `operation_handler`. An exception that the handler raises fails the chunk in any
                case.

        Raises:
            HandlerError: the queue already has a handler, or the function can't be one.
        """
        return self._register(
            queue, "chunk", strategy, time_limit, soft_time_limit, allow_pickle, 1, on_error
        )

    def operation_handler(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        strategy: AnyStrategy | None = None,
        time_limit: float = DEFAULT_TIME_LIMIT,
        soft_time_limit: float | None = None,
        allow_pickle: bool = False,
        on_error: OnError = "fail",
    ) -> Callable[[OperationFunction], OperationFunction]:
        """Register a function, plain or `async def`, that is called with each operation.

        It receives one operation and returns its result. The arguments and errors are those of
        `chunk_handler`, with these differences.

        Args:
            queue: see `chunk_handler`.
            concurrency: how many operations of a chunk run at once, in threads for a plain function
                and in tasks for an `async def` one. It helps handlers that wait for other systems.
            strategy: see `chunk_handler`.
            time_limit: the limit of the chunk, not of an operation.
            soft_time_limit: likewise.
            allow_pickle: see `chunk_handler`.
            on_error: "fail": an operation that raises fails its chunk, which is tried again as a
                whole. "collect": such an operation gets an error record with type, message and
                traceback, and is not tried again, while the rest of the chunk goes on. The same
                holds if its result can't be encoded. A time limit, a MemoryError, and exceptions
                that are no Exception (SystemExit, GeneratorExit) still fail the chunk. A
                CancelledError is the operation's own error, unless a time limit cancels the chunk.
        """
        return self._register(
            *(queue, "operation", strategy, time_limit, soft_time_limit, allow_pickle),
            concurrency,
            on_error,
        )

    def on_worker_start(self, function: StartHook) -> StartHook:
        """Register a function that each worker process runs once before its first chunk.

        Use it for objects that are expensive to make and can be kept, such as clients and models.
        If it raises, the worker does not start.

        Raises:
            HandlerError: calling the function would run nothing, as with an `async def` one.
        """
        check_hook(function, "start")
        _add(self._parts.own_start, Hook(function, "start"))
        self._parts.compose()
        return function

    def on_worker_stop(self, function: StartHook) -> StartHook:
        """Register a function that each worker process runs after its last chunk.

        It does not run if the process is killed, so nothing may depend on it.

        Raises:
            HandlerError: see `on_worker_start`.
        """
        check_hook(function, "stop")
        _add(self._parts.own_stop, Hook(function, "stop"))
        self._parts.compose()
        return function

    def on_chunk_failure(self, function: FailureHook) -> FailureHook:
        """Register a function that is called when an attempt at a chunk has failed.

        It is called with the exception and the Chunk, in the process that ran the handler, for
        every exception that fails an attempt: the handler's own, and those for results that can't
        be used. `chunk.attempt` and `chunk.max_attempts` tell whether it was the last attempt.
        There is no exception, and no call, if the process was killed, such as by `time_limit`.

        It can only observe. What it raises is logged. It counts as a part of the chunk's time.
        Several threads may call it at once.

        Raises:
            HandlerError: calling the function with two arguments would raise, or run nothing.
        """
        check_hook(function, "on_chunk_failure", "error", "chunk")
        _add(self._parts.observers.of_chunks, Hook(function, "on_chunk_failure"))
        return function

    def on_operation_error(self, function: ErrorHook) -> ErrorHook:
        """Register a function that is called for each operation whose error is collected.

        It is called with the exception, the Chunk, the operation's index in the submission, as in
        `OperationFailed.index`, and the operation, and only where handlers have
        `on_error="collect"`. If the chunk is tried again, it is called again.

        The rest is as with `on_chunk_failure`.
        """
        check_hook(function, "on_operation_error", "error", "chunk", "index", "operation")
        _add(self._parts.observers.of_operations, Hook(function, "on_operation_error"))
        return function

    def _register(
        self,
        queue: str,
        kind: Kind,
        strategy: AnyStrategy | None,
        time_limit: float,
        soft_time_limit: float | None,
        allow_pickle: bool,  # noqa: FBT001 private
        concurrency: int,
        on_error: OnError,
    ) -> Callable[[Function], Function]:
        if callable(queue):
            message = f'write the decorator with its queue: @app.{kind}_handler("numbers")'
            raise HandlerError(message)
        check_queue_name(queue)
        if not isinstance(time_limit, int | float) or not 0 < time_limit <= 7 * 24 * 3600:
            message = f"time_limit={time_limit!r} of queue {queue!r}: give seconds, up to a week"
            raise HandlerError(message)
        if soft_time_limit is not None and (
            not isinstance(soft_time_limit, int | float) or not 0 < soft_time_limit < time_limit
        ):
            message = (
                f"soft_time_limit={soft_time_limit!r} of queue {queue!r}: give seconds, fewer than "
                f"time_limit={time_limit:g}"
            )
            raise HandlerError(message)
        if not isinstance(concurrency, int) or not 1 <= concurrency <= 10_000:
            message = (
                f"concurrency={concurrency!r} of queue {queue!r}: give an integer, 1 to 10,000"
            )
            raise HandlerError(message)

        if on_error not in ("fail", "collect"):
            message = f"on_error={on_error!r} of queue {queue!r}: give 'fail' or 'collect'"
            raise HandlerError(message)

        def register(function: Function) -> Function:
            check_is_callable(function, queue, kind)
            takes_the_chunk = takes_chunk(function)
            check_annotations(function, is_of_chunks=kind == "chunk", chunk_type=Chunk)
            other = self.handlers.get(queue)
            if other is not None and not is_redefinition(function, other.function):
                message = (
                    f"queue {queue!r} has the handler {other.name}: one handler serves a queue; "
                    "give the second one a queue of its own"
                )
                raise HandlerError(message)
            handler = Handler(
                queue=queue,
                function=function,
                kind=kind,
                takes_chunk=takes_the_chunk,
                is_async=is_async(function),
                allow_pickle=allow_pickle,
                strategy=strategy or Random(),
                time_limit=time_limit,
                soft_time_limit=soft_time_limit,
                concurrency=concurrency,
                on_error=on_error,
                codecs=self._parts.codecs,
                observers=(self._parts.observers,),
            )
            self._parts.add_handler(handler)
            return function

        return register

    def include(self, other: Opsqueue) -> None:
        """Add the handlers and hooks of another app, also those that it registers later.

        An app may be included by several apps, and more than once. Its handlers read and write the
        codecs of this app, too, and the hooks of this app that observe failures observe its
        handlers; not the other way round. Its start hooks run after those of this app, and its stop
        hooks before them.

        Raises:
            HandlerError: both apps have a handler for a queue, or `other` includes this app.
        """
        if not isinstance(other, Opsqueue):
            message = f"include() got {type(other).__name__}: it takes an app, an Opsqueue"
            raise HandlerError(message)
        self._parts.include(other._parts)

    def handler_of(self, queue: str) -> Handler:
        """Return the queue's handler.

        Raises:
            HandlerError: there is none; the message lists the queues that have one.
        """
        try:
            return self.handlers[queue]
        except KeyError:
            known = ", ".join(sorted(self.handlers)) or "none"
            message = f"no handler for queue {queue!r}; this app has: {known}"
            raise HandlerError(message) from None


def _add(hooks: list[Hook], new: Hook) -> None:
    """Append a hook, or put it in the place of the one that it redefines."""
    for place, old in enumerate(hooks):
        if is_redefinition(new.function, old.function):
            hooks[place] = new
            return
    hooks.append(new)


def _together(lists: list[list[Hook]]) -> list[Hook]:
    hooks: list[Hook] = []
    for hook in (hook for one in lists for hook in one):
        _add(hooks, hook)
    return hooks


def load_app(path: str) -> Opsqueue:
    """Import the app at a path "module:name"; modules in the current folder are found, too.

    Raises:
        HandlerError: there is no such module or name, it is not an app, or the app has no handlers.
            An error inside the module's own code is its cause.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        message = f"app path {path!r}: give MODULE:NAME, like tasks:app for `app = …` in tasks.py"
        raise HandlerError(message)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and module_name.split(".")[: exc.name.count(".") + 1] == (
            exc.name.split(".")
        ):
            message = (
                f"app path {path!r}: no module {exc.name!r} in {here} or among installed packages; "
                "run it in the folder that has the module, or correct the path"
            )
            raise HandlerError(message) from exc
        message = f"app path {path!r}: {module_name} needs {exc.name!r}, which is not installed"
        raise HandlerError(message) from exc
    except (Exception, SystemExit) as exc:
        message = (
            f"app path {path!r}: importing {module_name} raised {type(exc).__name__}: "
            f"{text_of(exc)}{_place_of(exc, here)}"
        )
        raise HandlerError(message) from exc
    app = getattr(module, name, None)
    if not isinstance(app, Opsqueue):
        apps = sorted(key for key, value in vars(module).items() if isinstance(value, Opsqueue))
        found = ", ".join(f"{module_name}:{key}" for key in apps) or "none"
        what = "does not exist" if app is None else f"is a {type(app).__name__}, not an Opsqueue"
        message = f"app path {path!r}: {name} in {module_name} {what}; apps found there: {found}"
        raise HandlerError(message)
    if not app.handlers:
        message = (
            f"app {path!r} has no handlers: decorate a function with @app.operation_handler(queue)"
        )
        raise HandlerError(message)
    return app


def _place_of(error: BaseException, folder: str) -> str:
    """Return where an import failed: the innermost line of the user's code, or of any code."""
    if isinstance(error, SyntaxError):
        return ""  # its message has the place
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    own = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(folder) and "site-packages" not in frame.filename
    ]
    last = [*frames, *own][-1]
    return f" (file {last.filename}, line {last.lineno})"
