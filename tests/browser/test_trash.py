"""A study that was deleted by mistake: gone from the list, found in the trash, restored; another deleted for good."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests import samples
from tests.browser import browsing
from tests.browser.conftest import OpenPage

HOSTILE = "<script>alert(1)</script>" + "W" * 200 + "^\u202eEvil"
DATA_SETS = [
    samples.instance(1, patient_name="Lost^Lena", patient_id="LOST", StudyDescription="Thorax"),
    samples.instance(2, patient_name="Other^Olga", patient_id="OTHER"),
    samples.instance(3, patient_name=HOSTILE, patient_id="HOSTILE"),
]


def _delete(page: Page, study: int, patient_id: str) -> None:
    page.goto(f"/#/study/{DATA_SETS[study - 1].StudyInstanceUID}")
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("can be restored for 30 days")
    dialog.get_by_role("textbox", name=f"Type {patient_id}").fill(patient_id)
    dialog.get_by_role("textbox", name="Reason").fill("wrong patient")
    dialog.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(browsing.rows(page).first).to_be_visible()


def _entry(page: Page, name: str) -> None:
    page.goto("/#/administration/trash")
    expect(page.get_by_role("row", name=name)).to_be_visible()


def test_a_deleted_study_is_found_in_the_trash_and_restored(page: Page) -> None:
    _delete(page, 1, "LOST")
    _entry(page, "Lost, Lena")
    row = page.get_by_role("row", name="Lost, Lena")
    expect(row).to_contain_text("LOST")
    expect(row).to_contain_text("http:127.0.0.1")
    expect(row).to_contain_text("wrong patient")
    row.get_by_role("button", name="Restore").click()
    expect(page.get_by_role("status").last).to_contain_text("Restored: Lost, Lena")
    expect(page.get_by_text("The trash is empty.")).to_be_visible()
    page.get_by_role("link", name="Lost, Lena").click()
    expect(page.get_by_role("heading", name="Lost, Lena")).to_be_visible()
    expect(page.locator("a.card")).to_be_visible()


def test_the_trash_is_emptied_only_when_a_word_is_typed_and_shows_hostile_names_as_text(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 800})
    _delete(page, 2, "OTHER")
    _delete(page, 3, "HOSTILE")
    _entry(page, "Other, Olga")
    expect(page.get_by_text("<script>", exact=False)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the table scrolls, not the page"
    assert not browsing.accessibility_problems(page)
    page.get_by_role("row", name="Other, Olga").get_by_role("button", name="Delete for good…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Delete for good…")).to_have_count(0)
    dialog.get_by_role("textbox").fill("OTHER")
    dialog.get_by_role("button", name="Delete for good…").click()
    expect(page.get_by_role("row", name="Other, Olga")).to_have_count(0)
    page.get_by_role("row", name="HOSTILE").get_by_role("button", name="Restore").click()
    expect(page.get_by_text("The trash is empty.")).to_be_visible()
