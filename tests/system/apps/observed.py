"""Handlers of several kinds whose failures are observed; hooks write a line for each call."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

from opsqueue import Chunk, Opsqueue

QUEUE = os.environ.get("TEST_QUEUE", "observed")
LOG = Path(os.environ.get("TEST_LOG", os.devnull))
kinds = Opsqueue()
app = Opsqueue()
app.include(kinds)


def divide(number: int, by: int) -> float:
    return number / by


class Divides:
    async def __call__(self, number: int, by: int = 0) -> float:
        return number / by


def begin_dividing(number: int) -> Any:
    return Divides()(number)


kinds.operation_handler(f"{QUEUE}-partial")(functools.partial(divide, by=0))
kinds.operation_handler(f"{QUEUE}-object", on_error="collect")(Divides())
kinds.operation_handler(f"{QUEUE}-hidden", on_error="collect")(begin_dividing)
kinds.operation_handler(f"{QUEUE}-limited", time_limit=1)(functools.partial(divide, by=0))


@app.on_chunk_failure
def observe_chunk(error: BaseException, chunk: Chunk) -> None:
    if chunk.queue.endswith("-limited"):
        time.sleep(30)
    write(f"{chunk.queue} {type(error).__name__} {chunk.attempt}")
    raise SystemExit(3)


@app.on_operation_error
def observe_operation(error: BaseException, chunk: Chunk, index: int, operation: Any) -> None:
    write(f"{chunk.queue} {type(error).__name__} {index} {operation}")
    raise OSError


def write(line: str) -> None:
    with LOG.open("a") as file:
        file.write(f"{line}\n")
