"""Queues and submissions on the command line: parsing their names and finding them."""

from __future__ import annotations

import difflib
import threading
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from opsqueue.cli.connections import open_api, preferred_redis_url
from opsqueue.cli.tables import say
from opsqueue.exceptions import (
    IncorrectUsageError,
    InvalidArgumentError,
    OpsqueueError,
    SubmissionNotFoundError,
)
from opsqueue.model.names import check_queue_name
from opsqueue.model.submission import Submission, SubmissionId
from opsqueue.producer.backends import Backend
from opsqueue.queue.cluster import Client
from opsqueue.queue.script import queue_names

_COMPLETE_WITHIN_S: Final = 1.0


class UnknownQueueError(IncorrectUsageError):
    """No queue has this name: it never had a submission or a worker."""

    def __init__(self, name: str, names: list[str]) -> None:
        """Make the message, which suggests similar names or lists the existing ones."""
        self.name = name
        super().__init__(f"there is no queue {name!r}{_hint(name, names)}")


def _hint(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f": did you mean {' or '.join(near)}?"
    if not names:
        return ": there are none yet, a queue begins with its first submission or worker"
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f": there are {', '.join(names[:10])}{more}"


class QueueName(click.ParamType[str]):
    """A queue's name; shells complete it."""

    name = "queue"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """Check that the text can be a queue's name."""
        try:
            return check_queue_name(value)
        except InvalidArgumentError as exc:
            self.fail(str(exc), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin like this; none if there is no answer within a second."""
        _ = param
        found: list[str] = []

        def ask() -> None:
            options = ctx.params
            redis_url = preferred_redis_url(ctx, options.get("api_url"), options.get("redis_url"))
            try:
                with open_api(options.get("api_url"), options.get("token"), redis_url) as api:
                    found.extend(api.queues())
            except OpsqueueError:
                return

        # A daemon thread: the completion does not wait for the timeout of a connection.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_COMPLETE_WITHIN_S)
        return [CompletionItem(name) for name in list(found) if name.startswith(incomplete)]


class SubmissionNumber(click.ParamType[SubmissionId]):
    """A submission's id, 19 digits."""

    name = "id"

    def convert(
        self,
        value: Any,  # noqa: ANN401 what click has
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> SubmissionId:
        """Parse an id."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) <= 19):
            self.fail(f"{text!r} is not a submission's id, which has 19 digits", param, ctx)
        return SubmissionId(text)


queue_argument = click.argument("queue", type=QueueName())
optional_queue = click.option(
    "-q",
    "--queue",
    type=QueueName(),
    envvar="OPSQUEUE_QUEUE",
    help="Queue of the submission.  [default: all queues are searched]",
)
new_option = click.option(
    "--new",
    "is_new",
    is_flag=True,
    help="Accept a QUEUE that has had no submission or worker yet.",
)
submission_argument = click.argument("submission_id", metavar="ID", type=SubmissionNumber())


def find_submission(api: Backend, submission_id: SubmissionId, queue: str | None) -> Submission:
    """Return the submission with an id, of the queue if that is given, else of any queue.

    Raises:
        SubmissionNotFoundError, UnknownQueueError.
        InvalidArgumentError: no queue has a submission with this id, or several have one.
    """
    if queue is not None:
        try:
            return api.queue(queue).get_submission(submission_id)
        except SubmissionNotFoundError:
            check_is_known(api, queue)
            raise
    try:
        queues = api.queues()
    except IncorrectUsageError as exc:
        # The token is for some queues only.
        message = f"{exc}; name the queue with -q"
        raise InvalidArgumentError(message) from exc
    found = []
    for name, counts in queues.items():
        if not any(counts.submissions.values()):
            continue
        try:
            found.append(api.queue(name).get_submission(submission_id))
        except SubmissionNotFoundError:
            continue
    match found:
        case [submission]:
            return submission
        case []:
            message = (
                f"no queue has a submission {submission_id}: check the id; "
                "ended submissions are cleaned up after their retention"
            )
            raise InvalidArgumentError(message)
        case _:
            names = ", ".join(submission.queue for submission in found)
            message = f"there is a submission {submission_id} in several queues, {names}: add -q"
            raise InvalidArgumentError(message)


def check_is_known(api: Backend, queue: str) -> None:
    """Raise UnknownQueueError unless the queue ever had a submission or a worker.

    Do nothing if the token may not list all queues.
    """
    names = known_names(api)
    if names is not None and queue not in names:
        # Lists leave out a queue whose format is too new. This call raises an error for it.
        api.queue(queue).count_queue()
        raise UnknownQueueError(queue, names)


def note_new(client: Client, queue: str) -> None:
    """Print a note if nobody has used the queue yet, since its name may be a typo."""
    names = queue_names(client)
    if queue not in names:
        say(f"note: there is no queue {queue} yet{_hint(queue, names)}")


def near_names(api: Backend, queue: str) -> list[str]:
    """Return the names of other queues that are similar."""
    others = [name for name in known_names(api) or [] if name != queue]
    return difflib.get_close_matches(queue, others, n=3, cutoff=0.6)


def known_names(api: Backend) -> list[str] | None:
    """Return the names of all queues; None if the token may not list them."""
    try:
        return sorted(api.queues())
    except IncorrectUsageError:
        return None
