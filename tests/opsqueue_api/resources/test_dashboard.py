"""The dashboard's files: their headers, their restrictions, and their packaging."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

import opsqueue_api
from opsqueue.store import ObjectStore
from opsqueue_api.app import App, create_app
from opsqueue_api.http.tokens import parse_tokens
from opsqueue_api.resources.dashboard import page_files

ROOT = Path(__file__).parents[3]
FOLDER = Path(opsqueue_api.__file__).parent / "dashboard"
TEXTS = {path.name: path.read_text() for path in FOLDER.iterdir()}


@pytest.fixture
def app(fake_client: redis.Redis, store: ObjectStore) -> App:
    """With tokens: the page itself wants none."""
    return create_app(fake_client, store, tokens=parse_tokens(f"lead:{'x' * 32}:admin"))


@pytest.fixture
def page(app: App) -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://api") as page:
        yield page


def test_every_file_has_its_type_and_may_load_nothing_from_elsewhere(page: httpx.Client) -> None:
    """Also the page itself, which no other page may frame."""
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    for path in ("/", *(f"/dashboard/{name}" for name in TEXTS)):
        answer = page.get(path)

        suffix = path.rpartition(".")[2] if path != "/" else "html"
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kinds[suffix])
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_a_file_that_is_known_is_not_sent_again(page: httpx.Client) -> None:
    """304 for its tag, compressed or not; the whole file for another's."""
    first = page.get("/", headers={"accept-encoding": "gzip"})
    tag = first.headers["etag"]

    again = page.get("/", headers={"if-none-match": tag})
    other = page.get("/", headers={"if-none-match": 'W/"older"'})

    assert first.headers["content-encoding"] == "gzip"
    assert (304, b"", tag) == (again.status_code, again.content, again.headers["etag"])
    assert (200, first.text) == (other.status_code, other.text)


@pytest.mark.parametrize("name", ["none.js", "..%2fdashboard.py", "%2e%2e"])
def test_nothing_else_of_the_package_is_served(page: httpx.Client, name: str) -> None:
    """What is not a file of the page is no route."""
    assert page.get(f"/dashboard/{name}").status_code == 404


def test_no_text_is_ever_read_as_markup() -> None:
    """Names, tracebacks and metadata are other people's."""
    found = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(")
    assert [name for name, text in TEXTS.items() if found.search(text)] == []


def test_scripts_stand_in_files_of_their_own() -> None:
    """The policy would not run others; and each file that one names is there."""
    html = TEXTS["index.html"]
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    named = {
        name
        for text in TEXTS.values()
        for name in re.findall(r"[\"'](?:\./|dashboard/)([\w.]+)[\"']", text)
    }
    assert named | {"index.html"} == set(TEXTS) == set(page_files())


def test_the_page_works_below_a_prefix_of_a_proxy() -> None:
    """Nothing that it loads or asks for begins at the root of its host."""
    found = re.compile(r"[\"'`(]/(?!/)(?:dashboard|v1|version|openapi|metrics)")
    assert [name for name, text in TEXTS.items() if found.search(text)] == []


def luminance(colour: str) -> float:
    """As WCAG 2 has it."""
    shares = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "grounds"),
    [
        ("text", "page surface sunken"),
        ("soft", "page surface sunken"),
        ("link", "page surface sunken warn-surface"),
        ("bad-text", "bad-surface surface"),
        ("warn-text", "warn-surface"),
        ("good-text", "good-surface"),
        ("busy-text", "busy-surface"),
        ("text", "warn-surface"),
    ],
)
def test_text_can_be_read_on_its_ground(text: str, grounds: str, scheme: int) -> None:
    """At least 4.5 to 1, in both colour schemes (WCAG 2, AA)."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", TEXTS["base.css"])
    colours = {name: both[scheme] for name, *both in pairs}
    for ground in grounds.split():
        low, high = sorted((luminance(colours[text]), luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, ground


def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    """All of its files, beside the module that serves them."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)]
    subprocess.run([*command, "-t", "wheel"], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")

    names = zipfile.ZipFile(wheel).namelist()

    assert {f"opsqueue_api/dashboard/{name}" for name in TEXTS} <= set(names)
