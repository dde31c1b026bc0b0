"""A program that reserves chunks itself instead of being called by `opsqueue-worker`.

    python consumer.py http://127.0.0.1:3999 STORE_URL

A process works on one chunk at a time; start as many as you like. TERM ends it after its chunk;
Ctrl-C releases the chunk at once. redis://… instead of the API's URL works, too.
"""

import signal
import sys

from opsqueue.consumer import ConsumerClient, Strategy


def increment(number: int) -> int:
    return number + 1


def main() -> None:
    api_url, store_url = sys.argv[1:]
    with ConsumerClient(api_url, store_url, queue="numbers") as consumer:
        signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
        print("waiting for numbers", flush=True)
        consumer.run_each_op(increment, strategy=Strategy.Oldest())


if __name__ == "__main__":
    main()
