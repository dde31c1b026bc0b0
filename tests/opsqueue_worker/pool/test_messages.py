"""The encoding of messages between parent and child."""

from __future__ import annotations

from multiprocessing import Pipe

from msgspec.structs import replace

from opsqueue.model.chunk import Reservation, Source, Token
from opsqueue.model.submission import SubmissionId
from opsqueue_worker.pool.messages import Work, read_from_parent, reservation_of, send, works_of
from opsqueue_worker.pool.waiting import PoolChunk
from tests.opsqueue_worker.intake.test_reporter import CHUNK


def test_chunks_of_one_submission_share_a_message() -> None:
    """Chunks of other submissions between them begin further messages, in order.

    The same source is sent again only after another one.
    """
    other = replace(CHUNK, source=replace(CHUNK.source, submission_id=SubmissionId(42)))
    again = replace(CHUNK, source=replace(CHUNK.source))
    chunks = [
        replace(chunk, token=Token(f"{number}-0"), chunk_index=number, attempt=2, input=b"in")
        for number, chunk in enumerate([CHUNK, CHUNK, other, CHUNK, again])
    ]
    ours, theirs = Pipe()

    numbered = [
        (PoolChunk(reservation=chunk, reserved_at=0.0, begin_by=0.0, sequence=sequence), 1.5)
        for sequence, chunk in enumerate(chunks, start=7)
    ]
    works = works_of(numbered[:3])
    works += works_of(numbered[3:4], source=other.source)
    works += works_of(numbered[4:], source=CHUNK.source)
    came: list[tuple[int, Reservation, float]] = []
    source: Source | None = None
    for work in works:
        send(ours, work)
        message = read_from_parent(theirs.recv_bytes())
        assert isinstance(message, Work)
        source = message.source or source
        assert source is not None
        came += [
            (chunk.sequence, reservation_of(chunk, source), chunk.good_until)
            for chunk in message.chunks
        ]

    assert [len(work.chunks) for work in works] == [2, 1, 1, 1]
    assert [work.source is None for work in works] == [False, False, False, True]
    assert came == [(number, chunk, 1.5) for number, chunk in enumerate(chunks, start=7)]
