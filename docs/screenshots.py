"""Draws docs/screenshots/: the dashboard's states, from a live system.

    python docs/screenshots.py

Needs Debian's chromium and the packages that `make setup` installs; takes about half a minute.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect, sync_playwright

from opsqueue.cli.local_stack import LocalStack
from opsqueue.producer import ProducerClient

FOLDER = Path(__file__).parent / "screenshots"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
APP = """
import time

from opsqueue import Opsqueue

app = Opsqueue()


@app.operation_handler("emails", on_error="collect")
def send(customer: int) -> str:
    time.sleep(0.01)
    if customer % 97 == 0:
        raise ValueError(f"customer {customer} has no address")
    return "sent"


@app.operation_handler("images")
def resize(name: str) -> str:
    if name == "IMG_0007.jpg":
        raise OSError(f"{name}: truncated header")
    return name
"""


def main() -> None:
    """Draw all of them."""
    program = shutil.which("chromium")
    if program is None:
        sys.exit("chromium is not installed (Debian: chromium)")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opsqueue-pictures-") as folder:
        os.chdir(folder)
        Path("pictures_app.py").write_text(APP)
        with (
            LocalStack(
                Path(folder) / "data",
                "pictures_app:app",
                api_port=0,
                concurrency=1,
                workers=2,
                worker_options=[],
                say=lambda _part, _line: None,
                log_level="ERROR",
                store_options="?durable=false",
            ) as stack,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
            wide = browser.new_page(viewport={"width": 1280, "height": 800})
            phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
            Pictures(stack, wide, phone).draw()
            browser.close()


@dataclass(frozen=True)
class Pictures:
    """The live system, and what looks at it: a desk's screen, and a phone that is dark."""

    stack: LocalStack
    wide: Page
    phone: Page

    def producer(self, queue: str) -> ProducerClient:
        """Hand in to a queue."""
        return ProducerClient(self.stack.api_url, self.stack.store_url, queue=queue)

    def at(self, page: Page, view: str) -> Page:
        """Open a view."""
        page.goto(f"{self.stack.api_url}/#/{view}")
        expect(page.locator("h1")).to_be_visible()
        return page

    def draw(self) -> None:
        """Make each state and take its picture."""
        wide = self.at(self.wide, "queues/emails")
        expect(wide.locator(".badge").first).to_have_text("Idle")
        take(wide, "empty")
        self.draw_failed()
        with self.producer("emails") as emails:
            running = emails.insert_submission(
                range(1, 12_000), chunk_size=20, strategic_metadata={"customer": 7, "priority": 3}
            )
            short = emails.insert_submission(
                range(1, 400), chunk_size=20, strategic_metadata={"customer": 9}
            )
            self.at(wide, "")
            self.at(self.phone, "")
            until(lambda: emails.get_submission(running).chunks_done > 200)
        take(wide, "running")
        self.draw_running(f"queues/emails/submissions/{running:019}")
        self.draw_errors(f"queues/emails/submissions/{short:019}")
        self.draw_many()

    def draw_failed(self) -> None:
        """Draw a submission that a chunk failed."""
        with self.producer("images") as images:
            names = [f"IMG_{number:04}.jpg" for number in range(40)]
            failed = images.insert_submission(names, chunk_size=2, max_attempts=1)
            images.insert_submission(names[20:], chunk_size=2)
        wide = self.at(self.wide, f"queues/images/submissions/{failed:019}")
        expect(wide.locator(".badge").first).to_have_text("Failed")
        expect(wide.locator(".gridbox i.failed").first).to_be_visible()
        take(wide, "failed", is_whole=True)

    def draw_running(self, submission: str) -> None:
        """Draw a queue and a submission in progress, a dialog, and a phone."""
        wide, phone = self.wide, self.phone
        self.at(wide, "queues/emails")
        rate = wide.get_by_role("row").filter(has_text="customer:7").get_by_text("/s")
        expect(rate).to_be_visible(timeout=15_000)
        expect(wide.locator(".holds li").first).to_be_visible()
        take(wide, "queue")
        wide.emulate_media(color_scheme="dark")
        take(wide, "queue-dark")
        wide.emulate_media(color_scheme="light")
        self.at(wide, submission)
        expect(wide.locator(".gridbox i.in_hand").first).to_be_visible()
        expect(wide.locator("dl").first).to_contain_text("/s", timeout=15_000)
        take(wide, "submission")
        wide.get_by_role("button", name="Change", exact=True).click()
        expect(wide.get_by_role("dialog")).to_be_visible()
        take(wide, "dialog")
        self.at(phone, submission)
        expect(phone.locator(".gridbox i.done").first).to_be_visible()
        expect(phone.locator("dl").first).to_contain_text("/s", timeout=15_000)
        take(phone, "phone-dark")

    def draw_errors(self, submission: str) -> None:
        """Draw a submission that completed with errors, and the workers."""
        wide = self.at(self.wide, submission)
        wide.locator("ol.errors summary").first.click()
        expect(wide.locator("ol.errors pre").first).to_be_visible()
        take(wide, "errors", is_whole=True)
        self.at(wide, "workers")
        expect(wide.locator(".holds li").first).to_be_visible()
        take(wide, "workers")

    def draw_many(self) -> None:
        """Many queues, one of them paused."""
        names = ("invoices", "crawl", "thumbnails", "translations", "prices", "exports", "reports")
        for name in names:
            with self.producer(f"{name}-eu") as one:
                one.insert_submission(range(len(name) * 40), chunk_size=10)
        httpx.post(f"{self.stack.api_url}/v1/queues/exports-eu/pause").raise_for_status()
        for page, name in ((self.wide, "many-queues"), (self.phone, "phone-queues-dark")):
            self.at(page, "")
            expect(page.get_by_role("link", name="translations-eu")).to_be_visible()
            expect(page.get_by_text("Paused")).to_be_visible()
            take(page, name)


def take(page: Page, name: str, *, is_whole: bool = False) -> None:
    """Write a picture."""
    page.screenshot(path=FOLDER / f"{name}.png", full_page=is_whole)


def until(is_so: Callable[[], bool]) -> None:
    """Ask five times a second: a picture has no event to wait for."""
    deadline = time.monotonic() + 120
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit("the system does not get on: no picture of it at work")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
