"""`/openapi.json`: OpenAPI 3.1, generated from the routes, their operations and the body types.

Nothing is written twice: paths and methods come from the routes, schemas from msgspec, problems
from problem.py. No I/O.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import falcon
import msgspec

from opsqueue.http.bodies import InsertBody, ProblemBody, ProblemType
from opsqueue.http.json_form import schemas_of
from opsqueue.model.version import __version__
from opsqueue_api.http import problem
from opsqueue_api.http.auth import Need
from opsqueue_api.http.hosts import ALWAYS_ANSWERED
from opsqueue_api.http.operation import (
    ID_SCHEMA,
    Content,
    Operation,
    Parameter,
    operation,
    operation_of,
)
from opsqueue_api.resources.dashboard import page_files
from opsqueue_api.resources.openapi_schemas import EXAMPLES, refine, renamed

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_REF: Final = "#/components/schemas/{name}"
_TEXT: Final = {"type": "string"}
_IN_PATH: Final[Mapping[str, dict[str, Any]]] = {
    "queue": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"},
    "worker": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    "index": {"type": "string", "pattern": "^[0-9]{1,10}$"},
    "submission_id": ID_SCHEMA,
    "file": {"type": "string", "enum": sorted(page_files())},
}
_OF_BODY: Final = (
    ProblemType.MEDIA_TYPE,
    ProblemType.CONTENT_ENCODING,
    ProblemType.BROKEN_OFF,
    ProblemType.MALFORMED_GZIP,
    ProblemType.MALFORMED_JSON,
    ProblemType.TOO_LARGE,
)
_ABOUT: Final = (
    "A batch queue: submissions of operations are cut into chunks that workers process, and their "
    "results are read in order. Instants are RFC 3339 in UTC, ids are strings of digits, bytes are "
    "base64. Clients ignore fields that they do not know; the API refuses fields and query "
    "parameters that it does not know."
)


@dataclass(frozen=True, slots=True)
class Route:
    """A path template, its resource, and the scope that each method needs."""

    path: str
    resource: object
    needs: Mapping[str, Need]

    def operations(self) -> Iterator[tuple[str, Operation | None]]:
        """Yield each method of the route with its declaration."""
        for method in METHODS:
            if hasattr(self.resource, f"on_{method.lower()}"):
                yield method, operation_of(self.resource, method)


class OpenApi:
    """`/openapi.json`.

    Args:
        routes: the table of routes, including this one; read at the first request.
        has_tokens: whether the API requires tokens.
    """

    def __init__(self, routes: list[Route], *, has_tokens: bool) -> None:
        """Store both."""
        self._routes = routes
        self._has_tokens = has_tokens
        self._data = b""

    @operation(answers={200: Content(None)})
    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Return this document."""
        if not self._data:
            document = document_of(self._routes, has_tokens=self._has_tokens)
            self._data = msgspec.json.encode(document)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._data


def document_of(routes: list[Route], *, has_tokens: bool) -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    types: set[type[msgspec.Struct]] = {ProblemBody, InsertBody}
    for route in routes:
        for method, found in route.operations():
            declared = found or Operation()
            need = route.needs.get(method, Need.ADMIN)
            entry = _entry(route, method, declared, need, has_tokens=has_tokens)
            paths.setdefault(route.path, {})[method.lower()] = entry
            contents = [*declared.body, *declared.answers.values()]
            types.update(content.of for content in contents if content and content.of)
    schemas = schemas_of(sorted(types, key=lambda kind: kind.__name__), _REF)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "opsqueue",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": name} for name in ("submissions", "queues", "chunks", "dashboard", "health")
        ],
        "paths": paths,
        "components": {
            "schemas": refine(schemas),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of OPSQUEUE_API_TOKENS, required if the API has any.",
                }
            },
        },
    }
    return cast(dict[str, Any], renamed(document))


def _entry(
    route: Route, method: str, declared: Operation, need: Need, *, has_tokens: bool
) -> dict[str, Any]:
    responder = getattr(route.resource, f"on_{method.lower()}")
    summary, _, rest = (inspect.getdoc(responder) or "").partition("\n")
    names = re.findall(r"{(\w+)", route.path)
    entry: dict[str, Any] = {
        "operationId": f"{method.lower()}{type(route.resource).__name__}",
        "summary": summary.rstrip("."),
        "tags": [_tag(route.path)],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": _IN_PATH.get(name, _TEXT)}
                for name in names
            ),
            *map(_parameter, declared.parameters),
        ],
        "responses": {
            **{str(status): _answer(content) for status, content in declared.answers.items()},
            **_problems(_problem_types(route.path, declared, need, has_tokens=has_tokens)),
        },
    }
    if rest.strip():
        entry["description"] = rest.strip()
    if need.value:
        scopes = sorted(scope.value for scope in need.value)
        entry["security"] = [{"bearer": scopes}] if has_tokens else [{"bearer": scopes}, {}]
    else:
        entry["security"] = []
    if declared.body:
        content = {body.media_type: _media(body) for body in declared.body}
        entry["requestBody"] = {"required": True, "content": content}
    return entry


def _tag(path: str) -> str:
    if "/submission" in path:
        return "submissions"
    if "/chunks" in path:
        return "chunks"
    if path == "/" or path.startswith("/dashboard"):
        return "dashboard"
    return "queues" if path.startswith("/v1") else "health"


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.is_required,
        "description": parameter.about,
        "schema": dict(parameter.schema),
    }


def _answer(content: Content | None) -> dict[str, Any]:
    if content is None:
        return {"description": "Success, without a body."}
    about = content.about or (inspect.getdoc(content.of) or "" if content.of else "")
    return {
        "description": about.partition("\n")[0] or "Success.",
        "content": {
            content.media_type: _media(content),
            **{kind: {"schema": {}} for kind in content.other_types},
        },
    }


def _media(content: Content) -> dict[str, Any]:
    if content.of is None:
        is_json = content.media_type == falcon.MEDIA_JSON
        return {"schema": {"type": "object"} if is_json else _TEXT}
    schema: dict[str, Any] = {"$ref": _REF.format(name=content.of.__name__)}
    if content.media_type != falcon.MEDIA_JSON:
        # OpenAPI 3.1 can't describe the items of a stream.
        return {"schema": {**_TEXT, "contentSchema": schema}}
    media: dict[str, Any] = {"schema": schema}
    if content.of in EXAMPLES:
        media["examples"] = {key: {"value": value} for key, value in EXAMPLES[content.of].items()}
    return media


def _problem_types(
    path: str, declared: Operation, need: Need, *, has_tokens: bool
) -> list[ProblemType]:
    names = re.findall(r"{(\w+)", path)
    types = [*declared.problems, ProblemType.INVALID_ARGUMENT, ProblemType.INTERNAL]
    types.append(ProblemType.UNAVAILABLE)
    if "queue" in names:
        types += (ProblemType.QUEUE_NAME, ProblemType.FORMAT_TOO_NEW)
    if "submission_id" in names:
        types.append(ProblemType.SUBMISSION_NOT_FOUND)
    if names:
        # For parameters that match no route, such as one with an encoded slash.
        types.append(ProblemType.ROUTE_NOT_FOUND)
    if declared.body:
        types += _OF_BODY
    if need.value and has_tokens:
        types += [ProblemType.UNAUTHENTICATED, ProblemType.FORBIDDEN]
    if not has_tokens and path not in ALWAYS_ANSWERED:
        types.append(ProblemType.MISDIRECTED)
    return types


def _problems(types: list[ProblemType]) -> dict[str, Any]:
    by_status: dict[int, list[ProblemType]] = {}
    for kind in sorted(set(types)):
        by_status.setdefault(problem.status_of(kind), []).append(kind)
    return {
        str(status): {
            "description": "; ".join(problem.title_of(kind) for kind in kinds),
            "content": {
                problem.MEDIA_TYPE: {
                    "schema": {
                        "allOf": [{"$ref": _REF.format(name="ProblemBody")}],
                        "properties": {
                            "type": {"enum": [kind.value for kind in kinds]},
                            "status": {"const": status},
                        },
                        "required": ["type", "title", "status", "detail"],
                    },
                    "examples": {
                        kind.rpartition(":")[2]: {
                            "value": {
                                "type": kind.value,
                                "title": problem.title_of(kind),
                                "status": status,
                                "detail": "a sentence that says what happened and what helps",
                            }
                        }
                        for kind in kinds
                    },
                }
            },
        }
        for status, kinds in sorted(by_status.items())
    }
