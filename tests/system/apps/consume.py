"""A consumer as a program: `python -m consume URL STORE QUEUE [hang]`; prints its actions."""

from __future__ import annotations

import sys
import time
from typing import Any

from opsqueue.consumer import ConsumerClient, Strategy

url, store, queue, *rest = sys.argv[1:]


def increment(number: int) -> Any:
    print("got", number, flush=True)  # noqa: T201 the test waits for it
    if rest == ["hang"]:
        time.sleep(600)
    return number + 1


consumer = ConsumerClient(url, store, queue=queue, heartbeat_interval_s=0.2, heartbeat_timeout_s=1)
print("waiting", flush=True)  # noqa: T201 as above
consumer.run_each_op(increment, strategy=Strategy.Oldest())
