"""Many producers and consumers, each a separate process; every producer gets its own results.

    python many.py http://127.0.0.1:3999 STORE_URL 8 4      # eight producers, four consumers

A producer's number is its strategic metadata, so that consumers serve all producers fairly: one
that submits a lot does not keep the others waiting.
"""

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from opsqueue.consumer import Chunk, ConsumerClient, Strategy
from opsqueue.producer import ProducerClient

QUEUE = "squares"
FAIR = Strategy.PreferDistinct(meta_key="producer", underlying=Strategy.Oldest())


def produce(number: int, api_url: str, store_url: str) -> None:
    numbers = range(number * 1_000, number * 1_000 + 100)
    with ProducerClient(api_url, store_url, queue=QUEUE) as producer:
        squares = producer.run_submission(
            numbers, chunk_size=10, strategic_metadata={"producer": number}
        )
        if list(squares) != [n * n for n in numbers]:
            sys.exit(f"producer {number} has got something else")


def consume(api_url: str, store_url: str) -> None:
    # Like Ctrl-C: the reserved chunk is released at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        ConsumerClient(api_url, store_url, queue=QUEUE) as consumer,
    ):
        consumer.run_each_chunk(square, strategy=FAIR)


def square(numbers: Sequence[int], _chunk: Chunk) -> list[int]:
    return [number * number for number in numbers]


def main() -> None:
    api_url, store_url, producers, consumers = sys.argv[1:]
    processes = multiprocessing.get_context("spawn")
    consuming = [
        processes.Process(target=consume, args=(api_url, store_url)) for _ in range(int(consumers))
    ]
    producing = [
        processes.Process(target=produce, args=(number, api_url, store_url))
        for number in range(int(producers))
    ]
    for process in [*consuming, *producing]:
        process.start()
    for process in producing:
        process.join()
    for process in consuming:
        process.terminate()
    for process in consuming:
        process.join()
    failed = [process.exitcode for process in [*consuming, *producing] if process.exitcode]
    if failed:
        sys.exit(f"{len(failed)} processes failed")
    print(f"{producers} producers have their squares, in order, of {consumers} consumers")


if __name__ == "__main__":
    main()
