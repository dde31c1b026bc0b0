"""As many queues as the environment says, of which none does anything."""

from __future__ import annotations

import os

from opsqueue import Opsqueue

app = Opsqueue()


def same(value: object) -> object:
    return value


for number in range(int(os.environ["TEST_QUEUES"])):
    app.operation_handler(f"{os.environ['TEST_QUEUE']}-{number}")(same)
