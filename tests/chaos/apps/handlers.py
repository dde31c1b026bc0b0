"""The handlers of the fault suite; each call leaves a line when it begins and one when it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from execution_log import logged

from opsqueue import Chunk, Opsqueue
from opsqueue.strategy import MaxSimultaneous, Oldest, PreferDistinct, Random
from tests.chaos.values import FAIR, QUICK, STORED, TIME_LIMIT_S, result_of

app = Opsqueue()


@app.chunk_handler(QUICK, strategy=Random(), time_limit=TIME_LIMIT_S)
@app.chunk_handler(STORED, strategy=Oldest(), time_limit=TIME_LIMIT_S)
def compute(operations: Sequence[Any], chunk: Chunk) -> list[Any]:
    with logged(
        chunk.queue, int(chunk.submission_id), chunk.chunk_index, chunk.attempt, operations
    ):
        if operations[0][2] == "raise" and chunk.attempt == 1:
            message = "as told, at the first attempt"
            raise ValueError(message)
        return [_one(*operation) for operation in operations]


@app.chunk_handler(
    FAIR,
    strategy=MaxSimultaneous("customer", 2, PreferDistinct("customer", Oldest())),
    time_limit=TIME_LIMIT_S,
    on_error="collect",
)
def compute_and_collect(operations: Sequence[Any], chunk: Chunk) -> list[Any]:
    with logged(
        chunk.queue, int(chunk.submission_id), chunk.chunk_index, chunk.attempt, operations
    ):
        return [
            ValueError("as told") if operation[2] == "error" else _one(*operation)
            for operation in operations
        ]


def _one(number: int, milliseconds: int, _how: str) -> int:
    time.sleep(milliseconds / 1000)
    return result_of(number)
