"""Drives the page in Debian's headless Chromium: start it, watch what it reports, fill the archive, drop files, audit.

`Watch` collects what a user of the page never sees: script errors, violations of the content security policy, failed
requests, and requests to other hosts. The fixture `watch` (conftest.py) asserts after each test that there were none.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, sync_playwright
from pydicom.dataset import Dataset

from perf.page import chromium
from tests import effort, samples
from tests.system import foreign

TIMEOUT_MS = 60_000
"""Of each wait for a condition. Continuous integration may be slow; a test that passes does not wait that long."""

POLL_MS = 20

ARGUMENTS = ("--disable-dev-shm-usage", "--force-color-profile=srgb", "--js-flags=--expose-gc")
BOUNDARY = "filmroom-browser-test"


def headless() -> str | None:
    """The path of a browser: FILMROOM_CHROMIUM, or the one without windows, which needs half of the processor time of
    the whole one (11.9 instead of 21.3 s for test_list.py), or the whole one."""
    return os.environ.get("FILMROOM_CHROMIUM") or shutil.which("chromium-headless-shell") or chromium()


@contextmanager
def launched(executable: str) -> Iterator[Browser]:
    """A browser. While it runs, asyncio cannot be used in the same thread: Playwright's own loop is there."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """What goes wrong in the pages of a context."""

    def __init__(self, origin: str) -> None:
        self.problems: list[str] = []
        self._origin = urlsplit(origin).netloc
        self._allowed: list[str] = []

    def allow(self, pattern: str) -> None:
        """Do not report problems in which this regular expression is found: the test causes them on purpose."""
        self._allowed.append(pattern)

    def attach(self, context: BrowserContext) -> None:
        """Listens to all pages of a context."""
        context.on("request", self._requested)
        context.on("console", self._logged)
        context.on("weberror", lambda error: self.problems.append(f"uncaught: {error.error}"))

    def check(self) -> None:
        """Asserts that nothing went wrong."""
        reported = [text for text in self.problems if not any(re.search(pattern, text) for pattern in self._allowed)]
        assert not reported, reported

    def _requested(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self._origin:
            self.problems.append(f"a request to another host: {request.url}")

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text} ({message.location.get('url')})")


# the archive -------------------------------------------------------------------------------------


def store(url: str, *data_sets: Dataset) -> None:
    """Stores instances by one STOW-RS request; all must be taken."""
    parts = [
        b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n" % (BOUNDARY.encode(), samples.part10(ds))
        for ds in data_sets
    ]
    answer = requests.post(
        f"{url}/dicom-web/studies",
        b"".join(parts) + b"--%b--\r\n" % BOUNDARY.encode(),
        headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def send(port: int, *data_sets: Dataset) -> None:
    """Sends instances by C-STORE, as a modality does; all must be taken."""
    statuses = foreign.store(port, [foreign.Stored.of(ds) for ds in data_sets])
    assert statuses == [0] * len(data_sets), statuses


# the page ----------------------------------------------------------------------------------------


def wait_until(page: Page, condition: Callable[[], object], what: str) -> None:
    """Waits for what the test itself can tell. Meanwhile the page's requests reach the handlers of its routes."""
    for _ in range(TIMEOUT_MS // POLL_MS):
        if condition():
            return
        page.wait_for_timeout(POLL_MS)
    raise AssertionError(f"{what}: not within {TIMEOUT_MS} ms")


def drop(page: Page, files: Mapping[str, bytes], onto: str = ".frame") -> None:
    """Drags files over an element and drops them, as from a folder of the desktop."""
    contents = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
    transfer = page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, content] of files) {
                transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
            }
            return transfer;
        }""",
        contents,
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(onto, event, {"dataTransfer": transfer})


def rows(page: Page) -> Locator:
    """The rows of the list of studies that are there."""
    return page.locator(".grid-body [role=row]")


def focused(page: Page) -> str:
    """What has the focus: its role or tag, and its name or text."""
    text: str = page.evaluate(
        """() => {
            const element = document.activeElement;
            const name = element.getAttribute("aria-label") ?? element.textContent;
            return `${element.getAttribute("role") ?? element.tagName.toLowerCase()}: ${name.trim().slice(0, 60)}`;
        }"""
    )
    return text


def tab_to(page: Page, text: str) -> None:
    """Presses the tabulator until something with this text has the focus."""
    stops: list[str] = []
    while len(stops) < 100:
        page.keyboard.press("Tab")
        stops.append(focused(page))
        if text in stops[-1]:
            return
    raise AssertionError(f"{text} is not reached by Tab: {stops}")


def some(places: Sequence[effort.Case]) -> Sequence[effort.Case]:
    """Every third of them, others with each commit: axe-core takes a second for each. All of them with --all."""
    return effort.some(places, 3)


def accessibility_problems(page: Page, *rules: str) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA and its own best practices; with `rules` only by these."""
    options: dict[str, object] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    violations = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:5]]}" for one in violations]
