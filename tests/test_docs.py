"""docs/: every snippet runs, every link has a target, and the table of routes is complete."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import fakeredis
import httpx
import pytest

from opsqueue import Chunk
from opsqueue.store import open_store
from opsqueue_api.app import create_app
from tests.command_lines import all_options, calls_in, problem_of
from tests.documents import PAGES, ROOT, Dev, blocks_of, file_of, pytest_says

DOCS = [page for page in PAGES if page.parent == ROOT / "docs"]
# What stands beside `opsqueue dev`, with what it prints.
PROGRAMS = {
    ("producers.md", "hand_in.py"): [str(list(range(1, 11)))],
    ("producers.md", "follow.py"): [
        f"1 {list(range(10))}",
        "completed 10 0",
        str(sum(range(1, 101))),
        "True",
    ],
    ("producers.md", "change.py"): "is cancelled: only a submission in progress can be cancelled",
    ("producers.md", "asynchronous.py"): ["[11, 12]", "[21, 22]"],
}
# A word of each shell block, with what it prints.
SHELLS = {
    ("http-api.md", "# Operations in the body"): ['"state":"completed"', "2", "3", "4"],
    ("http-api.md", "idempotency-key: tuesday"): ["2", "3", "4", "5", "6"],
    ("http-api.md", "-X PATCH"): ['"state":"cancelled"', '"state":"in_progress"', "1"],
    ("http-api.md", "chunks/reserve"): "completed",
    ("http-api.md", "urn:opsqueue"): ["urn:opsqueue:problem:submission-not-found"],
    ("strategies.md", "opsqueue limits set"): "10",
}
# Pages whose handlers have tests beside them.
TESTED = ("handlers.md", "moving.md", "strategies.md")
# Run by tests of their own.
ELSEWHERE = {
    ("tracing.md", "python"),
    ("producers.md", "flask_app.py"),
    ("producers.md", "fastapi_app.py"),
    ("producers.md", "django_views.py"),
}
# Options in the text that are other programs': the benchmarks', Docker's, redis-cli's.
OF_OTHERS = {"--init", "--stop-timeout", "--kill", "--cluster"}


def matches(expected: Sequence[str], shown: list[str]) -> bool:
    return expected in "\n".join(shown) if isinstance(expected, str) else expected == shown


@pytest.mark.system
@pytest.mark.parametrize(("page", "name"), PROGRAMS)
def test_programs_print_what_they_should(dev: Dev, page: str, name: str) -> None:
    """Beside the README's handlers."""
    shown = dev.run(file_of(ROOT / "docs" / page, name))

    assert matches(PROGRAMS[page, name], shown), shown


@pytest.mark.system
def test_a_flask_application_uses_one_client(dev: Dev) -> None:
    """With Flask's own test client."""
    program = file_of(ROOT / "docs" / "producers.md", "flask_app.py")

    shown = dev.run(
        f"{program}\nfor n in (1, 2):\n    print(app.test_client().get(f'/next/{{n}}').json)"
    )

    assert shown == ["[2]", "[3]"]


@pytest.mark.system
def test_a_fastapi_application_uses_one_client(dev: Dev) -> None:
    """FastAPI is not installed: what stands in for it keeps the route and the lifespan."""
    program = file_of(ROOT / "docs" / "producers.md", "fastapi_app.py")
    use = """
import asyncio

async def main():
    async with lifespan(app):
        print(await next_number(1), await next_number(2))

asyncio.run(main())
"""

    shown = dev.run(f"{_stand_in('fastapi', 'FastAPI')}{program}{use}")

    assert shown == ["[2] [3]"]


@pytest.mark.system
def test_a_django_view_uses_one_client(dev: Dev) -> None:
    """Django is not installed, either."""
    program = file_of(ROOT / "docs" / "producers.md", "django_views.py")
    use = "\nfor n in (1, 2):\n    print(next_number(None, n).given)"

    shown = dev.run(f"{_stand_in('django.http', 'HttpRequest', 'JsonResponse')}{program}{use}")

    assert shown == ["{'results': [2]}", "{'results': [3]}"]


def _stand_in(module: str, *names: str) -> str:
    """A module with classes that keep what they are given, and whose `get` decorates."""
    parent = module.partition(".")[0]
    return f"""
import sys, types

class Any_:
    def __init__(self, given=None, **options):
        self.given = given

    def get(self, path):
        return lambda function: function

for name in {(parent, module)!r}:
    sys.modules[name] = types.ModuleType(name)
for name in {names!r}:
    setattr(sys.modules[{module!r}], name, Any_)
"""


@pytest.mark.system
@pytest.mark.parametrize(("page", "word"), SHELLS)
def test_shell_blocks_print_what_they_should(dev: Dev, page: str, word: str) -> None:
    """Word by word."""
    (block,) = (b for b in blocks_of(ROOT / "docs" / page) if b.kind == "sh" and word in b.text)

    shown = dev.run_shell(block.text)

    assert matches(SHELLS[page, word], shown), shown


@pytest.mark.system
def test_programs_of_the_reference_run_with_other_urls(dev: Dev) -> None:
    """A consumer and a producer, on the queue that both have without naming one."""
    page = ROOT / "docs" / "moving.md"
    consumer = dev.filled(file_of(page, "ported_consumer.py"))

    with dev.running(sys.executable, "-c", consumer):
        assert ["100"] == dev.run(file_of(page, "ported_producer.py"))


def test_handlers_pass_the_tests_beside_them(tmp_path: Path) -> None:
    """Under the user's own pytest, in the user's own folder; once for all pages, for its start."""
    blocks = [b for page in TESTED for b in blocks_of(ROOT / "docs" / page) if b.kind == "python"]
    for block in blocks:
        assert not (tmp_path / block.name).exists(), f"{block.name} is on two pages"
        (tmp_path / block.name).write_text(block.text)

    shown = pytest_says(tmp_path)

    tests = sum(block.text.count("\ndef test_") for block in blocks)
    assert tests >= len(TESTED)
    assert re.search(rf"^{tests} passed", shown, re.MULTILINE), shown


def test_every_snippet_is_run_or_says_why_not() -> None:
    """A new one needs its line above, or a reason on its page."""
    forgotten = []
    for page in DOCS:
        for block in blocks_of(page):
            is_run = (
                (page.name, block.name) in PROGRAMS
                or any(name == page.name and word in block.text for name, word in SHELLS)
                or page.name in TESTED
                or not ELSEWHERE.isdisjoint({(page.name, block.kind), (page.name, block.name)})
            )
            is_code = block.kind in ("python", "sh", "js")
            if is_code and not is_run and not block.why_not_run:
                forgotten.append(f"{page.name}: {block.text.splitlines()[0]}")
            if block.kind == "python":
                ast.parse(block.text)

    assert forgotten == []


def test_blocks_that_are_not_run_are_few() -> None:
    """Each says why; the number here grows only knowingly."""
    reasons = [
        f"{page.name}: {block.why_not_run}"
        for page in DOCS
        for block in blocks_of(page)
        if block.why_not_run
    ]

    print(*reasons, sep="\n")  # noqa: T201 shown with -s, and where it fails
    assert len(reasons) <= 5


def test_options_that_are_named_exist() -> None:
    """Those of our commands in every block, units of systemd too, run or not; those in the text."""
    pages = [page.read_text() for page in PAGES]
    calls = [call for text in pages for call in calls_in(text)]

    unknown = [problem for call in calls if (problem := problem_of(call))]
    named = {name for text in pages for name in re.findall(r"`(--[a-z][a-z-]*)", text)}

    assert len(calls) >= 20  # found at all
    assert unknown == []
    assert named - all_options() - OF_OTHERS == set()


def test_a_wrong_option_would_be_found() -> None:
    """Wherever in a line the command stands."""
    wrong = "```sh\nid=$(A=1 opsqueue submit q f --chunksize 1)\n/opt/opsqueue-api --prt 1\n```\n"

    assert ["opsqueue submit has no --chunksize", "opsqueue-api has no --prt"] == [
        problem_of(call) for call in calls_in(wrong)
    ]


def test_the_table_of_routes_is_that_of_the_api() -> None:
    """Method, path, scope and what it does, as /openapi.json has them."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(server_type="valkey"), protocol=2)
    app = create_app(client, open_store("memory://routes"))
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as http:
        paths = http.get("/openapi.json").json()["paths"]
    rows = []
    for path, methods in paths.items():
        for method, operation in methods.items():
            scopes = [s for need in operation["security"] for s in need.get("bearer", [])]
            scope = ", ".join(s for s in scopes if s != "admin" or len(scopes) == 1) or "none"
            about = operation["summary"].replace("|", "\\|")
            rows.append(f"| `{method.upper()} {path}` | {scope} | {about} |")

    text = (ROOT / "docs" / "http-api.md").read_text()

    missing = [row for row in rows if row not in text.splitlines()]
    assert missing == [], "\n" + "\n".join(rows)
    assert len(rows) == len(re.findall(r"^\| `[A-Z]+ /", text, re.MULTILINE))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub derives from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings]
    return {word.replace(" ", "-") for word in words}


def test_all_that_a_handler_may_know_of_its_chunk_is_in_the_table() -> None:
    page = (ROOT / "docs" / "handlers.md").read_text()
    rows = re.search(r"^\| attribute of `chunk` .*\n\|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert rows is not None

    named = {
        name
        for row in rows[1].splitlines()
        for name in re.findall(r"`(\w+)(?:\(\))?`", row.split("|")[1])
    }

    assert {field.name for field in fields(Chunk)} == named


def test_links_lead_somewhere() -> None:
    """In every Markdown file of the project, anchors too."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]

    broken = []
    for page in pages:
        for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            target = page.parent / link if link else page
            is_broken = not target.exists() or (anchor and anchor not in anchors_of(target))
            if is_broken:
                broken.append(f"{page.relative_to(ROOT)}: {link}#{anchor}")

    assert broken == []
