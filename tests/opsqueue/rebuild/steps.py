"""An app whose handler fails for some operations, and steps of the tests of rebuild."""

from __future__ import annotations

from typing import Any

from opsqueue.handlers.app import Opsqueue
from opsqueue.model.submission import Submission
from opsqueue.producer import ProducerClient
from opsqueue.queue.rebuild import Rebuilt, rebuild
from opsqueue.testing import LocalOpsqueue

app = Opsqueue()


@app.operation_handler("numbers", on_error="collect")
def halve(operation: int) -> int:
    if operation % 2:
        message = f"{operation} is odd"
        raise ValueError(message)
    return operation // 2


def insert(producer: ProducerClient, *operations: int, **options: Any) -> Submission:
    id_ = producer.insert_submission(operations, chunk_size=2, **options)
    return producer.get_submission(id_)


def the_rebuilt(local: LocalOpsqueue) -> Submission:
    (rebuilt,) = list(rebuild(local.store, local.queue("numbers")))
    assert isinstance(rebuilt, Rebuilt)
    assert rebuilt.submission_id is not None
    return local.queue("numbers").get_submission(rebuilt.submission_id)
