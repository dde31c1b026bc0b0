"""The consumer's client: reserves chunks, calls a callback with them and stores the outputs."""

from opsqueue.consumer.client import ConsumerClient
from opsqueue.handlers.app import Chunk
from opsqueue.model.submission import ChunkIndex, SubmissionId
from opsqueue.strategy import Strategy

__all__ = ["Chunk", "ChunkIndex", "ConsumerClient", "Strategy", "SubmissionId"]
