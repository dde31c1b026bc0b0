"""Bounds, examples and names that the document adds to msgspec's schemas of bodies.

The bounds are those of the values in `opsqueue.model.new_submission`. They are checked there, since
its messages say more than a decoder's, and only documented here.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from opsqueue.http.bodies import IdsBody, InsertBody, PatchBody
from opsqueue.model.answers import Progress, SubmissionPage
from opsqueue.model.names import MAX_META_KEY_CHARACTERS
from opsqueue.model.new_submission import (
    MAX_ATTEMPTS,
    MAX_CHUNKS,
    MAX_METADATA_BYTES,
    MAX_OPERATIONS,
    MAX_STRATEGIC_PAIRS,
)
from opsqueue.model.submission import Submission
from opsqueue_api.http.settings import Limits

Schemas = dict[str, dict[str, Any]]
_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_INT64: Final = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_META_KEYS: Final = {"minLength": 1, "maxLength": MAX_META_KEY_CHARACTERS}
_CONTENTS: Final = frozenset({"prefix", "chunks_total", "operations_total", "codec", "inline"})

_BOUNDS: Final[dict[str, dict[str, Any]]] = {
    "chunk_size": {"minimum": 1, "maximum": MAX_CHUNKS},
    "chunks_total": {"minimum": 0, "maximum": Limits().chunks},
    "operations_total": {"minimum": 0, "maximum": MAX_OPERATIONS},
    "max_attempts": {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS}, {"type": "null"}]
    },
    "prefix": {
        "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/[0-9a-f]{32}$",
    },
    "strategic_metadata": {
        "maxProperties": MAX_STRATEGIC_PAIRS,
        "propertyNames": _META_KEYS,
        "additionalProperties": _INT64,
    },
    "max_failed_operations": {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": MAX_OPERATIONS},
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "null"},
        ]
    },
}

_STATUS: Final = {
    "id": "1795479162987000000",
    "queue": "mails",
    "state": "completed",
    "chunks_total": 2,
    "chunks_done": 2,
    "chunks_in_hand": 0,
    "chunks_failed": 0,
    "chunks_dropped": 0,
    "chunk_size": 2,
    "operations_total": 3,
    "operations_done": 3,
    "operations_failed": 0,
    "operations_succeeded": 3,
    "operations_dropped": 0,
    "max_attempts": 10,
    "prefix": "mails/019a8b6e3c2f5d0b9c1e4a7f3b21d6e8",
    "codec": "json",
    "created_at": "2026-01-31T12:00:00Z",
    "ended_at": "2026-01-31T12:00:01Z",
}
_NAMES: Final = {
    "Backoff": "BackoffBody",
    "Cell": "CellBody",
    "ChunkInHand": "InHandBody",
    "Counts": "CountsBody",
    "DelayedChunk": "DelayedBody",
    "ErrorChunks": "ErrorChunksBody",
    "FailedChunk": "FailedBody",
    "Failure": "FailureBody",
    "Grid": "ChunksBody",
    "OperationFailed": "OperationFailedBody",
    "Progress": "ProgressBody",
    "RetriedChunk": "RetriedBody",
    "Submission": "SubmissionBody",
    "SubmissionPage": "SubmissionsBody",
    "WorkerSeen": "WorkerBody",
}
"""Names of the schemas, which generated clients use."""

_COMPUTED: Final = {"Submission": "chunks_dropped", "Progress": "done_until"}
"""Fields that every version of the API returns, although the values compute them."""

EXAMPLES: Final[dict[type, dict[str, Any]]] = {
    InsertBody: {
        "operations": {
            "chunk_size": 2,
            "operations": [1, "two", {"three": 3}],
            "strategic_metadata": {"customer": 7},
        },
        "stored": {
            "chunk_size": 100,
            "prefix": "mails/019a8b6e3c2f5d0b9c1e4a7f3b21d6e8",
            "chunks_total": 40,
        },
    },
    PatchBody: {"priority": {"strategic_metadata": {"priority": 2, "customer": None}}},
    Submission: {"completed": _STATUS},
    SubmissionPage: {"one": {"submissions": [_STATUS], "next": None}},
    IdsBody: {"one": {"ids": ["1795479162987000000"]}},
    Progress: {
        "running": {
            "state": "in_progress",
            "chunks_total": 10,
            "chunks_done": 3,
            "chunks_in_hand": 2,
            "operations_total": 100,
            "operations_done": 30,
            "operations_failed": 0,
            "done_until": 2,
            "from": 0,
            "to": 10,
            "done": "yAA=",
        }
    },
}


def refine(schemas: Schemas) -> Schemas:
    """Add details that msgspec can't know; the schemas are changed in place."""
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    for name, field in _COMPUTED.items():
        schema = schemas[name]
        del schema["properties"][field]["default"]
        shown = {field, *schema["required"]}
        schema["required"] = [name for name in schema["properties"] if name in shown]
    insert = schemas["InsertBody"]
    properties = insert["properties"]
    for name, bounds in _BOUNDS.items():
        schema = properties[name]
        if "anyOf" in bounds:
            schema.pop("anyOf", None)
            schema.pop("type", None)
        schema.update(bounds)
    properties["metadata"] = {
        "anyOf": [
            {
                "type": "string",
                "contentEncoding": "base64",
                "pattern": _BASE64,
                "maxLength": -(-MAX_METADATA_BYTES // 3) * 4,
            },
            {"type": "null"},
        ],
        "default": None,
    }
    _split_insert(schemas, insert)
    if "PatchBody" in schemas:
        values = {"anyOf": [_INT64, {"type": "null"}]}
        schemas["PatchBody"]["properties"]["strategic_metadata"].update(
            maxProperties=MAX_STRATEGIC_PAIRS,
            propertyNames=_META_KEYS,
            additionalProperties=values,
        )
    return {_NAMES.get(name, name): schema for name, schema in schemas.items()}


def renamed(part: Any) -> Any:  # noqa: ANN401 JSON
    """Return a part of the document with the schemas renamed for clients."""
    match part:
        case {"$ref": str() as ref}:
            at, _, name = ref.rpartition("/")
            return {**part, "$ref": f"{at}/{_NAMES.get(name, name)}"}
        case {"title": str() as name, "type": "object"}:
            rest = {key: renamed(of) for key, of in part.items()}
            return {**rest, "title": _NAMES.get(name, name)}
        case dict():
            return {key: renamed(of) for key, of in part.items()}
        case list():
            return [renamed(of) for of in part]
        case _:
            return part


def _split_insert(schemas: Schemas, insert: dict[str, Any]) -> None:
    """Split the two kinds of body into two schemas, each without the other's fields."""
    kinds = {
        "InsertOperations": (_CONTENTS, ["chunk_size", "operations"]),
        "InsertStored": (frozenset({"operations"}), ["chunk_size", "prefix", "chunks_total"]),
    }
    for name, (absent, required) in kinds.items():
        properties = {key: of for key, of in insert["properties"].items() if key not in absent}
        schemas[name] = {**insert, "title": name, "properties": properties, "required": required}
    schemas["InsertBody"] = {
        "title": "InsertBody",
        "description": insert.get("description", ""),
        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in kinds],
    }
