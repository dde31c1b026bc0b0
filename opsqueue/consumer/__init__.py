"""The consumer's client: takes chunks, has them worked on by a callback, stores what comes out."""

from opsqueue.consumer.client import Chunk, ChunkIndex, ConsumerClient, Strategy, SubmissionId

__all__ = ["Chunk", "ChunkIndex", "ConsumerClient", "Strategy", "SubmissionId"]
