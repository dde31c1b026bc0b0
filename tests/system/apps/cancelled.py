"""Handlers whose second operation awaits something that was cancelled."""

from __future__ import annotations

import asyncio
import os

from opsqueue import Opsqueue

app = Opsqueue()
queue = os.environ["TEST_QUEUE"]


@app.operation_handler(f"{queue}-async")
@app.operation_handler(f"{queue}-async-collecting", on_error="collect")
@app.operation_handler(f"{queue}-async-3", concurrency=3)
@app.operation_handler(f"{queue}-async-3-collecting", concurrency=3, on_error="collect")
async def wait(number: int) -> int:
    """Return ten times the number, except for 2."""
    if number == 2:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
    return number * 10


@app.operation_handler(f"{queue}-plain")
@app.operation_handler(f"{queue}-plain-collecting", on_error="collect")
@app.operation_handler(f"{queue}-plain-3", concurrency=3)
@app.operation_handler(f"{queue}-plain-3-collecting", concurrency=3, on_error="collect")
def run(number: int) -> int:
    """Do the same on a loop of its own."""
    return asyncio.run(wait(number))


@app.chunk_handler(f"{queue}-chunk")
async def wait_for_all(numbers: list[int]) -> list[int]:
    """Do the same for a chunk, and cancel what runs it."""
    task = asyncio.current_task()
    if 2 in numbers and task is not None:
        task.cancel()
    return [number * 10 for number in numbers]
