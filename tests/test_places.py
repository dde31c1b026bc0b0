"""The number of places that name a field: the cost of adding another one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = tuple(
    path
    for folder in ("opsqueue", "api/opsqueue_api", "worker/opsqueue_worker")
    for kind in ("*.py", "*.lua")
    for path in sorted((ROOT / folder).rglob(kind))
)


def places_of(name: str) -> list[str]:
    """Return every line that has the name, as FILE:NUMBER."""
    word = re.compile(rf"\b{name}\b")
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if word.search(line)
    ]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        # What producers ask for: an option, its way into Redis and out of it.
        ("delete_inputs_at_completion", 11),
        # What answers only tell: declared, read from Redis, and shown by who shows it.
        ("last_failure", 9),
        ("oldest_waiting_at", 7),
    ],
)
def test_a_field_is_written_in_no_more_places_than_it_was(name: str, most: int) -> None:
    """None of them is a body, an encoder or a decoder: values are their own JSON form."""
    places = places_of(name)

    assert len(places) <= most, "\n".join(places)
