"""Check the words of the project: how docstrings begin, and terms that have a better one.

`make check` runs it. It prints a line for each fault and exits with 1 if there is any.

A docstring of the product opens with a verb in the imperative (PEP 257), or, of a property, a class
or a module, with a noun. ruff's D401 refuses *Returns*; these are openings that it lets pass.
A test's docstring states a fact.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("opsqueue", "worker", "api", "benchmarks", "examples", "tests")
OPENINGS = re.compile(
    r"(As|At|By|For|From|Give|Hand|How|In|Let|Of|On|Put|Say|Take|Tell|Than|That|To|What|When|Where|"
    r"Whether|Which|Who|Whose|With)\b"
)
"""As first words of a docstring they are no plain summary."""

_HAND_IN = r"\bhand(s|ed|ing)?[ _](it |them |operations |chunks )?in\b(?! hand)"
TERMS = {
    re.compile(_HAND_IN, re.IGNORECASE): "submit",
    re.compile(r"\bin peace\b", re.IGNORECASE): "orderly shutdown",
}
"""Phrases by what the field calls them."""


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the docstrings of a module, its classes, functions and attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str()) as text):
                    yield text


def faults_of(text: str, *, is_test: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the line and the fault of everything that is wrong in a Python file."""
    for docstring in docstrings(ast.parse(text)):
        first = str(docstring.value).strip().partition("\n")[0]
        if not is_test and (opening := OPENINGS.match(first)):
            yield docstring.lineno, f"a docstring opens with {opening[0]!r}: {first}"
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            for number, words in enumerate(token.string.splitlines(), token.start[0]):
                for fault in terms_in(words):
                    yield number, fault


def terms_in(line: str) -> Iterator[str]:
    """Yield a fault for each phrase that has a better term."""
    for phrase, better in TERMS.items():
        if found := phrase.search(line):
            yield f"{found[0]!r} is {better!r} here: {line.strip()}"


def main() -> int:
    """Print the faults of all files; return the exit code."""
    count = 0
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        is_test = path.is_relative_to(ROOT / "tests")
        if path == Path(__file__):
            continue
        for line, fault in faults_of(path.read_text(), is_test=is_test):
            count += 1
            print(f"{path.relative_to(ROOT)}:{line}: {fault}")  # noqa: T201 it is a program
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        for number, words in enumerate(path.read_text().splitlines(), 1):
            for fault in terms_in(words):
                count += 1
                print(f"{path.relative_to(ROOT)}:{number}: {fault}")  # noqa: T201 it is a program
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
