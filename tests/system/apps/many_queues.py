"""An app with as many queues as the environment says, whose handlers do nothing."""

from __future__ import annotations

import os

from opsqueue import Opsqueue

app = Opsqueue()


def same(value: object) -> object:
    return value


for number in range(int(os.environ["TEST_QUEUES"])):
    app.operation_handler(f"{os.environ['TEST_QUEUE']}-{number}")(same)
