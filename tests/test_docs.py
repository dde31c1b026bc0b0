"""docs/: every snippet runs, every link has a target, and the table of routes is complete."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import fakeredis
import httpx
import pytest

from docs import generate
from opsqueue import Chunk
from opsqueue.producer import ProducerClient
from opsqueue.store import open_store
from opsqueue.strategy import parse_strategy
from opsqueue_api.app import create_app
from opsqueue_api.http.tokens import parse_tokens
from tests.command_lines import all_options, calls_in, problem_of
from tests.documents import (
    PAGES,
    ROOT,
    Dev,
    blocks_of,
    file_of,
    pytest_says,
    running_dev,
    shell_of,
)

DOCS = [page for page in PAGES if page.parent == ROOT / "docs"]
# What stands beside `opsqueue dev`, with what it prints; a set where the order is left to chance.
PROGRAMS: dict[tuple[str, str], str | list[str] | frozenset[str]] = {
    ("producers.md", "submit.py"): [str(list(range(1, 11)))],
    ("producers.md", "follow.py"): frozenset(
        {"1", "8 81", "9 91", "10", "completed 10 0", str(sum(range(1, 101))), "True"}
    ),
    ("producers.md", "fails.py"): ["failed", "chunk 1 failed", "[(0, 2)]"],
    ("producers.md", "change.py"): "is cancelled: only a submission in progress can be cancelled",
    ("producers.md", "asynchronous.py"): ["[1, 2, 3, 4, 5]", "[11, 12]", "[21, 22]"],
    ("producers.md", "formats.py"): ["[2, 3]"],
}
# A word of each shell block, with what it prints.
SHELLS = {
    ("http-api.md", "# Operations in the body"): ['"state":"completed"', "2", "3", "4"],
    ("http-api.md", "idempotency-key: tuesday"): ["2", "3", "4", "5", "6"],
    ("http-api.md", "-X PATCH"): ['"state":"cancelled"', '"state":"in_progress"', "1"],
    ("http-api.md", "chunks/reserve"): "completed",
    ("http-api.md", "urn:opsqueue"): ["urn:opsqueue:problem:submission-not-found"],
    ("llm.md", "opsqueue limits set"): "",
    ("strategies.md", "opsqueue limits set"): "10",
    ("producers.md", "opsqueue defaults set"): "max-backoff   10m",
}
# Pages whose handlers have tests beside them.
TESTED = ("handlers.md", "images.md", "llm.md", "moving.md", "strategies.md")
# Run by tests of their own: the name of a block, or words in it.
ELSEWHERE = {
    ("consumers.md", "consumer.mjs"),
    ("consumers.md", "consumer.py"),
    ("consumers.md", "http --body"),
    ("deployment.md", "openssl rand"),
    ("images.md", "opsqueue-worker thumbnails:app"),
    ("llm.md", "opsqueue-worker questions:app"),
    ("llm.md", "python llm_stub.py"),
    ("producers.md", "django_views.py"),
    ("producers.md", "fastapi_app.py"),
    ("producers.md", "flask_app.py"),
    ("strategies.md", "opsqueue-worker tasks:app --strategy"),
    ("tracing.md", "from opentelemetry import"),
}
# Run as a whole, in the order of its blocks.
AS_A_WHOLE = ("tutorial.md",)
# Options in the text that are other programs': the benchmarks', Docker's, redis-cli's.
OF_OTHERS = {"--init", "--stop-timeout", "--kill", "--cluster"}


def matches(expected: Collection[str], shown: list[str]) -> bool:
    match expected:
        case str():
            return expected in "\n".join(shown)
        case frozenset():
            return expected == set(shown)
        case _:
            return expected == shown


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


def test_the_tokens_of_the_page_are_ones_that_the_api_takes(tmp_path: Path) -> None:
    """In a file that others can't read."""
    script = shell_of(ROOT / "docs" / "deployment.md", "openssl rand")
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)

    tokens = parse_tokens((tmp_path / "tokens").read_text())

    assert ["web", "metrics", "ops"] == [token.name for token in tokens]
    assert (tmp_path / "tokens").stat().st_mode & 0o077 == 0


@pytest.mark.system
def test_the_consumer_works_as_shown(dev: Dev) -> None:
    """Until somebody ends it."""
    program = dev.filled(file_of(ROOT / "docs" / "consumers.md", "consumer.py"))
    with (
        dev.running(sys.executable, "-c", program),
        ProducerClient(
            dev.api_url, dev.environment["OPSQUEUE_STORE_URL"], queue="shouts"
        ) as producer,
    ):
        assert ["A!", "B!"] == list(producer.run_submission(["a", "b"], chunk_size=1))


@pytest.mark.system
def test_httpie_and_plain_node_can_use_it(dev: Dev) -> None:
    """The one submits, the other works; it has some thirty lines and imports nothing."""
    page = ROOT / "docs" / "consumers.md"
    program = file_of(page, "consumer.mjs")
    assert len(program.splitlines()) <= 30
    assert not re.search(r"\b(import|require)\b", program)
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed (Debian: nodejs)")
    (dev.folder / "consumer.mjs").write_text(dev.filled(program))

    with dev.running(node, "consumer.mjs"):
        lines = dev.run_shell(shell_of(page, "http --body"))

    status, *results = (json.loads(line) for line in lines if line)
    assert status["state"] == "completed"
    assert results == [1, 4, 9, 16]


@pytest.mark.system
def test_calls_of_an_llm_keep_the_rate_and_only_what_failed_is_retried(dev: Dev) -> None:
    """With the worker as the page starts it, and the examples' stand-in for a provider."""
    page = ROOT / "docs" / "llm.md"
    (dev.folder / "questions.py").write_text(file_of(page, "questions.py"))
    worker = shell_of(page, "opsqueue-worker questions:app")
    stub = (sys.executable, str(ROOT / "examples" / "llm_stub.py"), "0")
    with dev.running(*stub) as provider:
        assert provider.stdout is not None
        url = provider.stdout.readline().strip()
        command = worker.replace("http://127.0.0.1:8080", url)
        with dev.running(*as_modules(command)):
            began = time.monotonic()
            shown = dev.run(file_of(page, "ask.py"))
            seconds = time.monotonic() - began

    assert ["96 answers, 4 failed", "100 answers after the retry"] == shown
    # 10 at once, then 60 a second; the last chunk may borrow.
    assert seconds >= (100 - 10 - 10) / 60


@pytest.mark.system
def test_a_folder_of_images_becomes_thumbnails(dev: Dev) -> None:
    """By name and by content; a file that is no image spoils no other."""
    page = ROOT / "docs" / "images.md"
    write_pillow(dev.folder)
    images, thumbnails = dev.folder / "images", dev.folder / "thumbnails"
    (images / "more").mkdir(parents=True)
    thumbnails.mkdir()
    (images / "a.png").write_bytes(b"PNG 640 480")
    (images / "more" / "b.png").write_bytes(b"PNG 100 50")
    (images / "z.png").write_bytes(b"nothing")
    for name in ("thumbnails.py", "image_bytes.py"):
        (dev.folder / name).write_text(file_of(page, name))
    given = (
        f"import os; os.environ.update(IMAGES={str(images)!r}, THUMBNAILS={str(thumbnails)!r})\n"
    )
    export, worker, _ = shell_of(page, "opsqueue-worker thumbnails:app").splitlines()
    assert export == "export IMAGES=/shared/images THUMBNAILS=/shared/thumbnails"

    with dev.running(*as_modules(f"IMAGES={images} THUMBNAILS={thumbnails} {worker} -c 1")):
        by_name = dev.run(given + file_of(page, "make_thumbnails.py"))
    assert ["a.png: 320 x 240", "more/b.png: 100 x 50", "z.png: ValueError"] == by_name
    made = sorted(path.relative_to(thumbnails) for path in thumbnails.rglob("*.*"))
    assert [Path("a.jpg"), Path("more/b.jpg")] == made

    with dev.running(*as_modules("opsqueue-worker image_bytes:app -c 1")):
        by_content = dev.run(given + file_of(page, "send_images.py"))
    assert ["a.png: done", "z.png: not enough values to unpack (expected 3, got 1)"] == by_content
    assert (thumbnails / "a.jpg").read_bytes() == b"JPEG 320 240"


def as_modules(command: str) -> list[str]:
    """A worker's command line, VARIABLE=value in front too, for the tests' own interpreter."""
    words = shlex.split(command)
    at = words.index("opsqueue-worker")
    return ["env", *words[:at], sys.executable, "-m", "opsqueue_worker", *words[at + 1 :]]


def write_pillow(folder: Path) -> None:
    """Pillow is not installed: a stand-in, in which an image's file has its format and size."""
    (folder / "PIL").mkdir()
    (folder / "PIL" / "__init__.py").touch()
    (folder / "PIL" / "Image.py").write_text("""
import builtins
from pathlib import Path


class Image:
    def __init__(self, size):
        self.size = size

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def thumbnail(self, most):
        scale = min(1, *(m / s for m, s in zip(most, self.size)))
        self.size = tuple(round(s * scale) for s in self.size)

    def convert(self, mode):
        return self

    def save(self, to, kind):
        data = f"{kind} {self.size[0]} {self.size[1]}".encode()
        to.write(data) if hasattr(to, "write") else Path(to).write_bytes(data)


def new(mode, size):
    return Image(size)


def open(at):
    kind, width, height = (at.read() if hasattr(at, "read") else Path(at).read_bytes()).split()
    return Image((int(width), int(height)))
""")


@pytest.mark.system
@pytest.mark.timeout(300)  # a dozen processes, one after the other
def test_the_tutorial_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first file to the retry, in one folder, with `opsqueue dev` started twice."""
    page = ROOT / "docs" / "tutorial.md"
    handler, test, program, mended = (b.text for b in blocks_of(page) if b.kind == "python")
    dev_command, submit, read, retry = (b.text for b in blocks_of(page) if b.kind == "sh")
    assert dev_command == shell_of(ROOT / "README.md", "opsqueue dev")

    (tmp_path / "tasks.py").write_text(handler)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(test, names)  # noqa: S102 the page's own
    names["test_words_are_counted"]()
    monkeypatch.delitem(sys.modules, "tasks")

    with running_dev(tmp_path) as dev:
        *shown, first, second, third, error, submission_id = dev.run_shell(
            f'{submit}\n{read}\necho "$id"'
        )
        assert "completed" in "\n".join(shown)
        assert ("3", "5", "1") == (first, second, third)
        assert (json.loads(error)["index"], json.loads(error)["type"]) == (2, "KeyError")
        assert ["2", "operation 1: KeyError: 'text'", "2"] == dev.run(program)
    (tmp_path / "tasks.py").write_text(mended)
    with running_dev(tmp_path) as dev:
        assert dev.run_shell(f"id={submission_id}\n{retry}")[-1] == "4"


def test_handlers_pass_the_tests_beside_them(tmp_path: Path) -> None:
    """Under the user's own pytest, in the user's own folder; once for all pages, for its start."""
    write_pillow(tmp_path)
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
                or any(name == page.name and word in block.text for name, word in ELSEWHERE)
                or (page.name in TESTED and block.kind == "python")
                or page.name in AS_A_WHOLE
            )
            is_code = block.kind in ("python", "sh", "bash", "js")
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
    assert len(reasons) <= 12


def test_strategies_of_command_lines_can_be_read() -> None:
    """On every page."""
    written = [
        text for page in PAGES for text in re.findall(r'--strategy "(.*?)"', page.read_text())
    ]

    assert [] == [text for text in written if str(parse_strategy(text)) != text]
    assert len(written) >= 4


@pytest.mark.parametrize("name", generate.PAGES)
def test_pages_that_are_made_from_the_code_are_up_to_date(name: str) -> None:
    """Else: python -m docs.generate."""
    assert (ROOT / "docs" / name).read_text() == generate.PAGES[name]()


def test_every_page_is_in_the_index() -> None:
    """A new page gets its line in docs/README.md."""
    index = (ROOT / "docs" / "README.md").read_text()

    assert ["README.md"] == [page.name for page in DOCS if f"]({page.name})" not in index]


def test_messages_are_quoted_as_they_are_printed() -> None:
    """In troubleshooting.md, where `…` stands for what differs."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    # In tables, and in the text where it has a placeholder.
    quoted += re.findall(r"`((?=[^`\n]*…)[^`\n]* [^`\n]*)`", page)
    # By phrases, since a message may be put together of several texts.
    phrases = [one for text in quoted for one in re.split(r"…|[.:;()] ", " ".join(text.split()))]
    parts = [phrase.strip(" '\"`:()[]") for phrase in phrases]
    printed = "\n".join(texts_in_the_code())

    assert [] == [part for part in parts if part not in printed]
    assert len(parts) > 90


def texts_in_the_code() -> Iterator[str]:
    """Every text of Python and Lua, those between the placeholders of an f-string each."""
    for folder in ("opsqueue", "worker/opsqueue_worker", "api/opsqueue_api"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield " ".join(node.value.split())
        for path in (ROOT / folder).rglob("*.lua"):
            yield from re.findall(r"'([^'\n]*)'", path.read_text())


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
