"""Retrying only the failed operations of a submission: values and checks, no I/O."""

from __future__ import annotations

from opsqueue.exceptions import InvalidArgumentError, SubmissionNotCompletedYetError
from opsqueue.model.new_submission import NewSubmission
from opsqueue.model.submission import Submission, SubmissionState


def check_only(only: str) -> None:
    """Raise InvalidArgumentError unless `ProducerClient.retry_submission` accepts this `only`."""
    if only != "failed":
        message = f"only={only!r}: give 'failed', the operations that have an error"
        raise InvalidArgumentError(message)


def empty_retry_of(
    old: Submission, *, prefix: str, max_failed_operations: float | None
) -> NewSubmission:
    """Return a submission with the settings of an old one, and without operations.

    Raises:
        SubmissionNotCompletedYetError: the old one is in progress.
        InvalidArgumentError: no operation of the old one failed.
    """
    if old.state is SubmissionState.IN_PROGRESS:
        message = (
            f"submission {old.id} is in progress: its failed operations can be retried when it "
            "has ended"
        )
        raise SubmissionNotCompletedYetError(message, old.id)
    if old.operations_failed == 0:
        message = f"submission {old.id} has no operation that failed: there is none to retry"
        raise InvalidArgumentError(message)
    return NewSubmission(
        prefix=prefix,
        chunks_total=0,
        chunk_size=old.chunk_size,
        operations_total=0,
        codec=old.codec,
        max_attempts=old.max_attempts,
        max_failed_operations=max_failed_operations,
        backoff=old.backoff,
        retention_ms=old.retention_ms,
        delete_inputs_at_completion=old.delete_inputs_at_completion,
        metadata=old.metadata,
        strategic_metadata=old.strategic_metadata,
        trace_context=old.trace_context,
    )
