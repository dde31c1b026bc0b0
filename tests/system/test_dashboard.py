"""The dashboard in a real browser, on a real API and worker."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from opsqueue.producer import Backoff, ProducerClient
from opsqueue.testing.embedded import EmbeddedServer
from tests.system.conftest import APPS, Process, Start, kill

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
ADMIN = "ops-0123456789abcdef"
PRODUCER = "web-0123456789abcdef"
TOKENS = f"ops:{ADMIN}:admin;web:{PRODUCER}:produce@letters"


@dataclass
class Live:
    """A page, and checks of events that must not happen on it."""

    page: Page
    url: str
    producer: ProducerClient
    troubles: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda line: self._note(line.type, line.text))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.on("dialog", self._refuse)

    def _note(self, kind: str, text: str) -> None:
        # A refusal is the API's to say, and the page's to explain.
        if kind == "error" and "Failed to load resource" not in text:
            self.troubles.append(text)

    def _check(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.troubles.append(f"asked {url}")

    def _refuse(self, dialog: Dialog) -> None:
        self.troubles.append(f"a browser's own dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, view: str = "") -> Page:
        self.page.goto(f"{self.url}/#/{view}")
        return self.page

    def open_submission(self, id_: int) -> Page:
        return self.open(f"queues/{self.producer.queue}/submissions/{id_:019}")

    def confirm(self, button: str, yes: str) -> None:
        """Click a button, and the confirming button of the dialog."""
        self.page.get_by_role("button", name=button, exact=True).click()
        self.page.get_by_role("dialog").get_by_role("button", name=yes).click()
        expect(self.page.get_by_role("dialog")).to_have_count(0)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a separate server, since the page shows every queue."""
    with EmbeddedServer(tmp_path_factory.mktemp("redis"), is_durable=False) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("OPSQUEUE_TEST_BROWSER") == "required":
            pytest.fail("no chromium, and OPSQUEUE_TEST_BROWSER=required")
        pytest.skip("chromium is not installed (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def live(
    browser: Browser, module_api_url: str, module_store_url: str, queue_name: str
) -> Iterator[Live]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    with ProducerClient(module_api_url, module_store_url, queue=queue_name) as producer:
        live = Live(page, module_api_url, producer)
        live.watch()
        yield live
    page.close()
    assert live.troubles == []


@pytest.fixture
def worker(start: Start, redis_url: str, module_store_url: str, queue_name: str) -> Process:
    worker = start(
        *("opsqueue_worker", "tasks:app", "--concurrency", "1"),
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=module_store_url,
        TEST_QUEUE=queue_name,
    )
    worker.wait_for_line("ready")
    return worker


def test_a_queue_appears_and_is_worked_off_without_a_reload(
    live: Live, worker: Process, queue_name: str
) -> None:
    """From the list of queues to the submission, by clicks, while it runs."""
    page = live.open()
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()

    live.producer.insert_submission(range(300), chunk_size=3, strategic_metadata={"customer": 7})

    page.get_by_role("link", name=queue_name, exact=True).click()
    expect(page.get_by_role("heading", name=queue_name)).to_be_visible()
    row = page.get_by_role("row").filter(has_text="customer:7")
    expect(row).to_contain_text("Completed")
    row.get_by_role("link").first.click()
    expect(page.locator("dl").first).to_contain_text("300 / 300")
    expect(page.locator(".gridbox i.done")).to_have_count(100)


def test_a_failure_is_shown_with_its_traceback_and_retried(live: Live, worker: Process) -> None:
    """After a confirmation it is in progress again, without a reload."""
    id_ = live.producer.insert_submission([["raise", "it"], 1], chunk_size=1, max_attempts=1)
    page = live.open_submission(id_)

    expect(page.get_by_text("no luck with it").first).to_be_visible()
    expect(page.locator("pre").first).to_contain_text("in raise_error")
    expect(page.locator(".gridbox i.failed")).to_have_count(1)
    live.confirm("Retry", "Retry it")

    expect(page.get_by_role("status").filter(has_text="is in progress again")).to_be_visible()


def test_chunks_in_hand_are_told_with_their_worker(
    live: Live, worker: Process, tmp_path: Path
) -> None:
    """The grid, a table and the list of workers show the chunk until it is finished."""
    id_ = live.producer.insert_submission([["wait", str(tmp_path)]], chunk_size=1)
    page = live.open_submission(id_)

    expect(page.locator(".gridbox i.in_hand")).to_have_count(1)
    page.get_by_role("link", name="Workers").click()
    row = page.get_by_role("row").filter(has_text=f"chunk 0 of …{str(id_)[-9:]}")
    expect(row).to_be_visible()
    (tmp_path / "go").touch()
    page.go_back()
    expect(page.locator(".gridbox i.done")).to_have_count(1)


def test_a_submission_is_changed_and_cancelled_through_dialogs(live: Live) -> None:
    """A priority is changed, then it is cancelled; errors appear in the dialog."""
    id_ = live.producer.insert_submission(
        range(5), chunk_size=1, strategic_metadata={"priority": 1}, backoff=Backoff()
    )
    page = live.open_submission(id_)

    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_label("Value of priority").fill("high")
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("alert").filter(has_text="enter an integer")).to_be_visible()
    page.get_by_label("Value of priority").fill("9")
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_text("priority: 9")).to_be_visible()
    assert live.producer.get_submission(id_).strategic_metadata == {"priority": 9}
    live.confirm("Cancel", "Cancel the submission")

    expect(page.locator(".badge").first).to_have_text("Cancelled")
    assert live.producer.get_submission(id_).state == "cancelled"


def test_a_queue_is_paused_and_resumed_by_keyboard_alone(live: Live, queue_name: str) -> None:
    """Tab, Enter and Escape suffice, and the focus is where users expect it."""
    live.producer.insert_submission([1], chunk_size=1)
    page = live.open(f"queues/{queue_name}")
    button = page.get_by_role("button", name="Pause", exact=True)

    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    yes = page.get_by_role("button", name="Pause it")
    for _ in range(5):
        if yes.evaluate("of => of === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.locator(".badge").first).to_have_text("Paused")
    live.confirm("Resume", "Resume it")
    expect(page.locator(".badge").first).not_to_have_text("Paused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colours(
    live: Live, queue_name: str, scheme: Literal["light", "dark"]
) -> None:
    """Nothing is wider than the screen, and the text is not of the ground's colour."""
    id_ = live.producer.insert_submission(range(500), chunk_size=1)
    page = live.page
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)

    queue = f"queues/{queue_name}"
    for view in ("", queue, f"{queue}/submissions/{id_:019}", "workers"):
        live.open(view)
        expect(page.locator("h1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
    colours = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    text, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert abs(text - ground) > 400
    assert (text < ground) == (scheme == "light")


def test_names_from_outside_are_text_and_never_markup(live: Live, worker: Process) -> None:
    """A handler's message may have anything in it."""
    id_ = live.producer.insert_submission(
        [["raise", "<img src=x onerror=alert(1)>"]], chunk_size=1, max_attempts=1
    )
    page = live.open_submission(id_)

    expect(page.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible()
    assert page.locator("main img").count() == 0


def test_a_token_is_asked_for_and_its_scope_is_told(
    live: Live, start: Start, redis_url: str, module_store_url: str
) -> None:
    """One is refused, one is accepted, and one is not enough for admin."""
    api = start(
        *("opsqueue_api", "--port", "0"),
        cwd=APPS,
        OPSQUEUE_REDIS_URL=redis_url,
        OPSQUEUE_STORE_URL=module_store_url,
        OPSQUEUE_API_TOKENS=TOKENS,
    )
    live.url = api.wait_for_line("ready on ").rpartition(" ")[2]
    page = live.open()
    field = page.locator("#token")

    field.fill("mistyped-0123456789")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("the API has no such token")).to_be_visible()
    page.locator("#token").fill(PRODUCER)
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("lacks the scope admin").first).to_be_visible()
    page.get_by_role("button", name="Forget token").click()
    page.locator("#token").fill(ADMIN)
    page.get_by_role("button", name="Use it").click()

    expect(page.locator("#live")).to_contain_text("Live")
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()


def test_errors_of_operations_are_told_and_retried_alone(
    live: Live, worker: Process, queue_name: str
) -> None:
    """Each with its traceback; what failed becomes a submission of its own, asked first."""
    live.producer.queue = f"{queue_name}-collecting"
    id_ = live.producer.insert_submission([1, "x", 2, 3], chunk_size=2)
    page = live.open_submission(id_)

    expect(page.get_by_text("1 operation of finished chunks failed")).to_be_visible()
    expect(page.locator(".gridbox i.errors")).to_have_count(1)
    page.get_by_text("Operation 1").click()
    expect(page.get_by_role("region", name="Traceback of operation 1")).to_contain_text(
        "in add_one"
    )
    expect(page.get_by_role("link", name="Download results")).to_be_visible()
    live.confirm("Retry only failed", "Insert them")

    expect(page.get_by_role("heading", level=1)).not_to_have_text(f"{id_:019}")
    expect(page.locator("dl").first).to_contain_text("1 / 1")


def test_a_lost_connection_is_told_and_made_again(
    live: Live, start: Start, redis_url: str, module_store_url: str, queue_name: str
) -> None:
    """The page shows old data until the API is back, without reloading."""
    serve = {"OPSQUEUE_REDIS_URL": redis_url, "OPSQUEUE_STORE_URL": module_store_url}
    api = start("opsqueue_api", "--port", "0", cwd=APPS, **serve)
    live.url = api.wait_for_line("ready on ").rpartition(" ")[2]
    page = live.open(f"queues/{queue_name}")
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_enabled()
    page.evaluate("window.isSame = true")

    # The parent first, which would start another child.
    for pid in (api.pid, *(child.pid for child in api.children())):
        kill(pid)
    api.wait()

    expect(page.get_by_role("alert").filter(has_text="Connection lost")).to_be_visible()
    expect(page.get_by_text("This page shows data from")).to_be_visible()
    start("opsqueue_api", "--port", live.url.rpartition(":")[2], cwd=APPS, **serve)
    expect(page.locator("#live")).to_have_text("Live", timeout=20_000)
    expect(page.get_by_text("Connection lost")).to_be_hidden()
    assert page.evaluate("window.isSame")
