"""The execution of one chunk, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from opsqueue.contents.codec import open_codec
from opsqueue.contents.output import decode_output, encode_output, errors_of
from opsqueue.exceptions import AccessDeniedError, EncodingError, StoreUnavailableError
from opsqueue.handlers.app import Chunk, Opsqueue
from opsqueue.handlers.execute import Done, Failed, GivenBack, execute, left_to_readers
from opsqueue.model.answers import WorkerSeen
from opsqueue.model.chunk import ChunkFailure, OperationError, Reservation, Source, Token
from opsqueue.model.submission import SubmissionId
from opsqueue.store import ObjectStore, input_key, open_store, output_key

CODEC = open_codec("msgpack")


@pytest.fixture
def store(queue_name: str) -> ObjectStore:
    store = open_store(f"memory://{queue_name}")
    store.create(input_key("p", 0), CODEC.encode([1, 2, 3]))
    return store


def reservation(*, attempt: int = 1, codec: str = "msgpack") -> Reservation:
    source = Source(
        submission_id=SubmissionId(41),
        queue="q",
        prefix="p",
        codec=codec,
        chunks_total=1,
        chunk_size=3,
        operations_total=3,
        max_attempts=10,
    )
    return Reservation(
        token=Token("1-0"), source=source, chunk_index=0, attempt=attempt, expires_at_ms=0
    )


def chunk_handler(function: Callable[..., Any], **options: Any) -> Any:
    app = Opsqueue()
    app.chunk_handler("q", **options)(function)
    return app.handler_of("q")


def operation_handler(function: Callable[..., Any], **options: Any) -> Any:
    app = Opsqueue()
    app.operation_handler("q", **options)(function)
    return app.handler_of("q")


def test_results_are_stored_before_the_chunk_counts_as_done(store: ObjectStore) -> None:
    """The output exists when the chunk is reported as done."""
    report = execute(reservation(), operation_handler(lambda n: n * 2), store)

    assert isinstance(report, Done)
    assert report.operations == 3
    assert CODEC.decode(store.get(output_key("p", 0))) == [2, 4, 6]


def test_a_handler_may_ask_for_its_chunk(store: ObjectStore) -> None:
    """An argument of that name gets it."""
    seen: list[Chunk] = []

    def handle(operations: list[int], chunk: Chunk) -> list[int]:
        seen.append(chunk)
        return operations

    execute(reservation(attempt=2), chunk_handler(handle), store)

    assert [(c.submission_id, c.chunk_index, c.attempt) for c in seen] == [(41, 0, 2)]


def test_an_error_that_has_no_text_fails_its_chunk_all_the_same(store: ObjectStore) -> None:
    """The chunk is reported however the exception behaves."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def handle(_operations: list[int]) -> list[int]:
        raise MuteError

    report = execute(reservation(), chunk_handler(handle), store)

    assert isinstance(report, Failed)
    assert report.failure.message == "its __str__ raised RuntimeError"
    assert report.failure.type.endswith("MuteError")


class Text(str):
    """As template engines have it."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class ExitingError(BaseException):
    def __str__(self) -> str:
        raise SystemExit


class NotedError(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override] # as odd classes do
        raise RuntimeError

    def with_traceback(self, _frames: object) -> Any:
        raise RuntimeError


class HostileType(type):
    """The type of a class that does not tell its name."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise SystemExit
        return super().__getattribute__(name)


class HostileError(Exception, metaclass=HostileType):
    """Every attribute that is asked for ends the program."""

    __module__ = 7  # type: ignore[assignment] # as odd classes do

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise KeyboardInterrupt

    def __bool__(self) -> bool:
        raise GeneratorExit

    def __eq__(self, other: object) -> bool:
        raise GeneratorExit

    __hash__ = None  # type: ignore[assignment] # can't be a key


def hostile_cause() -> BaseException:
    error = ValueError("because of another one")
    BaseException.__dict__["__cause__"].__set__(error, HostileError())
    return error


def long_chain() -> BaseException:
    error: BaseException = ValueError("first")
    for _ in range(3_000):
        following = ValueError("following")
        following.__cause__ = error
        error = following
    return error


def noted(*notes: object) -> BaseException:
    error = ValueError("noted")
    vars(error)["__notes__"] = list(notes)
    return error


def deep_group() -> BaseException:
    error: BaseException = ValueError()
    for _ in range(3_000):
        error = BaseExceptionGroup("", [error])
    return error


def recursion_error() -> BaseException:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ValueError(Text("text")), "text"),
        (ExitingError, "its __str__ raised SystemExit"),
        (lambda: NotedError("noted"), "noted"),
        (lambda: ValueError("x" * 10**7), "x" * 2_000),
        (deep_group, " (1 sub-exception)"),
        (recursion_error, "maximum recursion depth exceeded"),
        (lambda: HostileError("told"), "told"),
        (lambda: ExceptionGroup("several", [HostileError()]), "several (1 sub-exception)"),
        (hostile_cause, "because of another one"),
        (long_chain, "following"),
        (lambda: noted("and more", ExitingError()), "noted\nand more\na note raised SystemExit"),
        (lambda: SyntaxError("odd", ("file", 3, "7", "x")), "odd (file, line 3)"),  # type: ignore[arg-type]
        (lambda: SyntaxError("odd", ("file", "x", None, b"")), "odd"),  # type: ignore[arg-type]
        (lambda: ValueError("\udc80"), r"\udc80"),
        (
            lambda: UnicodeDecodeError("utf-8", b"\xff" * 10**6, 0, 10**6, "no"),
            "codec can't decode",
        ),
        (lambda: GeneratorExit("left"), "left"),
        (lambda: KeyboardInterrupt("pressed"), "pressed"),
        (lambda: SystemExit("ended"), "ended"),
    ],
    ids=[
        *("text", "exit", "notes", "long", "group", "recursion", "hostile", "group of hostile"),
        *("hostile cause", "chain", "odd notes", "syntax", "syntax with bytes", "surrogate"),
        *("bytes", "generator", "interrupt", "exits"),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("on_error", ["fail", "collect"])
def test_whatever_an_exception_is_its_chunk_is_reported(
    store: ObjectStore,
    make: Callable[[], BaseException],
    message: str,
    on_error: str,
    concurrency: int,
    *,
    is_async: bool,
) -> None:
    """However the handler is called, describing it raises nothing, and that can be sent."""

    error, kind = make(), type(make())

    def handle(_operation: int) -> int:
        raise error

    async def handle_later(_operation: int) -> int:
        raise error

    function = handle_later if is_async else handle
    handler = operation_handler(function, on_error=on_error, concurrency=concurrency)
    if kind is KeyboardInterrupt and not is_async:
        with pytest.raises(KeyboardInterrupt):  # where there is no worker, it is the terminal's
            execute(reservation(), handler, store)
        return

    report = execute(reservation(), handler, store)

    if isinstance(report, Done):
        failure: ChunkFailure = errors_of(store.get(output_key("p", 0)))[0]
    else:
        assert isinstance(report, Failed)
        failure = report.failure
    msgspec.json.encode(failure)
    if is_async and kind in (SystemExit, KeyboardInterrupt):
        message = f"the handler raised {kind.__name__}: {message}"
    else:
        assert failure.type.rpartition(".")[2] == type.__dict__["__name__"].__get__(kind)
    assert message in failure.message
    assert "in handle" in failure.traceback
    assert len(failure.traceback) < 33_000


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1, 2], "returned 2 results for 3 operations"),
        (None, "returned NoneType"),
        ("abc", "returned str"),
        ([object()] * 3, "can't encode the result of operation 0"),
    ],
)
def test_a_wrong_result_fails_the_chunk_with_what_is_wrong(
    store: ObjectStore, returned: object, says: str
) -> None:
    """Wrong length, wrong type, not encodable: never stored."""
    report = execute(reservation(), chunk_handler(lambda _: returned), store)

    assert isinstance(report, Failed)
    assert says in report.failure.message
    assert not store.exists(output_key("p", 0))


@pytest.mark.parametrize(
    "chunk",
    [reservation(attempt=2), replace(reservation(), again=True)],
    ids=["attempt 2", "again"],
)
def test_a_second_attempt_whose_output_is_there_does_not_run_again(
    store: ObjectStore, chunk: Reservation
) -> None:
    """The previous worker died between storing and reporting; it need have used no attempt."""
    store.create(output_key("p", 0), CODEC.encode(["first"] * 3))

    report = execute(chunk, chunk_handler(pytest.fail), store)

    assert report == Done(token=Token("1-0"), operations=3, duration_s=0.0, ran=False)


def test_the_first_stored_output_stays(store: ObjectStore) -> None:
    """A stalled worker that wakes up late replaces nothing."""
    store.create(output_key("p", 0), CODEC.encode(["first"] * 3))

    execute(reservation(), chunk_handler(lambda operations: operations), store)

    assert CODEC.decode(store.get(output_key("p", 0))) == ["first"] * 3


def test_a_missing_input_fails_the_chunk_at_once(queue_name: str) -> None:
    """Waiting would not bring it back; the failure names the object."""
    empty = open_store(f"memory://empty-{queue_name}")

    report = execute(reservation(), chunk_handler(list), empty)

    assert isinstance(report, Failed)
    assert report.failure.type == "InputMissing"
    assert "p/0-in" in report.failure.message


def test_a_store_out_of_order_uses_no_attempt(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk is not to blame: it is released with a short delay."""

    def get(_: str) -> bytes:
        message = "the store is down"
        raise StoreUnavailableError(message)

    monkeypatch.setattr(store, "get", get)

    report = execute(reservation(), chunk_handler(list), store)

    assert isinstance(report, GivenBack)
    assert (report.reason, report.delay_ms > 0) == ("the store is down", True)


def test_damaged_input_fails_the_chunk(queue_name: str) -> None:
    """The failure has the codec's message."""
    damaged = open_store(f"memory://damaged-{queue_name}")
    damaged.create(input_key("p", 0), b"\xc1")

    report = execute(reservation(), chunk_handler(list), damaged)

    assert isinstance(report, Failed)
    assert report.failure.type == "EncodingError"


def test_pickle_is_refused_unless_the_handler_allows_it(store: ObjectStore) -> None:
    """It can run any code of the submitter."""
    report = execute(reservation(codec="pickle"), chunk_handler(list), store)

    assert isinstance(report, Failed)
    assert "allow_pickle=True" in report.failure.message


def test_pickle_works_where_the_handler_allows_it(queue_name: str) -> None:
    """Producer and handler have both asked for it."""
    store = open_store(f"memory://pickle-{queue_name}")
    pickle = open_codec("pickle", allow_pickle=True)
    store.create(input_key("p", 0), pickle.encode([{1}, {2}, {3}]))

    report = execute(
        reservation(codec="pickle"), chunk_handler(lambda sets: sets, allow_pickle=True), store
    )

    assert isinstance(report, Done)
    assert pickle.decode(store.get(output_key("p", 0))) == [{1}, {2}, {3}]


def test_a_revoked_chunk_is_neither_run_nor_stored(store: ObjectStore) -> None:
    """Its result is no longer needed."""
    report = execute(reservation(), chunk_handler(pytest.fail), store, is_revoked=lambda: True)

    assert isinstance(report, GivenBack)
    assert not store.exists(output_key("p", 0))


ERROR = OperationError(type="ValueError", message="of the first attempt")
FIRST = encode_output([1, ERROR, ERROR], CODEC, collects=True).data


def fail_on_one(operation: int) -> int:
    if operation == 1:
        raise ValueError(operation)
    return operation * 2


def test_errors_are_stored_with_the_results_and_counted(store: ObjectStore) -> None:
    """In one object."""
    report = execute(reservation(), operation_handler(fail_on_one, on_error="collect"), store)

    assert isinstance(report, Done)
    assert (report.operations, report.operations_failed) == (3, 1)
    error, *results = decode_output(store.get(output_key("p", 0)), CODEC)
    assert isinstance(error, OperationError)
    assert (error.type, results) == ("ValueError", [4, 6])


def test_where_errors_are_not_collected_one_fails_the_chunk(store: ObjectStore) -> None:
    """The default."""
    report = execute(reservation(), operation_handler(fail_on_one), store)

    assert isinstance(report, Failed)
    assert not store.exists(output_key("p", 0))


def test_a_result_that_cannot_be_encoded_is_an_error_of_its_operation(store: ObjectStore) -> None:
    """The others are stored."""
    handler = operation_handler(lambda n: object() if n == 2 else n, on_error="collect")

    report = execute(reservation(), handler, store)

    assert isinstance(report, Done)
    assert report.operations_failed == 1
    assert errors_of(store.get(output_key("p", 0)))[1].type == "EncodingError"


def test_a_second_attempt_reports_the_errors_of_the_output_that_is_there(
    store: ObjectStore,
) -> None:
    """The worker before died between storing and reporting."""
    store.create(output_key("p", 0), FIRST)

    report = execute(reservation(attempt=2), chunk_handler(pytest.fail), store)

    assert report == Done(
        token=Token("1-0"), operations=3, operations_failed=2, duration_s=0.0, ran=False
    )


@pytest.mark.parametrize("function", [fail_on_one, lambda operation: operation])
def test_whoever_comes_second_reports_the_errors_of_the_first_output(
    store: ObjectStore, function: Callable[[int], int]
) -> None:
    """The first output is kept, and its errors are reported."""
    store.create(output_key("p", 0), FIRST)

    report = execute(reservation(), operation_handler(function, on_error="collect"), store)

    assert isinstance(report, Done)
    assert report.operations_failed == 2
    assert store.get(output_key("p", 0)) == FIRST


def test_a_store_out_of_order_at_the_end_is_asked_again_and_uses_no_attempt(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is done already, so it is tried four times, more slowly each time."""
    tries: list[str] = []
    pauses: list[float] = []

    def create(key: str, _: bytes) -> bool:
        tries.append(key)
        message = "the store is down"
        raise StoreUnavailableError(message)

    monkeypatch.setattr(store, "create", create)
    monkeypatch.setattr("opsqueue.handlers.execute.time.sleep", pauses.append)
    monkeypatch.setattr("opsqueue.model.backoff.random.uniform", lambda _least, most: most)

    report = execute(reservation(), chunk_handler(list), store)

    assert isinstance(report, GivenBack)
    assert (report.reason, report.delay_ms > 0) == ("the store is down", True)
    assert [output_key("p", 0)] * 4 == tries
    assert [0.5, 1.0, 2.0] == pauses


def test_a_store_that_works_again_while_an_output_is_stored_is_enough(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk is completed as usual."""
    create, tries = store.create, []

    def create_at_last(key: str, data: bytes) -> bool:
        tries.append(key)
        if len(tries) < 4:
            message = "the store is down"
            raise StoreUnavailableError(message)
        return create(key, data)

    monkeypatch.setattr(store, "create", create_at_last)
    monkeypatch.setattr("opsqueue.handlers.execute.time.sleep", lambda _: None)

    report = execute(reservation(), chunk_handler(list), store)

    assert isinstance(report, Done)
    assert store.exists(output_key("p", 0))


def test_what_no_further_attempt_can_mend_is_not_tried_again(store: ObjectStore) -> None:
    """An unknown codec, pickle that is not allowed, an input that can't be decoded."""
    handler = operation_handler(lambda n: n)
    unknown = execute(reservation(codec="custom:yaml"), handler, store)
    pickled = execute(reservation(codec="pickle+zstd"), handler, store)
    damaged = execute(reservation(codec="msgpack+zstd"), handler, store)

    for report in (unknown, pickled, damaged):
        assert isinstance(report, Failed)
        assert report.is_final
        assert "not tried again: the input would be the same" in report.failure.message
    assert ["custom:yaml", "pickle+zstd", ""] == [
        report.unread_codec for report in (unknown, pickled, damaged) if isinstance(report, Failed)
    ]


@pytest.mark.parametrize(("attempt", "is_final"), [(1, False), (2, True)])
def test_a_result_that_cannot_be_encoded_is_tried_twice(
    store: ObjectStore,
    attempt: int,
    is_final: bool,  # noqa: FBT001
) -> None:
    """The second attempt may return another result."""
    report = execute(reservation(attempt=attempt), operation_handler(lambda _: object()), store)

    assert isinstance(report, Failed)
    assert is_final is report.is_final
    assert is_final is ("not tried again" in report.failure.message)


def test_what_a_handler_raises_itself_is_tried_again(store: ObjectStore) -> None:
    """Also one of our errors: it may come from another service that it asks."""

    def refuse(_: int) -> None:
        message = "not ours"
        raise EncodingError(message)

    report = execute(reservation(attempt=5), operation_handler(refuse), store)

    assert isinstance(report, Failed)
    assert not report.is_final


def test_a_stored_output_that_cannot_be_read_is_not_tried_again(store: ObjectStore) -> None:
    """Nobody replaces it, so the next attempt would find it, too."""
    store.create(output_key("p", 0), b"not msgpack")

    first = execute(reservation(), operation_handler(lambda n: n), store)
    second = execute(reservation(attempt=2), operation_handler(lambda n: n), store)

    for report in (first, second):
        assert isinstance(report, Failed)
        assert report.is_final


@pytest.mark.parametrize(
    ("name", "info", "is_alive", "is_given_back"),
    [
        ("w2", {"codecs": ["custom:yaml"]}, True, True),
        ("w2", {"codecs": ["custom:yaml"]}, False, False),
        ("w2", {"codecs": ["cbor"]}, True, False),
        ("w2", {}, True, False),
        ("w1", {"codecs": ["custom:yaml"]}, True, False),
    ],
)
def test_a_chunk_is_left_to_a_live_worker_that_reads_its_codec(
    name: str,
    info: dict[str, object],
    is_alive: bool,  # noqa: FBT001
    is_given_back: bool,  # noqa: FBT001
) -> None:
    """Without using an attempt; no other worker is a reason to wait."""
    failure = ChunkFailure(type="InvalidArgumentError", message="no codec is called so")
    report = Failed(
        token=Token("1-0"), failure=failure, is_final=True, unread_codec="custom:yaml+zstd"
    )
    seen = WorkerSeen(name=name, seen_ms_ago=1, info=info, is_alive=is_alive)

    found = left_to_readers(report, lambda: [seen], worker="w1")

    assert is_given_back is isinstance(found, GivenBack)
    assert is_given_back or found == report


def test_where_other_workers_are_not_known_a_chunk_is_tried_again() -> None:
    """One of them may be able to read it."""
    failure = ChunkFailure(type="InvalidArgumentError", message="no codec is called so")
    report = Failed(token=Token("1-0"), failure=failure, is_final=True, unread_codec="x")

    def unknown() -> list[WorkerSeen]:
        message = "an admin's token is needed"
        raise AccessDeniedError(message)

    found = left_to_readers(report, unknown, worker="w1")

    assert isinstance(found, Failed)
    assert not found.is_final


class Reversed:
    """A serialization format of the user's own."""

    __name__ = "reversed"

    @staticmethod
    def dumps(operations: list[object]) -> bytes:
        return msgspec.json.encode(operations)[::-1]

    @staticmethod
    def loads(data: bytes) -> Any:
        return msgspec.json.decode(data[::-1])


def test_a_format_of_the_apps_own_is_read_and_written(queue_name: str) -> None:
    """By its name, as the producer recorded it; other handlers say what to register."""
    store = open_store(f"memory://{queue_name}")
    store.create(input_key("p", 0), Reversed.dumps([1, 20, 3]))
    app = Opsqueue(codecs=[Reversed()])
    app.operation_handler("q")(lambda number: number + 10)

    without = execute(reservation(codec="custom:reversed"), operation_handler(abs), store)
    done = execute(reservation(codec="custom:reversed"), app.handler_of("q"), store)

    assert isinstance(without, Failed)
    assert "Opsqueue(codecs=[reversed])" in without.failure.message
    assert isinstance(done, Done)
    assert [11, 30, 13] == Reversed.loads(store.get(output_key("p", 0)))
    assert "custom:reversed" in app.handler_of("q").readable_codecs
