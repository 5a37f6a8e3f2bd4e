"""OHIF, as it is installed, opens what is stored: the pixels on its canvas, scrolling, a measurement as a report.

It is looked for in .venv/cache/ohif, where continuous integration installs it, and where `filmroom viewer install` puts
it. The page alone, without OHIF, is tested in tests/web/test_viewer_files.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, expect

from engine.viewer import installation
from tests.browser import browsing, pictures
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.system.server import Server

CACHE = Path(__file__).resolve().parents[2] / ".venv/cache/ohif"
SLICES = pictures.slices(1, 4, patient_name="<b>Stack</b>^Stan", patient_id="STACK")
PRIOR = pictures.slices(2, 2, patient_name="<b>Stack</b>^Stan", patient_id="STACK")
DATA_SETS = [*SLICES, *PRIOR]
STUDY = SLICES[0].StudyInstanceUID
LEVELS_MAX = 4.0
OWN_WARNINGS = (
    r"dataSource=|software rasterizer|Automatic fallback to software WebGL|GPU stall|WebGL|for \{DialogContent\}"
    r"|longer than 16"
)
"""What OHIF and Chromium write to the console in any case."""
START_MS = 120_000
"""Eight megabytes of scripts on a loaded machine without a graphics processor."""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    """The server's environment names the directory in which the viewer is."""
    folder = installation.find(CACHE) or installation.find(None)
    if folder is None or not installation.load(folder).manifest.is_current:
        pytest.skip("OHIF is not installed here, or another version: run `filmroom viewer install`")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("FILMROOM_HTTP_VIEWER_DIRECTORY", str(folder.parent))
        yield


@pytest.fixture
def ohif(open_page: OpenPage, watch: Watch) -> Page:
    """OHIF with the first study, opened from the list by a key."""
    watch.allow(OWN_WARNINGS)
    page = open_page()
    browsing.rows(page).filter(has_text="4").first.click()
    page.keyboard.press("o")
    page.wait_for_url(f"**/ohif/viewer?StudyInstanceUIDs={STUDY}")
    expect(canvas(page)).to_be_visible(timeout=START_MS)
    page.locator("[data-cy='confirm-and-hide-button']").click()
    return page


def canvas(page: Page) -> Locator:
    return page.locator("canvas.cornerstone-canvas")


def levels(page: Page) -> NDArray[np.float64]:
    """Grey levels at the centre of each pixel of an image that fills the viewport."""
    shown = pictures.shown(canvas(page))
    scale = min(shown.shape[0] / pictures.ROWS, shown.shape[1] / pictures.COLUMNS)
    top, left = (
        (size - count * scale) / 2 for size, count in zip(shown.shape, (pictures.ROWS, pictures.COLUMNS), strict=True)
    )
    rows = (top + (np.arange(pictures.ROWS) + 0.5) * scale).astype(int)
    columns = (left + (np.arange(pictures.COLUMNS) + 0.5) * scale).astype(int)
    return shown[np.ix_(rows, columns)]


def shown_slice(page: Page) -> int | None:
    """Which of the slices is on the canvas; None: none of them."""
    now = levels(page)
    differences = [float(np.abs(now - pictures.expected(ds, 40, 1200)).mean()) for ds in SLICES]
    nearest = int(np.argmin(differences))
    return nearest if differences[nearest] < LEVELS_MAX else None


def wait_for_slice(page: Page, other_than: int | None = None) -> int:
    """Waits until a slice is drawn that is not this one."""
    seen: list[Any] = []
    for _ in range(600):
        number = shown_slice(page)
        if number is not None and number != other_than:
            return number
        seen.append(number)
        page.wait_for_timeout(200)
    raise AssertionError(f"no other slice than {other_than} was drawn: {seen[-5:]}")


def test_the_stored_pixels_are_drawn_and_scrolled(ohif: Page) -> None:
    first = wait_for_slice(ohif)
    assert first in (0, len(SLICES) - 1), "a stack begins at one of its ends"
    canvas(ohif).hover()
    numbers = [first]
    while len(numbers) < len(SLICES):
        ohif.mouse.wheel(0, 100)
        numbers.append(wait_for_slice(ohif, other_than=numbers[-1]))
    assert numbers in ([0, 1, 2, 3], [3, 2, 1, 0]), "each once, in the order of their places"
    # The patient's other study is listed; a hostile name is text.
    expect(ohif.locator("[data-cy='studyBrowser-panel'] h3")).to_have_count(2)
    assert ohif.locator("b", has_text="Stack").count() == 0


def test_the_list_offers_every_mode_though_a_study_loads_one(ohif: Page) -> None:
    wait_for_slice(ohif)
    names = ohif.evaluate("performance.getEntriesByType('resource').map(({name}) => name)")
    assert not [name for name in names if re.search(r"/(1483|2779|4683)\.bundle", name)], "scripts of other modes"
    ohif.locator("[data-cy='return-to-work-list']").click()
    ohif.wait_for_url("**/ohif/")
    ohif.get_by_role("row").filter(has_text="Stack").first.click(timeout=START_MS)
    expect(ohif.get_by_role("button", name="Segmentation")).to_be_visible()
    ohif.get_by_role("button", name="Basic Viewer").click()
    expect(canvas(ohif)).to_be_visible(timeout=START_MS)


def test_a_measurement_is_stored_as_a_report(ohif: Page, serve: Server) -> None:
    wait_for_slice(ohif)
    ohif.locator("[data-cy='MeasurementTools-split-button-primary'], [data-cy='Length']").first.click()
    box = canvas(ohif).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    ohif.mouse.move(x - 100, y - 50)
    ohif.mouse.down()
    ohif.mouse.move(x + 100, y + 50, steps=8)
    ohif.mouse.up()
    ohif.get_by_text("Yes", exact=True).first.click()
    ohif.locator("[data-cy='trackedMeasurements-btn'], [data-cy='panelMeasurement-btn']").first.click()
    ohif.get_by_text("Create SR").first.click()
    dialog = ohif.get_by_role("dialog")
    dialog.locator("input").first.fill("A length")
    with ohif.expect_response(lambda answer: answer.request.method == "POST") as stored:
        dialog.get_by_role("button", name="Save").click()
    assert stored.value.status == 200
    url = f"{serve.url}/dicom-web/studies/{STUDY}/series?Modality=SR&includefield=SeriesDescription"
    [series] = requests.get(url, headers={"Accept": "application/dicom+json"}, timeout=60).json()
    assert series["0008103E"]["Value"] == ["A length"]
