"""The producer of a queue: `produce.py ADAPTER`, run in the queue's own environment.

It reads lines of "OPERATIONS SIZE", one at a time, and answers each with the seconds from
submitting the first operation until every result was received, in order, and correct.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    adapter = importlib.import_module(sys.argv[1])
    with asyncio.Runner() as runner:

        def call(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 handles
            result = function(*arguments)
            return runner.run(result) if inspect.iscoroutine(result) else result

        for line in sys.stdin:
            operations, size = map(int, line.split())
            numbers = range(operations)
            began = time.monotonic()
            if size > 1:
                results = call(adapter.batch, numbers, size)
            else:
                results = call(adapter.collect, call(adapter.enqueue, numbers))
            if list(results) != list(range(1, operations + 1)):
                raise SystemExit(f"{sys.argv[1]}: results are wrong: {list(results)[:10]} ...")
            print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
