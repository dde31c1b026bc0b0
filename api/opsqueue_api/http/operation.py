"""Declarations of a route's methods: their parameters, bodies and answers.

`@operation(...)` decorates a responder. `openapi.py` generates the document from it.
`KnownParameters` refuses query parameters that it does not name, so that a misspelled one is not
silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import falcon
import msgspec

from opsqueue.http.bodies import ProblemType
from opsqueue.model.names import MAX_META_KEY_CHARACTERS
from opsqueue.model.new_submission import MAX_STRATEGIC_PAIRS
from opsqueue_api.http.long_polls import MAX_WAIT_S
from opsqueue_api.http.problem import invalid

Responder = TypeVar("Responder", bound=Callable[..., None])
Schema = Mapping[str, Any]
_ATTRIBUTE: Final = "opsqueue_operation"
NDJSON: Final = "application/x-ndjson"
NDJSON_TYPES: Final = (NDJSON, "application/ndjson", "application/jsonl")
"""Media types that JSON lines are sent under; none of them is registered. Answers use the first."""
ID_SCHEMA: Final = {"type": "string", "pattern": "^[0-8]?[0-9]{1,18}$"}
"""Schema of a submission's id."""
EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or a header. `schema` is a JSON Schema."""

    name: str
    schema: Schema
    about: str
    is_required: bool = False
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Content:
    """A body: JSON of a type, or lines or events whose data have that type."""

    of: type[msgspec.Struct] | None
    media_type: str = falcon.MEDIA_JSON
    about: str = ""
    other_types: tuple[str, ...] = ()
    """Alternative media types of the same body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The declaration of a route's method."""

    parameters: tuple[Parameter, ...] = ()
    body: tuple[Content, ...] = ()
    answers: Mapping[int, Content | None] = field(default_factory=dict)
    problems: tuple[ProblemType, ...] = ()
    """Problems besides those that follow from the path, the parameters, the body and the token."""


def operation(
    *parameters: Parameter,
    body: tuple[Content, ...] = (),
    answers: type[msgspec.Struct] | Mapping[int, Content | None],
    problems: tuple[ProblemType, ...] = (),
) -> Callable[[Responder], Responder]:
    """Declare a responder's operation; the responder's docstring is the summary.

    Args:
        parameters: query parameters and headers.
        body: the accepted bodies, one for each media type.
        answers: by status; a type alone means JSON with 200.
        problems: those of the operation's own logic.
    """
    by_status = answers if isinstance(answers, Mapping) else {200: Content(answers)}
    declared = Operation(parameters=parameters, body=body, answers=by_status, problems=problems)

    def declare(responder: Responder) -> Responder:
        setattr(responder, _ATTRIBUTE, declared)
        return responder

    return declare


def operation_of(resource: object, method: str) -> Operation | None:
    """Return the declaration of a resource's responder; None if there is none."""
    responder = getattr(resource, f"on_{method.lower()}", None)
    declared = getattr(responder, _ATTRIBUTE, None)
    return declared if isinstance(declared, Operation) else None


class KnownParameters:
    """Falcon middleware that refuses query parameters that the operation does not declare."""

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _params: dict[str, Any]
    ) -> None:
        """Refuse unknown parameters with 422, naming the known ones."""
        declared = operation_of(resource, req.method)
        if declared is None:
            return
        known = [p.name for p in declared.parameters if p.place == "query"]
        for name in req.params:
            if name not in known:
                has = f"it takes {', '.join(known)}" if known else "it takes none"
                message = f"{name[:40]!r} is not a query parameter of {req.method} here: {has}"
                raise invalid(message)


# Parameters of several operations.


def integer_parameter(
    name: str, about: str, *, least: int, most: int, default: int | None = None
) -> Parameter:
    """Return a parameter that `parameters.integer` reads."""
    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(name, schema, about)


def choice_parameter(name: str, choices: list[str], about: str) -> Parameter:
    """Return a parameter that `parameters.choice` reads; the first choice is the default."""
    return Parameter(name, {"type": "string", "enum": choices, "default": choices[0]}, about)


META: Final = Parameter(
    "meta",
    {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": rf"^[\s\S]{{1,{MAX_META_KEY_CHARACTERS}}}:(0|-?[1-9][0-9]{{0,17}})$",
        },
        "maxItems": MAX_STRATEGIC_PAIRS,
        "examples": [["customer:7"]],
    },
    "A pair of strategic metadata, KEY:INTEGER, percent-encoded; may be repeated.",
)
WAIT: Final = Parameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": int(MAX_WAIT_S), "default": 0},
    "Maximum number of seconds to wait; the answer may come sooner.",
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "A repeated insert with the same key returns the same submission.",
    place="header",
)
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    {"type": "string"},
    "The last event id seen, as an EventSource sends it when it reconnects.",
    place="header",
)
