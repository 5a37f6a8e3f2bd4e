"""The list of studies as a tool: columns, own filters, mistakes, several studies at once; a patient; a study."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests import samples
from tests.browser import browsing
from tests.browser.conftest import OpenPage
from tests.system.server import Server

pytestmark = pytest.mark.rotating(3, turn=0)

CONFIG = """
[[peer]]
aet = "NOBODY"
host = "127.0.0.1"
port = 9
"""
DATA_SETS = [
    samples.instance(1, 1, 1, patient_id="P1", patient_name="Alpha^Ann", InstitutionName="Saint Ann"),
    samples.instance(1, 2, 1, patient_id="P1", patient_name="Alpha^Ann", modality="MR", StudyDescription="Other"),
    samples.instance(2, 1, 1, patient_id="P1", patient_name="Alpha^Ann", study_date="20250301"),
    samples.instance(3, 1, 1, patient_id="P3", patient_name="=cmd()", modality="MR"),
    samples.instance(4, 1, 1, patient_id="P4", patient_name="Delta^Dan", study_date="20240101"),
]


def filtered(page: Page, column: str, text: str) -> None:
    page.get_by_label(f"Filter: {column}", exact=True).fill(text)


def test_the_list_asks_once_when_it_is_opened(page: Page) -> None:
    expect(page.locator(".bar [role=status]")).to_contain_text("images")  # else its own requests might still come
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "position=0&limit=100" in request.url else None)
    page.reload()
    expect(page.locator(".bar [role=status]")).to_contain_text("images")
    assert len(asked) == 1, asked


def test_rows_are_not_asked_for_where_another_view_is_opened(page: Page) -> None:
    page.goto("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "api/studies?" in request.url else None)
    page.goto("/#/upload")
    expect(page.get_by_role("heading", name="Upload")).to_be_visible()
    assert not asked
    page.get_by_role("link", name="Studies").click()
    expect(browsing.rows(page)).to_have_count(4)


def test_filters_take_wildcards_lists_and_words_and_a_mistake_is_named(page: Page) -> None:
    expect(browsing.rows(page)).to_have_count(4)
    filtered(page, "Modality", "ct, mr")
    expect(page.locator(".bar [role=status]")).to_contain_text("4 studies · 5 images")
    filtered(page, "Modality", "mr")
    expect(browsing.rows(page)).to_have_count(2)
    filtered(page, "Modality", "")
    filtered(page, "Patient", "*l*a*")
    expect(browsing.rows(page)).to_have_count(3)
    filtered(page, "Date", "2025..2026")
    expect(browsing.rows(page)).to_have_count(2)
    filtered(page, "Date", "2026-13")
    expect(page.get_by_role("alert")).to_have_text("Like 2026-01")
    filtered(page, "Date", "today")
    expect(browsing.rows(page)).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_columns_are_chosen_and_remembered(page: Page) -> None:
    page.get_by_role("button", name="Columns").click()
    for name in ("Image", "Sent by", "Institution", "Received"):
        page.get_by_role("dialog").get_by_label(name, exact=True).check()
    page.get_by_role("button", name="Close").click()
    row = page.get_by_role("row", name="P1").last
    expect(row).to_contain_text("Saint Ann")
    expect(row).to_contain_text("http:127.0.0.1")
    expect(row.locator("img")).to_be_visible()
    assert browsing.accessibility_problems(page) == []
    page.reload()
    expect(page.get_by_role("columnheader", name="Institution")).to_be_visible()
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("button", name="As it was").click()
    expect(page.get_by_role("columnheader", name="Institution")).to_have_count(0)


def test_a_filter_of_ones_own_keeps_no_patient_unless_asked_to(page: Page) -> None:
    filtered(page, "Patient", "alpha")
    filtered(page, "Modality", "MR")
    expect(browsing.rows(page)).to_have_count(1)
    page.get_by_role("button", name="Own…").click()
    page.get_by_label("Name", exact=True).fill("My MR")
    assert browsing.accessibility_problems(page) == []
    page.get_by_role("button", name="Keep").click()
    page.reload()
    kept = json.loads(page.evaluate("localStorage.getItem('filters')"))
    assert kept == [{"name": "My MR", "query": "ModalitiesInStudy=MR"}]
    page.get_by_role("button", name="Last received").click()
    expect(browsing.rows(page)).to_have_count(4)
    page.get_by_role("button", name="My MR").click()
    expect(browsing.rows(page)).to_have_count(2)


def test_several_studies_are_chosen_by_keys_and_downloaded_sent_and_listed(page: Page, serve: Server) -> None:
    expect(browsing.rows(page)).to_have_count(4)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowDown")
    bar = page.get_by_role("group", name="Chosen studies")
    expect(bar).to_contain_text("3 chosen")
    page.keyboard.press("Space")
    expect(bar).to_contain_text("2 chosen")
    table = requests.get(str(bar.get_by_role("link", name="CSV").get_attribute("href")), timeout=60).text
    assert len(table.splitlines()) == 3 and "'=cmd()" in table
    address = str(bar.get_by_role("link", name="Download").get_attribute("href"))
    with zipfile.ZipFile(io.BytesIO(requests.get(address, timeout=60).content)) as archive:
        assert len([name for name in archive.namelist() if name.startswith("DICOM/")]) == 2
    bar.get_by_role("button", name="Send…").click()
    page.get_by_role("button", name="NOBODY (127.0.0.1:9)").click()
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("cancelled")


def test_a_study_shows_its_sender_conflict_and_correction_with_undo(page: Page) -> None:
    page.goto(f"/#/study/{samples.ROOT}.1")
    expect(page.get_by_role("table", name="Sent by")).to_contain_text("127.0.0.1 (HTTP)")
    expect(page.locator(".facts")).to_contain_text(
        re.compile("State(arriving: instances are coming|quiet: no new instance) ")
    )
    expect(page.get_by_role("table", name="Other studies of this patient")).to_contain_text("2025-03-01")
    page.get_by_role("table", name="Conflicts").get_by_role("button", name="Other").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Other")
    page.get_by_role("button", name="Correct…").click()
    page.get_by_role("dialog").get_by_label("Referring physician").fill("New^Nora")
    page.get_by_role("button", name="Correct 1").click()
    expect(page.locator(".facts")).to_contain_text("New, Nora")
    row = page.get_by_role("table", name="Corrections").get_by_role("row", name="New^Nora")
    row.get_by_role("button", name="Undo").click()
    expect(row).to_contain_text("undone")
    expect(page.locator(".facts")).to_contain_text("Refer, Red")
    page.get_by_role("button", name="Correct…").click()
    page.get_by_role("dialog").get_by_label("Patient ID").fill("P4")
    page.get_by_role("button", name="Correct 1").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Delta, Dan")
    page.get_by_role("table", name="Corrections").get_by_role("row", name="move").get_by_role(
        "button", name="Undo"
    ).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Alpha, Ann")
    page.keyboard.press("h")
    page.get_by_role("dialog").get_by_label("Reason").fill("trial")
    page.get_by_role("dialog").get_by_role("button", name="Hold", exact=True).click()
    expect(page.get_by_role("note")).to_contain_text("trial")
    assert browsing.accessibility_problems(page) == []


def test_who_types_before_the_elements_are_there_keeps_the_focus(page: Page) -> None:
    held: list[Route] = []
    page.route("**/tags", lambda route: held.append(route))
    page.goto(f"/#/study/{samples.ROOT}.1")
    page.get_by_role("button", name="Instances").first.click()
    page.get_by_role("button", name="Elements").click()
    browsing.wait_until(page, lambda: held, "the elements are asked for")
    field = page.get_by_role("dialog").get_by_label("Search")
    field.focus()
    held[0].continue_()
    expect(page.get_by_role("table", name="Elements").get_by_role("row").first).to_be_visible()
    expect(field).to_be_focused()


def test_chosen_series_and_instances_are_what_is_downloaded(page: Page) -> None:
    page.goto(f"/#/study/{samples.ROOT}.1")
    page.get_by_label("Choose series Series 2").check()
    page.get_by_role("button", name="Instances").first.click()
    page.get_by_label("Choose instance 1").check()
    page.get_by_role("button", name="Elements").click()
    page.get_by_role("dialog").get_by_label("Search").fill("(0008,0080)")
    expect(page.get_by_role("table", name="Elements").get_by_role("row")).to_have_count(1)
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    address = str(page.get_by_role("link", name="Download").get_attribute("href"))
    with zipfile.ZipFile(io.BytesIO(requests.get(address, timeout=60).content)) as archive:
        assert len([name for name in archive.namelist() if name.startswith("DICOM/")]) == 2


def test_a_patient_has_all_studies_also_on_a_phone(open_page: OpenPage) -> None:
    page = open_page("#/patient?PatientID=P1", viewport={"width": 390, "height": 800}, color_scheme="light")
    expect(page.get_by_role("status")).to_contain_text("studies: 2, series: 3, images: 3")
    page.locator("summary").first.click()
    expect(page.locator("a.card")).to_have_count(2)
    assert browsing.accessibility_problems(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
