"""A worker serves several queues and reports each chunk to its own queue."""

from __future__ import annotations

import pytest
import redis

from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionState
from opsqueue.producer import OperationFailed
from tests.system.conftest import ProducerOf, Start

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

COUNT = 200


@pytest.mark.parametrize(("pool", "inline_bytes"), [("process", 256 * 1024), ("thread", 0)])
def test_queues_whose_tokens_are_alike_are_not_taken_for_each_other(
    start: Start, real_client: redis.Redis, redis_url: str, store_url: str, queue_name: str,
    producer_of: ProducerOf, pool: str, inline_bytes: int,
) -> None:  # fmt: skip
    """A token is a stream's id: unique in its queue, and by chance the same in another."""
    a, b = (producer_of(suffix, inline_bytes=inline_bytes) for suffix in ("-a", "-b"))
    of_a, of_b = (one.insert_submission(range(COUNT), chunk_size=1) for one in (a, b))
    for producer in (a, b):
        # From here on both streams count on from the same id.
        key = f"{base_key(producer.queue)}reservations"
        real_client.xadd(key, {"s": "none"}, id="9000000000000-0")
        real_client.xdel(key, "9000000000000-0")

    start(
        *("opsqueue_worker", "two_queues:app", "-c", "2", "--pool", pool, "--burst"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=f"{store_url}?durable=false",
        TEST_QUEUE=queue_name,
    ).wait()

    status = a.get_submission(of_a)
    assert (status.state, status.operations_failed) == (SubmissionState.COMPLETED, 0)
    assert [f"a{number}" for number in range(COUNT)] == list(
        a.try_stream_completed_submission(of_a)
    )
    results = list(b.try_stream_completed_submission(of_b, errors="yield"))
    assert [f"b{number}" for number in range(0, COUNT, 2)] == results[::2]
    assert all(isinstance(result, OperationFailed) for result in results[1::2])
    assert b.get_submission(of_b).operations_failed == COUNT // 2
