"""The encoding of messages between parent and child."""

from __future__ import annotations

from multiprocessing import Pipe

from msgspec.structs import replace

from opsqueue.model.chunk import Reservation, Token
from opsqueue.model.submission import SubmissionId
from opsqueue_worker.pool.messages import Work, chunks_of, read_from_parent, send, works_of
from tests.opsqueue_worker.intake.test_reporter import CHUNK


def test_chunks_of_one_submission_share_a_message() -> None:
    """Chunks of other submissions between them begin further messages, in order."""
    other = replace(CHUNK, source=replace(CHUNK.source, submission_id=SubmissionId(42)))
    chunks = [
        replace(chunk, token=Token(f"{number}-0"), chunk_index=number, attempt=2, input=b"in")
        for number, chunk in enumerate([CHUNK, CHUNK, other, CHUNK])
    ]
    ours, theirs = Pipe()

    works = works_of(enumerate(chunks, start=7))
    came: list[tuple[int, Reservation]] = []
    for work in works:
        send(ours, work)
        message = read_from_parent(theirs.recv_bytes())
        assert isinstance(message, Work)
        came += chunks_of(message)

    assert [len(work.chunks) for work in works] == [2, 1, 1]
    assert came == list(enumerate(chunks, start=7))
