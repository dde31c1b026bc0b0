"""The demo's app: an operation is a Python file, its result the number of definitions in it."""

from __future__ import annotations

import ast
import warnings
from typing import TypedDict

from opsqueue.handlers.app import Opsqueue

QUEUE = "python-files"
app = Opsqueue()


class Findings(TypedDict):
    """The counts of one file. If it does not parse, all are zero except the lines."""

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
            warnings.simplefilter("ignore")  # old files have invalid escapes
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
