"""The window of chunks in an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opsqueue.model.answers import ChunkWindow


@given(st.integers(0, 40), st.integers(0, 40), st.binary(max_size=5) | st.just(b"\xff" * 5))
def test_a_window_is_done_until_its_first_chunk_that_is_not(
    first: int, length: int, bits: bytes
) -> None:
    """Counted by whole bytes, it is what counting chunk by chunk gives."""
    window = ChunkWindow(first, first + length, bits)

    index = first
    while index in window:
        index += 1

    assert window.done_until == index
