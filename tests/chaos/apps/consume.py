"""The consumer of the fault suite: `python consume.py URL STORE`; exits with 3 as a worker does."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from execution_log import logged

from opsqueue.consumer import Chunk, ConsumerClient
from opsqueue.exceptions import ConnectionTroubleError
from opsqueue.strategy import Newest
from tests.chaos.values import (
    CONSUMED,
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_S,
    TIME_LIMIT_S,
    result_of,
)


def compute(operations: Sequence[Any], chunk: Chunk) -> list[Any]:
    attempt = chunk.retries + 1
    with logged(CONSUMED, int(chunk.submission_id), chunk.chunk_index, attempt, operations):
        results = []
        for number, milliseconds, _ in operations:
            time.sleep(milliseconds / 1000)
            results.append(result_of(number))
        return results


try:
    with ConsumerClient(
        sys.argv[1],
        sys.argv[2],
        queue=CONSUMED,
        reservation_ms=int((2 * TIME_LIMIT_S + 5) * 1000),
        heartbeat_interval_s=HEARTBEAT_INTERVAL_S,
        heartbeat_timeout_s=HEARTBEAT_TIMEOUT_S,
    ) as consumer:
        print("ready", file=sys.stderr, flush=True)
        consumer.run_each_chunk(compute, strategy=Newest())
except ConnectionTroubleError as exc:
    print(f"Error: {exc}", file=sys.stderr)
    sys.exit(3)
