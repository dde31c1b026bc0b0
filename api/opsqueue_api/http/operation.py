"""What a method of a route takes and answers, declared beside it: checked, and made public.

`@operation(...)` stands on a responder. `openapi.py` makes the document of it; `KnownParameters`
refuses a query parameter that it does not name, so that a typing error is not taken for consent.
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
"""Names that bodies of JSON lines are sent under; none of them is registered. Answers have the
first."""
"""A regular expression, as JSON Schema has them."""
ID_SCHEMA: Final = {"type": "string", "pattern": "^[0-8]?[0-9]{1,18}$"}
"""Of a submission's id."""
EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, or a header. `schema` in JSON Schema's terms."""

    name: str
    schema: Schema
    about: str
    is_required: bool = False
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Content:
    """A body: JSON of a type, or lines or events, whose data are of these types."""

    of: type[msgspec.Struct] | None
    media_type: str = falcon.MEDIA_JSON
    about: str = ""
    other_types: tuple[str, ...] = ()
    """Media types that the same can have instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a route."""

    parameters: tuple[Parameter, ...] = ()
    body: tuple[Content, ...] = ()
    answers: Mapping[int, Content | None] = field(default_factory=dict)
    problems: tuple[ProblemType, ...] = ()
    """Beside those that follow from the path, the parameters, the body and the token."""


def operation(
    *parameters: Parameter,
    body: tuple[Content, ...] = (),
    answers: type[msgspec.Struct] | Mapping[int, Content | None],
    problems: tuple[ProblemType, ...] = (),
) -> Callable[[Responder], Responder]:
    """Declare a responder's operation; its docstring says what it does.

    Args:
        parameters: of the query, and headers.
        body: what it takes, one a media type.
        answers: by status; a type alone is JSON with 200.
        problems: that its own logic has.
    """
    by_status = answers if isinstance(answers, Mapping) else {200: Content(answers)}
    declared = Operation(parameters=parameters, body=body, answers=by_status, problems=problems)

    def declare(responder: Responder) -> Responder:
        setattr(responder, _ATTRIBUTE, declared)
        return responder

    return declare


def operation_of(resource: object, method: str) -> Operation | None:
    """Give what a resource's responder declares; None where it has none, or declares nothing."""
    responder = getattr(resource, f"on_{method.lower()}", None)
    declared = getattr(responder, _ATTRIBUTE, None)
    return declared if isinstance(declared, Operation) else None


class KnownParameters:
    """Falcon middleware: a query parameter that the operation does not have is refused."""

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _params: dict[str, Any]
    ) -> None:
        """Refuse with 422, naming those that it has."""
        declared = operation_of(resource, req.method)
        if declared is None:
            return
        known = [p.name for p in declared.parameters if p.place == "query"]
        for name in req.params:
            if name not in known:
                has = f"it takes {', '.join(known)}" if known else "it takes none"
                message = f"{name[:40]!r} is no query parameter of {req.method} here: {has}"
                raise invalid(message)


# Parameters that several have.


def integer_parameter(
    name: str, about: str, *, least: int, most: int, default: int | None = None
) -> Parameter:
    """Make one that `parameters.integer` reads."""
    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(name, schema, about)


def choice_parameter(name: str, choices: list[str], about: str) -> Parameter:
    """Make one that `parameters.choice` reads; the first is the default."""
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
    "Pairs of strategic metadata, KEY:INTEGER, percent-encoded; any number of times.",
)
WAIT: Final = Parameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": int(MAX_WAIT_S), "default": 0},
    "Seconds to wait at most; the answer may come sooner.",
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    "The same key gives the same submission: an insert with one may be repeated.",
    place="header",
)
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    {"type": "string"},
    "The last id seen, as an EventSource sends it when it connects again.",
    place="header",
)
