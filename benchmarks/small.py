"""The cost of small submissions, through Redis and through the object store.

    python benchmarks/small.py [--submissions 200] [--latency-ms 20]

Submissions of 10 operations (two chunks of 5) are inserted, processed, and their results read, in
one process with one embedded server, so that the cases differ only in where the bytes go. The store
is a folder, and then a folder with a pause before each request, as for a bucket in a region.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from opsqueue.handlers.app import Opsqueue
from opsqueue.handlers.execute import Done, execute
from opsqueue.model.new_submission import INLINE_BYTES
from opsqueue.producer import ProducerClient
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from opsqueue.store.local import LocalStore
from opsqueue.testing.embedded import EmbeddedServer
from report import Report

app = Opsqueue()


@app.chunk_handler("small")
def double(numbers: list[int]) -> list[int]:
    return [2 * number for number in numbers]


class SlowStore(LocalStore):
    """A folder with the latency of a bucket."""

    def __init__(self, root: str, latency_s: float) -> None:
        super().__init__(root)
        self._latency_s = latency_s
        self.requests = 0

    def _wait(self) -> None:
        self.requests += 1
        time.sleep(self._latency_s)

    def get(self, key: str) -> bytes:
        self._wait()
        return super().get(key)

    def create(self, key: str, data: bytes) -> bool:
        self._wait()
        return super().create(key, data)


def run_one(producer: ProducerClient, queue: Queue, store: LocalStore) -> None:
    id_ = producer.insert_submission(range(10), chunk_size=5)
    for chunk in queue.reserve_chunks("worker", limit=10).chunks:
        done = execute(chunk, app.handler_of("small"), store)
        if not isinstance(done, Done):
            raise TypeError(done)
        outputs = {} if done.output is None else {done.token: done.output}
        queue.complete_chunks([done.token], outputs=outputs)
    if list(producer.try_stream_completed_submission(id_)) != [2 * n for n in range(10)]:
        raise AssertionError(id_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--latency-ms", type=float, default=20)
    options = parser.parse_args()
    report = Report("small", options=vars(options))
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        client = connect(server.url)
        report.say_where(client)
        table = report.table(
            {
                "bytes go through": "{way}",
                "store": "{store}",
                "ms a submission": "{ms:.1f}",
                "store requests a submission": "{requests:.0f}",
            }
        )
        queue = Queue(client, "small")
        for latency_ms in (0.0, options.latency_ms):
            for name, inline_bytes in (("Redis", INLINE_BYTES), ("the store", 0)):
                store = SlowStore(f"{folder}/store", latency_ms / 1000)
                producer = ProducerClient.over(
                    RedisBackend(client), store, queue="small", inline_bytes=inline_bytes
                )
                run_one(producer, queue, store)  # loads scripts
                store.requests = 0
                began = time.monotonic()
                for _ in range(options.submissions):
                    run_one(producer, queue, store)
                ms = (time.monotonic() - began) * 1000 / options.submissions
                where = f"folder + {latency_ms:g} ms" if latency_ms else "folder"
                requests = store.requests / options.submissions
                table.add({"way": name, "store": where, "ms": ms, "requests": requests})
        client.close()
    report.save()


if __name__ == "__main__":
    main()
