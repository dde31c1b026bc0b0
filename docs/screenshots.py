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
from pathlib import Path

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
            draw(stack, wide, phone)
            browser.close()


def draw(stack: LocalStack, wide: Page, phone: Page) -> None:
    """Make each state and take its picture."""

    def producer(queue: str) -> ProducerClient:
        return ProducerClient(stack.api_url, stack.store_url, queue=queue)

    def at(page: Page, view: str) -> None:
        page.goto(f"{stack.api_url}/#/{view}")
        expect(page.locator("h1")).to_be_visible()

    def picture(page: Page, name: str, *, is_whole: bool = False) -> None:
        page.screenshot(path=FOLDER / f"{name}.png", full_page=is_whole)

    at(wide, "queues/emails")
    expect(wide.locator(".badge").first).to_have_text("Idle")
    picture(wide, "empty")

    with producer("images") as images:
        names = [f"IMG_{number:04}.jpg" for number in range(40)]
        failed = images.insert_submission(names, chunk_size=2, max_attempts=1)
        images.insert_submission(names[20:], chunk_size=2)
    at(wide, f"queues/images/submissions/{failed:019}")
    expect(wide.locator(".badge").first).to_have_text("Failed")
    picture(wide, "failed", is_whole=True)

    with producer("emails") as emails:
        running = emails.insert_submission(
            range(1, 12_000), chunk_size=20, strategic_metadata={"customer": 7, "priority": 3}
        )
        emails.insert_submission(range(1, 400), chunk_size=20, strategic_metadata={"customer": 9})
        at(wide, "")
        at(phone, "")
        until(lambda: emails.get_submission(running).chunks_done > 200)
    picture(wide, "running")
    at(wide, "queues/emails")
    expect(wide.get_by_text("customer:7").first).to_be_visible()
    picture(wide, "queue")
    at(wide, f"queues/emails/submissions/{running:019}")
    expect(wide.locator(".gridbox i.in_hand").first).to_be_visible()
    expect(wide.locator("dl").first).to_contain_text("/s", timeout=15_000)
    picture(wide, "submission")
    at(phone, f"queues/emails/submissions/{running:019}")
    expect(phone.locator(".gridbox i.done").first).to_be_visible()
    expect(phone.locator("dl").first).to_contain_text("/s", timeout=15_000)
    picture(phone, "phone-dark")

    for name in ("invoices", "crawl", "thumbnails", "translations", "prices", "exports", "reports"):
        with producer(f"{name}-eu") as one:
            one.insert_submission(range(len(name) * 40), chunk_size=10)
    at(wide, "")
    expect(wide.get_by_role("link", name="translations-eu")).to_be_visible()
    picture(wide, "many-queues")


def until(is_so: Callable[[], bool]) -> None:
    """Ask five times a second: a picture has no event to wait for."""
    deadline = time.monotonic() + 120
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit("the system does not get on: no picture of it at work")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
