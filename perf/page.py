"""The page in Chromium on a large archive: from navigation to rows, from a key to rows, from a jump to rows.

    python -m perf.fill --direct DIR --studies 1000000 --shape single
    python -m perf.page --archive DIR:1000000

Times are taken in the browser, from the event to the frame that shows the rows; a frame takes 16 ms. A navigation
begins with an empty cache of the browser. Needs the packages of the extra `test` and Debian's chromium.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perf import harness, peers, population
from perf.harness import NotInstalled, PerfError, percentile, say

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SEED = 20261129
PREFIX_LENGTH = 3
"""Letters of a name that are typed, one after the other."""
JUMPED_MIN = 1000
"""Studies of an archive in which one can jump."""

WATCH = """
    const rows = () => [...document.querySelectorAll(".grid-body [role=row]")];
    const areHere = () => rows().length > 0 && rows().every((row) => row.textContent.trim() !== "…");
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    const until = async (condition) => {
        const begin = performance.now();
        while (!condition()) {
            await frame();
            if (performance.now() - begin > 60_000) throw new Error(`the page does not show ${condition}`);
        }
        return performance.now();
    };
    window.firstRows = (async () => {
        while (!document.body) await frame();
        return until(areHere);
    })();
    let keyTime = 0;
    addEventListener("keydown", (event) => { keyTime = event.timeStamp; }, true);
    const answered = (text) => performance.getEntriesByType("resource").some(
        (entry) => entry.name.includes("api/studies") && entry.name.includes(text) && entry.responseEnd > 0);
    window.rowsAfterKey = async (prefix) => {
        await until(() => answered(`PatientName=${prefix}*`));
        const begins = (row) => row.textContent.replace(/^[☐☑]/, "").toLowerCase().startsWith(prefix);
        return await until(() => areHere() && rows().every(begins)) - keyTime;
    };
    window.rowsAfterJump = async (share) => {
        const list = document.querySelector(".grid-body");
        const before = rows()[0].getAttribute("aria-rowindex");
        const begin = performance.now();
        list.scrollTop = share * (list.scrollHeight - list.clientHeight);
        return await until(() => rows()[0].getAttribute("aria-rowindex") !== before && areHere()) - begin;
    };
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    count: int
    p50: float
    p99: float
    bar: float
    server_cpu_ms: float = 0.0
    unit: str = "ms"


def chromium() -> str | None:
    """Its path: FILMROOM_CHROMIUM, or the installed one."""
    return os.environ.get("FILMROOM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser; raises NotInstalled."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NotInstalled("Playwright is needed: install the extra `test`") from None
    executable = chromium()
    if executable is None:
        raise NotInstalled("chromium is needed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


def _navigations(browser: Browser, url: str, rounds: int) -> Iterator[float]:
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(url, wait_until="commit")
        yield page.evaluate("window.firstRows")
        context.close()


def _keystrokes(page: Page, url: str, study_count: int, rounds: int) -> Iterator[float]:
    rng = random.Random(SEED)
    for _ in range(rounds):
        name = population.study(rng.randrange(1, study_count + 1), "single").patient_name.decode().lower()
        page.goto(url)
        page.reload()
        page.evaluate("window.firstRows")
        page.keyboard.press("/")
        for length in range(1, PREFIX_LENGTH + 1):
            page.keyboard.type(name[length - 1])
            yield page.evaluate("prefix => window.rowsAfterKey(prefix)", name[:length])


def _jumps(page: Page, url: str, rounds: int) -> Iterator[float]:
    rng = random.Random(SEED)
    page.goto(url)
    page.reload()
    page.evaluate("window.firstRows")
    page.wait_for_function("() => document.querySelector('.grid-body').scrollHeight > 5_000")
    for _ in range(rounds):
        yield page.evaluate("share => window.rowsAfterJump(share)", rng.uniform(0.02, 1))


def _script_kilobytes(browser: Browser, url: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(url)
    page.evaluate("window.firstRows")
    size: int = page.evaluate(
        """performance.getEntriesByType("resource").filter((entry) => /[.]m?js$/.test(entry.name))
            .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
    )
    context.close()
    return size / 1000


def measure(peer: peers.Peer, study_count: int, rounds: int) -> Iterator[Figure]:
    """All figures of one server."""
    url = f"http://127.0.0.1:{peer.http_port}/"

    def figure(name: str, samples: Iterator[float], bar: float) -> Figure:
        before_s = harness.cpu_s(peer.pid)
        ordered = sorted(samples)
        cpu_ms = (harness.cpu_s(peer.pid) - before_s) * 1000 / len(ordered)
        return Figure(name, len(ordered), percentile(ordered, 0.5), percentile(ordered, 0.99), bar, cpu_ms)

    with launched() as browser:
        yield figure("navigation to rows", _navigations(browser, url, rounds), 300)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(WATCH)
        yield figure("keystroke to rows", _keystrokes(page, url, study_count, rounds), 100)
        if study_count >= JUMPED_MIN:
            yield figure("jump, last received", _jumps(page, url, rounds * 3), 50)
            yield figure("jump, by name", _jumps(page, f"{url}#/studies?order=PatientName", rounds * 3), 50)
        size = _script_kilobytes(browser, url)
        yield Figure("script, compressed", 1, size, size, 50, unit="kB")


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--archive", required=True, metavar="DIR:STUDIES")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    folder, _, number = options.archive.rpartition(":")
    if not number.isdigit():
        raise PerfError(f"{options.archive}: an archive is given as DIR:STUDIES")
    data, rounds = Path(folder), 2 if options.smoke else options.rounds
    with peers.running("filmroom", parent=data.parent, data=data, http=True) as peer:
        figures = list(measure(peer, int(number), rounds))
    rows = [
        (
            each.name, each.count, f"{each.p50:.0f} {each.unit}", f"{each.p99:.0f} {each.unit}", f"{each.bar:.0f}",
            f"{each.server_cpu_ms:.0f} ms" if each.server_cpu_ms else "",
        )
        for each in figures
    ]  # fmt: skip
    say(harness.table(("what", "times", "p50", "p99", "bar, p50", "server CPU"), rows))
    if options.json:
        machine = harness.machine_facts(data)
        document = {"machine": machine, "smoke": options.smoke, "page": [asdict(each) for each in figures]}
        harness.write_json(options.json, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
