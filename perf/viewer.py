"""From a click to the first image in OHIF, in Chromium with an empty cache; and what the server needs of that time.

    python -m perf.viewer http://127.0.0.1:8080 STUDY --pid PID [--rounds 5]
    python -m perf.viewer http://127.0.0.1:8080 STUDY --other http://127.0.0.1:8081     two installations, in turns

OHIF must be installed (`filmroom viewer install`), and the server (PID: its supervisor) have no other clients: its
share is its processor time from the click to the first image.

The browser is the one that a user has: started without switches that change how it draws, and nobody listens to the
page. Tools that do make the browser note where in the scripts each request comes from; for that it parses OHIF's
scripts anew, which takes as long as half of the rest. What OHIF says in the console comes from the browser's log.
The processor time of the page's main thread says more than the clock where others use the processors too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from perf.harness import NotInstalled, PerfError, cpu_s, descendants
from perf.page import chromium

TIMEOUT_S = 120.0
FIRST_IMAGE = "studyToFirstImage"
"""A timer of OHIF's, which ends at the first image."""
READY = re.compile(r"DevTools listening on ws://127\.0\.0\.1:([0-9]+)/")
LOOK_S = 0.1
IDLE_S = 0.02
"""Processor time in LOOK_S of a browser that has started: it goes on for a moment after it says that it is ready."""


@dataclass(slots=True)
class Opening:
    """One click, in milliseconds."""

    first_image: float
    main_thread: float
    """Processor time of the thread that runs the page."""
    server: float


@dataclass(slots=True)
class _Arm:
    url: str
    openings: list[Opening] = field(default_factory=list)


@contextmanager
def _browser() -> Iterator[tuple[int, int, IO[str]]]:
    """Its process, the port on which it opens pages, and its log."""
    program = chromium()
    if program is None:
        raise NotInstalled("chromium is needed: apt-get install chromium")
    profile = tempfile.mkdtemp(prefix="perf-viewer-")
    process = subprocess.Popen(
        [
            program, "--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--window-size=1280,800", "--remote-debugging-port=0",
            "--enable-logging=stderr", f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        port = _until(process.stderr, READY)[1]
        _until_idle(process.pid)
        yield process.pid, int(port), process.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        shutil.rmtree(profile, ignore_errors=True)


def _until(log: IO[str], pattern: re.Pattern[str]) -> re.Match[str]:
    """The line with it. A browser that says nothing any more ends the wait by its own end."""
    deadline = time.monotonic() + TIMEOUT_S
    for line in log:
        if (found := pattern.search(line)) is not None:
            return found
        if time.monotonic() > deadline:
            break
    raise PerfError(f"the browser does not write {pattern.pattern}")


def _until_idle(pid: int) -> None:
    pause, deadline = threading.Event(), time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        before_s = cpu_s(pid)
        pause.wait(LOOK_S)
        if cpu_s(pid) - before_s < IDLE_S:
            return
    raise PerfError("the browser does not come to rest")


def opening(url: str, study: str, server_pid: int) -> Opening:
    """Opens a study in a new browser."""
    address = f"{url}/ohif/viewer?StudyInstanceUIDs={study}"
    with _browser() as (pid, port, log):
        before_s, began = cpu_s(server_pid) if server_pid else 0.0, time.perf_counter()
        new = f"http://127.0.0.1:{port}/json/new?{urllib.parse.quote(address, safe='')}"
        urllib.request.urlopen(urllib.request.Request(new, method="PUT"), timeout=TIMEOUT_S).close()
        _until(log, re.compile(FIRST_IMAGE))
        elapsed_s = time.perf_counter() - began
        server_s = cpu_s(server_pid) - before_s if server_pid else 0.0
        main_thread_s = max(_main_thread_s(each) for each in descendants(pid) if _is_renderer(each))
    return Opening(elapsed_s * 1000, main_thread_s * 1000, server_s * 1000)


def _is_renderer(pid: int) -> bool:
    try:
        return b"--type=renderer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _main_thread_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("study")
    parser.add_argument("--other", metavar="URL", help="a server with another installation, opened in turns")
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    arms = [_Arm(given.url), *([_Arm(given.other)] if given.other else [])]
    for turn in range(given.rounds):
        for arm in arms if turn % 2 == 0 else arms[::-1]:
            arm.openings.append(opening(arm.url, given.study, given.pid if arm is arms[0] else 0))
    for arm in arms:
        print(json.dumps({"url": arm.url, **_figures(arm.openings), "rounds": given.rounds}))


def _figures(openings: list[Opening]) -> dict[str, dict[str, int]]:
    def both(values: list[float]) -> dict[str, int]:
        return {"median": round(statistics.median(values)), "min": round(min(values))}

    return {
        "first_image_ms": both([each.first_image for each in openings]),
        "main_thread_cpu_ms": both([each.main_thread for each in openings]),
        "server_cpu_ms": both([each.server for each in openings]),
    }


if __name__ == "__main__":
    main()
