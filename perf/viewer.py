"""From a click to the first image in OHIF, in Chromium with an empty cache; and what the server needs of that time.

    python -m perf.viewer http://127.0.0.1:8080 STUDY --pid PID [--rounds 5]

OHIF must be installed (`filmroom viewer install`), and the server (PID: its supervisor) have no other clients: its
share is its processor time from the click to the first image. Without a graphics processor WebGL runs in software,
which the time to the image shows and the server's share does not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time

from playwright.sync_api import Browser, ConsoleMessage, sync_playwright

from perf.harness import cpu_s

TIMEOUT_MS = 120_000
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


def first_image(browser: Browser, url: str, study: str) -> float:
    """Milliseconds from the navigation to the first image."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()

        def is_drawn(message: ConsoleMessage) -> bool:
            return message.text.startswith("studyToFirstImage")

        began = time.perf_counter()
        with page.expect_console_message(is_drawn, timeout=TIMEOUT_MS):
            page.goto(f"{url}/ohif/viewer?StudyInstanceUIDs={study}", wait_until="commit")
        return (time.perf_counter() - began) * 1000
    finally:
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("study")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    times, shares = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=WEBGL)
        for _ in range(given.rounds):
            before_s = cpu_s(given.pid)
            times.append(first_image(browser, given.url, given.study))
            shares.append((cpu_s(given.pid) - before_s) * 1000)
        browser.close()
    print(
        json.dumps(
            {
                "first_image_ms": {"median": round(statistics.median(times)), "min": round(min(times))},
                "server_cpu_ms": {"median": round(statistics.median(shares), 1), "min": round(min(shares), 1)},
                "rounds": given.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
