"""A chunk's output: results and errors in one object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future

import pytest

from opsqueue.contents.codec import Codec, CustomCodec, open_codec
from opsqueue.contents.output import (
    MAGIC,
    MAX_TRACEBACK_CHARACTERS,
    NO_RESULT,
    decode_output,
    encode_output,
    errors_of,
)
from opsqueue.exceptions import EncodingError, OpsqueueInternalError
from opsqueue.model.chunk import OperationError

MSGPACK = open_codec("msgpack")
LENIENT = CustomCodec("lenient", lambda x: json.dumps(x, default=str).encode(), json.loads)
BAD = OperationError(type="ValueError", message="no luck", traceback="line 1\n")
CODECS = [name + zstd for name in ("msgpack", "json", "cbor", "pickle") for zstd in ("", "+zstd")]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "results",
    [[], [1], [BAD], [1, BAD, "x", None, BAD], [BAD] * 300, list(range(300)), [*range(70_000)]],
    ids=["none", "one", "one bad", "mixed", "300 bad", "300", "70,000"],
)
def test_what_goes_in_comes_out_in_its_place(name: str, results: list[object]) -> None:
    """With every codec."""
    codec = open_codec(name, allow_pickle=True)

    encoded = encode_output(results, codec, collects=True)

    failed = {i: result for i, result in enumerate(results) if result is BAD}
    assert results == decode_output(encoded.data, codec)
    assert failed == errors_of(encoded.data)
    assert len(failed) == encoded.operations_failed


@pytest.mark.parametrize("name", CODECS)
def test_without_errors_it_is_the_list_alone(name: str) -> None:
    """This is the form of producers and of earlier outputs."""
    codec = open_codec(name, allow_pickle=True)

    encoded = encode_output([1, "x"], codec, collects=True)

    assert codec.encode([1, "x"]) == encoded.data


def test_a_custom_codec_may_begin_its_lists_as_it_likes() -> None:
    """An envelope around it tells the two apart."""
    codec = CustomCodec(
        "mine", lambda values: MAGIC + MSGPACK.encode(values), lambda data: MSGPACK.decode(data[8:])
    )

    encoded = encode_output([1, 2], codec)

    assert decode_output(encoded.data, codec) == [1, 2]
    assert errors_of(encoded.data) == {}


def test_a_result_that_cannot_be_carried_is_an_error_of_its_operation() -> None:
    """Of that one alone, beside those that raised."""
    encoded = encode_output([1, object(), BAD, {1, object()}, 5], MSGPACK, collects=True)

    errors = errors_of(encoded.data)
    assert list(errors) == [1, 2, 3]
    assert errors[1].type == "EncodingError"
    assert "can't encode the result of operation 1 of the chunk, an object" in errors[1].message
    assert [1, errors[1], BAD, errors[3], 5] == decode_output(encoded.data, MSGPACK)


def test_where_errors_are_not_collected_it_fails_the_chunk() -> None:
    """This is the default."""
    with pytest.raises(EncodingError, match="operation 1 of the chunk"):
        encode_output([1, object()], MSGPACK)


def test_results_that_only_together_cannot_be_carried_fail_the_chunk() -> None:
    """No single operation is to blame."""

    def dumps(values: list[object]) -> bytes:
        if len(values) > 1:
            raise ValueError(len(values))
        return MSGPACK.encode(values)

    with pytest.raises(EncodingError, match="try smaller chunks"):
        encode_output([1, 2], CustomCodec("mine", dumps, MSGPACK.loads), collects=True)


def test_equal_tracebacks_are_stored_once_and_all_of_them_are_bounded() -> None:
    """A thousand operations that fail in one line must not store a thousand tracebacks."""
    same = [OperationError(type="E", message=str(i), traceback="t" * 4_000) for i in range(1_000)]
    others = [
        OperationError(type="E", message="", traceback=f"{i:04}" * 1_000) for i in range(1_000)
    ]

    encoded = encode_output([*same, *others, same[0]], MSGPACK, collects=True)

    read = list(errors_of(encoded.data).values())
    assert same == read[:1_000]
    assert read[1_000] == others[0]
    assert read[-2].traceback == ""
    assert read[-1] == same[0]
    assert len(encoded.data) < MAX_TRACEBACK_CHARACTERS + 100_000


def test_text_that_is_no_unicode_is_stored_all_the_same() -> None:
    """File names can contain lone surrogates."""
    odd = OperationError(type="E", message="\udc80", traceback="\udc81")

    (read,) = errors_of(encode_output([odd], MSGPACK, collects=True).data).values()

    assert (read.message, read.traceback) == ("\\udc80", "\\udc81")


async def coroutine() -> int:
    return 1


async def asynchronous_generator() -> AsyncIterator[int]:
    yield 1


def generator() -> Iterator[int]:
    yield 1


LOOP = asyncio.new_event_loop()
LOOP.close()
NOT_RUN: list[Callable[[], object]] = [
    coroutine,
    asynchronous_generator,
    generator,
    Future,
    lambda: asyncio.Future(loop=LOOP),
]


@pytest.mark.parametrize("call", NOT_RUN)
@pytest.mark.parametrize("codec", [MSGPACK, LENIENT])
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_call_that_has_not_run_is_no_result(call: Callable[[], object], codec: Codec) -> None:
    """Also where the codec would write its `repr`."""
    with pytest.raises(EncodingError, match=r"operation 1 of the chunk is a .*not run to its end"):
        encode_output([None, call()], codec)


@pytest.mark.parametrize("call", NOT_RUN)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_call_that_has_not_run_is_collected(call: Callable[[], object]) -> None:
    """As the error of its operation."""
    encoded = encode_output([1, call(), None], LENIENT, collects=True)

    assert list(errors_of(encoded.data)) == [1]
    assert errors_of(encoded.data)[1].type == "EncodingError"
    assert decode_output(encoded.data, LENIENT)[::2] == [1, None]


@pytest.mark.parametrize("collects", [False, True])
def test_an_operation_without_a_result_is_a_defect(*, collects: bool) -> None:
    """None is a result, but a result that was never set is not."""
    with pytest.raises(OpsqueueInternalError, match="operation 1 of the chunk has neither"):
        encode_output([None, NO_RESULT], LENIENT, collects=collects)


WHOLE = encode_output([1, BAD, 3, BAD], MSGPACK, collects=True).data


@pytest.mark.parametrize("length", range(len(MAGIC), len(WHOLE)))
def test_an_output_cut_short_is_damaged(length: int) -> None:
    """Wherever it is cut."""
    with pytest.raises(EncodingError):
        decode_output(WHOLE[:length], MSGPACK)


def rows(operations: int, rows: list[tuple[int, int]], results: list[object]) -> bytes:
    records = MSGPACK.encode(
        [operations, ["", "t"], [[index, "E", "m", traceback] for index, traceback in rows]]
    )
    return MAGIC + len(records).to_bytes(8, "big") + records + MSGPACK.encode(results)


@pytest.mark.parametrize(
    "data",
    [
        rows(2, [(2, 0)], [1]),
        rows(2, [(-1, 0)], [1]),
        rows(2, [(0, 2)], [1]),
        rows(2, [(0, -1)], [1]),
        rows(3, [(1, 0), (0, 0)], [1]),
        rows(3, [(1, 0), (1, 0)], [1]),
        rows(3, [(1, 0)], [1]),
        rows(3, [(1, 0)], [1, 2, 3]),
        MAGIC + (2**63).to_bytes(8, "big") + b"\x93",
        MAGIC + (1).to_bytes(8, "big") + b"\xc0" + MSGPACK.encode([]),
        WHOLE + b"\x00",
    ],
)
def test_results_and_errors_that_do_not_make_up_the_chunk_are_damaged(data: bytes) -> None:
    """A result never gets the place of another operation."""
    with pytest.raises(EncodingError):
        decode_output(data, MSGPACK)
