"""The pools in which handlers run: child processes, threads, an event loop, or the main thread."""

from typing import Literal

PoolKind = Literal["process", "thread", "async", "solo"]
