"""The demo's app: an operation is a Python file, its result is what is in it."""

from __future__ import annotations

import ast
import warnings
from typing import TypedDict

from opsqueue.handlers.app import Opsqueue

QUEUE = "python-files"
app = Opsqueue()


class Findings(TypedDict):
    """What is in one file; all zero but for the lines where it does not parse."""

    name: str
    lines: int
    functions: int
    classes: int
    error: str | None


@app.operation_handler(QUEUE)
def count(file: tuple[str, bytes]) -> Findings:
    """Parse a file and count what it defines; some of the standard library's don't parse."""
    name, source = file
    functions = classes = 0
    error = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old files are not our business
            tree = ast.parse(source)
        for node in ast.walk(tree):
            functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            classes += isinstance(node, ast.ClassDef)
    except (SyntaxError, ValueError) as exc:
        error = f"{type(exc).__name__}: {exc}"
    return Findings(
        name=name,
        lines=source.count(b"\n"),
        functions=functions,
        classes=classes,
        error=error,
    )
