"""A producer as a program: `python -m upload API STORE QUEUE KEY COUNT [hang]`; prints the id.

With `hang` it stops halfway through its operations, prints that, and waits to be killed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from opsqueue.producer import ProducerClient

api_url, store_url, queue, key, count, *rest = sys.argv[1:]


def operations() -> Iterator[int]:
    for number in range(int(count)):
        if rest == ["hang"] and number == int(count) // 2:
            print("half way", flush=True)  # noqa: T201 the test waits for it
            time.sleep(600)
        yield number


# None of it inline: what is killed here is an upload.
with ProducerClient(api_url, store_url, queue=queue, at_once=2, inline_bytes=0) as producer:
    id_ = producer.insert_submission(operations(), chunk_size=10, idempotency_key=key)
    print("inserted", id_, flush=True)  # noqa: T201 as above
