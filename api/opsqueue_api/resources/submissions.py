"""Submissions of a queue: insert, list, look up, get, change, cancel and retry them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from urllib.parse import quote

import falcon
import msgspec

from opsqueue.contents.chunks import fresh_prefix
from opsqueue.contents.codec import open_codec
from opsqueue.http.bodies import (
    WARNING_HEADER,
    IdsBody,
    InsertBody,
    PatchBody,
    ProblemType,
)
from opsqueue.model.answers import Inserted, SubmissionPage
from opsqueue.model.new_submission import DEFAULT_CODEC
from opsqueue.model.submission import (
    MAX_LOOKED_UP,
    Submission,
    SubmissionFilter,
    SubmissionId,
    SubmissionState,
)
from opsqueue.producer import ProducerClient
from opsqueue.producer.backends import Backend
from opsqueue.producer.insert import SubmissionInserter
from opsqueue.queue.queue import Queue
from opsqueue.store import ObjectStore
from opsqueue_api.http.body import (
    Contents,
    Uploaded,
    contents_of,
    decode,
    decode_insert,
    idempotency_key,
    read_body,
)
from opsqueue_api.http.long_polls import MAX_WAIT_S, LongPolls
from opsqueue_api.http.operation import (
    ID_SCHEMA,
    IDEMPOTENCY_KEY,
    META,
    NDJSON,
    NDJSON_TYPES,
    WAIT,
    Content,
    Parameter,
    choice_parameter,
    integer_parameter,
    operation,
)
from opsqueue_api.http.parameters import (
    ID,
    checked_id,
    choice,
    instant,
    integer,
    number,
    pairs_of,
    write,
)
from opsqueue_api.http.problem import Problem, ProblemError, invalid
from opsqueue_api.http.settings import Limits
from opsqueue_api.http.tracing import traced
from opsqueue_api.resources.ndjson import (
    NDJSON_PARAMETERS,
    body_of_query,
    is_ndjson,
    lines_of,
)
from opsqueue_api.resources.queues import QueueOf

MAX_LISTED: Final = 100
"""Each submission can have a traceback of 64 KiB. A page with much metadata is shorter."""

_INSTANT: Final = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"]}
_STATES: Final = ["any", *(state.value for state in SubmissionState)]
_PATCH_BYTES: Final = 512 * 1024
"""Room for the longest keys that one call can remove and add."""
_PATCH_DECODER: Final = msgspec.json.Decoder(PatchBody)


class Submissions:
    """`/v1/queues/{queue}/submissions`: inserting and listing."""

    def __init__(self, queue_of: QueueOf, store: ObjectStore, limits: Limits) -> None:
        """Store the collaborators."""
        self._queue_of = queue_of
        self._store = store
        self._limits = limits
        self._codec = open_codec(DEFAULT_CODEC)

    @operation(
        IDEMPOTENCY_KEY,
        *NDJSON_PARAMETERS,
        body=(
            Content(InsertBody),
            Content(
                None,
                NDJSON,
                "A line for each operation, with the limits of a JSON body; the other fields are "
                "query parameters.",
                NDJSON_TYPES[1:],
            ),
        ),
        answers={
            201: Content(Submission, about="Inserted."),
            200: Content(Submission, about="The submission that was inserted with the same key."),
        },
        problems=(
            ProblemType.PREFIX_TAKEN,
            ProblemType.SUBMISSION_FORGOTTEN,
            ProblemType.IDEMPOTENCY_KEY_REUSED,
            ProblemType.NOT_CONFIRMED,
        ),
    )
    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Insert a submission and return its status.

        The answer is 201 for a new submission, or 200 with the first one if the idempotency key is
        known.
        """
        on = self._queue_of(queue)
        key = idempotency_key(req)
        if is_ndjson(req):
            body = traced(body_of_query(req), req)
            operations = lines_of(req, chunk_size=body.chunk_size, limits=self._limits)
            inserted = self._insert(on, body, operations, key)
            self._answer(req, resp, on, inserted)
            return
        if req.params:
            message = (
                f"query parameter {next(iter(req.params))[:40]!r} is only for an NDJSON body: with "
                "a JSON body, make it a field of the body"
            )
            raise invalid(message)
        body = traced(decode_insert(read_body(req, limit_bytes=self._limits.body_bytes)), req)
        match contents_of(body, self._limits):
            case Contents() as contents:
                inserted = self._insert(on, body, contents.operations, key)
            case Uploaded() as uploaded:
                new = body.to_new_submission(
                    prefix=uploaded.prefix,
                    chunks_total=uploaded.chunks_total,
                    operations_total=uploaded.operations_total,
                    codec=uploaded.codec,
                    inline=uploaded.inline,
                )
                inserted = self._inserter(on).insert_encoded(new, key)
        self._answer(req, resp, on, inserted)

    def _answer(
        self, req: falcon.Request, resp: falcon.Response, on: Queue, inserted: Inserted
    ) -> None:
        resp.status = falcon.HTTP_201 if inserted.is_new else falcon.HTTP_200
        # Relative to the request's path, since a proxy may have removed a prefix.
        has_slash = req.env["PATH_INFO"].endswith("/")
        resp.location = f"{inserted.id}" if has_slash else f"submissions/{inserted.id}"
        if inserted.warning:
            # A header may contain only printable ASCII.
            resp.set_header(WARNING_HEADER, quote(inserted.warning, safe=" !'(),:=[]"))
        write(resp, inserted.submission or on.get_submission(inserted.id))

    def _insert(self, on: Queue, body: InsertBody, operations: Iterable[Any], key: str) -> Inserted:
        # Created before anything is stored, since it checks every value of the body except the
        # number of operations.
        empty = body.to_new_submission(
            prefix=fresh_prefix(on.name), chunks_total=0, operations_total=0, codec=self._codec.name
        )
        inserter = self._inserter(on)
        return inserter.insert(empty, operations, self._codec, key, is_compared=True)

    def _inserter(self, on: Queue) -> SubmissionInserter:
        return SubmissionInserter(on, self._store, inline_bytes=self._limits.inline_bytes)

    @operation(
        choice_parameter("state", _STATES, "Only submissions in this state; `any` means all."),
        META,
        Parameter("created_from", _INSTANT, "Created at this instant or later."),
        Parameter("created_until", _INSTANT, "Created before this instant."),
        Parameter("after", ID_SCHEMA, "The field `next` of the previous page."),
        choice_parameter("order", ["newest", "oldest"], "Which submissions come first."),
        integer_parameter(
            "limit", "Maximum number of submissions.", least=1, most=MAX_LISTED, default=50
        ),
        answers=SubmissionPage,
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """List a page of the submissions that match the filters."""
        state = choice(req, "state", _STATES)
        wanted = SubmissionFilter(
            state=None if state == "any" else SubmissionState(state),
            strategic_metadata=pairs_of(req),
            created_from=instant(req, "created_from"),
            created_until=instant(req, "created_until"),
        )
        after = req.get_param("after")
        if after is not None and not ID.fullmatch(after):
            message = f"after={after[:40]!r}: use the id of a submission, such as `next` of a list"
            raise invalid(message)
        page = self._queue_of(queue).list_submissions(
            wanted,
            after=None if after is None else SubmissionId(after),
            order=cast(Literal["newest", "oldest"], choice(req, "order", ["newest", "oldest"])),
            limit=integer(req, "limit", default=50, least=1, most=MAX_LISTED),
        )
        write(resp, page)


@dataclass(frozen=True, slots=True)
class OneSubmission:
    """`.../submissions/{submission_id}`: the status, at once or after the end."""

    queue_of: QueueOf
    long_polls: LongPolls

    @operation(WAIT, answers=Submission)
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Return a submission's status; `?wait=SECONDS` waits for its end."""
        wait_s = number(req, "wait", default=0, least=0, most=MAX_WAIT_S)
        on = self.queue_of(queue)
        submission = self.long_polls.wait(on, checked_id(submission_id), wait_s)
        write(resp, submission)

    @operation(
        body=(Content(PatchBody),),
        answers=Submission,
        problems=(ProblemType.SUBMISSION_ENDED,),
    )
    def on_patch(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Change a submission's strategic metadata and return its status."""
        on, id_ = self.queue_of(queue), checked_id(submission_id)
        data = read_body(req, limit_bytes=_PATCH_BYTES)
        changes = decode(data, _PATCH_DECODER).strategic_metadata
        write(resp, on.update_metadata(id_, changes))


@dataclass(frozen=True, slots=True)
class CancelSubmission:
    """`.../submissions/{submission_id}/cancel`."""

    queue_of: QueueOf

    @operation(answers=Submission, problems=(ProblemType.SUBMISSION_ENDED,))
    def on_post(
        self, _req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Cancel a submission and return its status."""
        submission = self.queue_of(queue).cancel_submission(checked_id(submission_id))
        write(resp, submission)


@dataclass(frozen=True, slots=True)
class RetrySubmission:
    """`.../submissions/{submission_id}/retry`."""

    queue_of: QueueOf
    api: Backend
    store: ObjectStore
    limits: Limits

    @operation(
        choice_parameter(
            "only",
            ["all", "failed"],
            "With `failed`, insert a new submission of the operations that have an error, also for "
            "a completed submission; repeated within a day, return the same one.",
        ),
        answers={200: Content(Submission), 201: Content(Submission)},
        problems=(
            ProblemType.SUBMISSION_NOT_RETRYABLE,
            ProblemType.SUBMISSION_NOT_COMPLETED,
            ProblemType.RESULTS_GONE,
        ),
    )
    def on_post(
        self, req: falcon.Request, resp: falcon.Response, queue: str, submission_id: str
    ) -> None:
        """Retry a failed or cancelled submission and return its status."""
        on, id_ = self.queue_of(queue), checked_id(submission_id)
        if choice(req, "only", ["all", "failed"]) == "failed":
            submission = on.get_submission(self._insert_failed(on, id_))
            resp.status = falcon.HTTP_201
        else:
            submission = on.retry_submission(id_)
        write(resp, submission)

    def _insert_failed(self, on: Queue, submission_id: SubmissionId) -> SubmissionId:
        if on.get_submission(submission_id).operations_failed == 0:
            detail = (
                f"submission {submission_id} has no failed operation: there is nothing to retry"
            )
            raise ProblemError(Problem(ProblemType.SUBMISSION_NOT_RETRYABLE, detail))
        with ProducerClient.over(
            self.api,
            self.store,
            queue=on.name,
            inline_bytes=self.limits.inline_bytes,
            whole_bytes=self.limits.chunk_bytes,
        ) as producer:
            return producer.retry_submission(submission_id, only="failed")


@dataclass(frozen=True, slots=True)
class SubmissionIds:
    """`/v1/queues/{queue}/submission-ids`: look-ups by strategic metadata, or by prefix."""

    queue_of: QueueOf

    @operation(
        Parameter(
            "prefix",
            {"type": "string"},
            "Look up the submission with this prefix of objects; the other parameters have no "
            "effect.",
        ),
        META,
        Parameter(
            "state",
            {"type": "array", "items": {"type": "string", "enum": list(SubmissionState)}},
            "States of the submissions; by default only in_progress.",
        ),
        integer_parameter(
            "limit",
            "Maximum number of matches; more cause a problem.",
            least=1,
            most=MAX_LOOKED_UP,
            default=MAX_LOOKED_UP,
        ),
        answers=IdsBody,
        problems=(ProblemType.TOO_MANY_MATCHES,),
    )
    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        """Return the ids of all matching submissions, in ascending order."""
        on = self.queue_of(queue)
        known = [state.value for state in SubmissionState]
        states = req.get_param_as_list("state") or [SubmissionState.IN_PROGRESS.value]
        for state in states:
            if state not in known:
                message = f"state={state[:40]!r}: use one or several of {', '.join(known)}"
                raise invalid(message)
        limit = integer(req, "limit", default=MAX_LOOKED_UP, least=1, most=MAX_LOOKED_UP)
        pairs = pairs_of(req)
        prefix = req.get_param("prefix")
        if prefix is not None:
            found = on.lookup_prefix(prefix)
            write(resp, IdsBody(ids=[] if found is None else [found]))
            return
        ids = on.lookup_submissions(
            pairs, states=[SubmissionState(state) for state in states], limit=limit
        )
        write(resp, IdsBody(ids=list(ids)))
