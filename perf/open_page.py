"""Pages left open: what the list, the health page and OHIF's cine hold after each minute, while studies arrive.

    python -m perf.open_page --minutes 60
    python -m perf.open_page --minutes 60 --viewer DIR

A browser has the list and the health page open, and with `--viewer` (the folder of `filmroom viewer install`) a study
in OHIF that plays. A study arrives every few seconds. Each minute garbage is collected, and the heap of the scripts,
the nodes of the document and the listeners are counted. A page grows if the median of the last third is above that of
the second one. In the first one Chromium compiles and caches.
Needs the packages of the extra `test` and Debian's chromium.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perf import corpus, fill, harness, load_store, peers
from perf.association import Target
from perf.harness import PerfError, say
from perf.page import launched

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PLAYED_INSTANCES = 40
FIRST_ARRIVAL = 1000
"""Number of the first study that arrives: those before are there when the pages are opened."""
HEAP_NOISE_BYTES = 300_000
"""What a heap may differ by from one minute to the next."""
NODE_NOISE, LISTENER_NOISE = 100, 10


@dataclass(frozen=True, slots=True)
class Look:
    """What a page holds after a garbage collection."""

    minute: float
    heap_bytes: int
    nodes: int
    listeners: int
    documents: int


class Watched:
    """A page that is left open."""

    def __init__(self, name: str, page: Page) -> None:
        self.name = name
        self.page = page
        self.looks: list[Look] = []
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable")
        self._session.send("HeapProfiler.enable")

    def look(self, minute: float) -> Look:
        """Collects garbage and counts."""
        for _ in range(2):
            self._session.send("HeapProfiler.collectGarbage")
        found = {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}
        look = Look(
            round(minute, 1),
            int(found["JSHeapUsedSize"]),
            int(found["Nodes"]),
            int(found["JSEventListeners"]),
            int(found["Documents"]),
        )
        self.looks.append(look)
        return look


def growth(looks: Sequence[Look]) -> str:
    """What the last third holds more than the second one; "": nothing."""
    third = len(looks) // 3
    middle, last = looks[third : 2 * third], looks[2 * third :]
    if not middle:
        return ""

    def more(name: str, noise: int) -> str:
        before, after = (harness.median([getattr(look, name) for look in part]) for part in (middle, last))
        return f"{name} {before:.0f} → {after:.0f}" if after > before + noise else ""

    found = more("heap_bytes", HEAP_NOISE_BYTES), more("nodes", NODE_NOISE), more("listeners", LISTENER_NOISE)
    return ", ".join(filter(None, found))


def _open(browser: Browser, url: str, *, with_viewer: bool) -> list[Watched]:
    def opened(name: str, place: str) -> Watched:
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.goto(url + place)
        return Watched(name, page)

    pages = [opened("list", "/"), opened("health", "/#/health")]
    pages[0].page.locator(".grid-body [role=row]").first.wait_for()
    pages[1].page.locator("canvas").first.wait_for()
    if with_viewer:
        study = corpus.study_uid(2).decode()
        viewer = opened("OHIF, cine", f"/ohif/viewer?StudyInstanceUIDs={study}")
        viewer.page.locator("canvas.cornerstone-canvas").first.wait_for(timeout=120_000)
        confirm = viewer.page.locator("[data-cy='confirm-and-hide-button']")
        confirm.click(timeout=120_000)
        viewer.page.keyboard.press("c")
        viewer.page.locator("[data-cy='cine-player-play-pause']").click()
        pages.append(viewer)
    return pages


def _arrive(target: Target, pause_s: float, until: threading.Event, counts: list[int]) -> None:
    """Stores one study after another until the event; one that fails, on a busy machine, is sent again."""
    while not until.wait(pause_s):
        try:
            fill.run(target, first_study=FIRST_ARRIVAL + counts[0], study_count=1, association_count=1)
        except PerfError as error:
            say(f"  a study did not arrive: {error}")
        else:
            counts[0] += 1


def measure(peer: peers.Peer, minutes: float, pause_s: float, *, with_viewer: bool) -> tuple[list[Watched], int]:
    """The pages with what they held, and the number of studies that arrived."""
    url = f"http://127.0.0.1:{peer.http_port}"
    load_store.run(peer.target, load_store.StoreLoad(instance_count=PLAYED_INSTANCES, warm_up_count=1))
    fill.run(peer.target, first_study=10, study_count=100, association_count=1)
    ended, counts = threading.Event(), [0]
    arrivals = threading.Thread(target=_arrive, args=(peer.target, pause_s, ended, counts), daemon=True)
    with launched() as browser:
        pages = _open(browser, url, with_viewer=with_viewer)
        arrivals.start()
        began = time.monotonic()
        try:
            while (passed := (time.monotonic() - began) / 60) < minutes:
                pages[0].page.wait_for_timeout(min(60.0, (minutes - passed) * 60 + 0.1) * 1000)
                for watched in pages:
                    look = watched.look((time.monotonic() - began) / 60)
                    say(f"  {look.minute:5.1f} min, {counts[0]} arrived, {watched.name}: {_words(look)}")
        finally:
            ended.set()
            arrivals.join()
    return pages, counts[0]


def _words(look: Look) -> str:
    return f"{look.heap_bytes / 1e6:.2f} MB, {look.nodes} nodes, {look.listeners} listeners"


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pause", type=float, default=5, help="seconds between two studies that arrive")
    parser.add_argument("--viewer", type=Path, metavar="DIR", help="the folder in which OHIF is installed")
    options: argparse.Namespace = parser.parse_args(arguments)
    if options.smoke:
        options.minutes, options.pause = 0.1, 1
    extra = f'viewer_directory = "{options.viewer}"\n' if options.viewer else ""
    with peers.running("filmroom", workers=1, http=True, extra_http=extra) as peer:
        pages, arrived = measure(peer, options.minutes, options.pause, with_viewer=options.viewer is not None)
    rows = []
    for watched in pages:
        third = max(1, len(watched.looks) // 3)
        for name, look in (("a third", watched.looks[third - 1]), ("the end", watched.looks[-1])):
            rows.append((watched.name, name, *_words(look).split(", "), growth(watched.looks) or "no"))
    say(f"{arrived} studies arrived")
    say(harness.table(("page", "after", "heap", "nodes", "listeners", "grows"), rows))
    if options.json:
        looks = {watched.name: [asdict(look) for look in watched.looks] for watched in pages}
        harness.write_json(options.json, {"open_page": looks, "arrived": arrived, "smoke": options.smoke})
    grown = [f"{watched.name}: {found}" for watched in pages if (found := growth(watched.looks))]
    if grown:
        raise PerfError("a page grows: " + "; ".join(grown))
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
