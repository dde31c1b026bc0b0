"""The consumer's client: takes chunks, has them worked on by a callback, stores what comes out."""

from opsqueue.consumer.client import ConsumerClient
from opsqueue.handlers.app import Chunk
from opsqueue.model.submission import ChunkIndex, SubmissionId
from opsqueue.strategy import Strategy

__all__ = ["Chunk", "ChunkIndex", "ConsumerClient", "Strategy", "SubmissionId"]
