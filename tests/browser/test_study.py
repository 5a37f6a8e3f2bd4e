"""From an upload to the image on the screen, by mouse and by keys."""

from __future__ import annotations

import re

from playwright.sync_api import Page, Route, expect

from tests import samples
from tests.browser import browsing, pictures
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage

SLICES = pictures.slices(1, 4, patient_name="Stack^Stan", patient_id="STACK")
MOVIE = samples.instance(4, patient_name="Movie^Mia", patient_id="MOVIE", NumberOfFrames=2, pixels=bytes(1024))
DATA_SETS = [
    *SLICES,
    MOVIE,
    samples.instance(3, patient_name="Dark^Dan", patient_id="DARK", pixels=b""),
    samples.instance(2, patient_name="Other^Olga", patient_id="OTHER"),
]
VIEW = f"#/view/{SLICES[0].StudyInstanceUID}/{SLICES[0].SeriesInstanceUID}"
ORDERED = SLICES[::-1]
"""As one scrolls: along the normal of the images, from feet to head."""
LEVELS_MAX = 3.0


def test_dropped_files_are_stored_with_progress_or_refused_with_the_reason_then_found_and_shown(
    page: Page, watch: Watch
) -> None:
    watch.allow("status of 409")  # of a STOW-RS answer in which nothing is stored
    new = pictures.slices(11, 2, patient_name="Dropped^Dora", patient_id="DROP")
    waiting: list[Route] = []
    page.route("**/dicom-web/studies", lambda route: waiting.append(route))
    good = {f"{number}.dcm": samples.part10(ds) for number, ds in enumerate(new)}
    browsing.drop(page, {**good, "broken.dcm": bytes(128) + b"DICMno elements", "notes.txt": b"no DICOM"})
    expect(page.get_by_role("heading", name="Upload")).to_be_visible()
    expect(page.get_by_role("progressbar", name="Upload")).to_be_visible()
    expect(page.get_by_role("row", name="notes.txt")).to_contain_text("is no DICOM file")
    expect(page.get_by_role("status")).to_contain_text("1 of 4")
    page.unroute("**/dicom-web/studies")  # lets them go on
    expect(page.get_by_role("status")).to_contain_text("4 of 4: 2 stored, 0 with a warning, 2 refused")
    expect(page.get_by_role("row", name="broken.dcm")).to_contain_text("C000")

    page.get_by_role("link", name="Studies").click()
    expect(browsing.rows(page).nth(2)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("dropp")
    expect(browsing.rows(page)).to_have_count(1)
    browsing.rows(page).dblclick()
    expect(page.get_by_role("heading", name="Dropped, Dora")).to_be_visible()
    page.locator("a.card").click()
    expect(page.locator(".corner.lower")).to_contain_text("1 / 2")
    assert pictures.difference(page.locator("img.picture"), new[1], 40, 1200) < LEVELS_MAX


def test_a_study_of_which_bytes_are_in_the_bucket_only_says_so(open_page: OpenPage) -> None:
    def far_away(route: Route) -> None:
        answer = route.fetch()
        text = answer.text().replace('"ONLINE"', '"NEARLINE"')
        route.fulfill(response=answer, body=text)

    page = open_page(f"#/study/{SLICES[0].StudyInstanceUID}")
    note = page.get_by_role("note").filter(has_text="object store")
    expect(page.get_by_role("heading", name="Stack, Stan")).to_be_visible()
    expect(note).to_have_count(0)
    page.route(re.compile(r"dicom-web/studies\?|api/studies\?"), far_away)
    page.reload()
    expect(note).to_be_visible()
    assert browsing.accessibility_problems(page) == []
    page.evaluate("localStorage.setItem('columns', '[\"PatientName\",\"InstanceAvailability\"]')")
    page.get_by_role("link", name="Studies", exact=True).click()
    expect(browsing.rows(page).first).to_contain_text("in the bucket")


def test_the_image_on_the_screen_is_the_instance_in_its_window(open_page: OpenPage) -> None:
    page = open_page(VIEW)
    picture = page.locator("img.picture")
    for place in range(len(ORDERED)):
        expect(page.locator(".corner.lower")).to_contain_text(f"{place + 1} / 4")
        differences = [pictures.difference(picture, ds, 40, 1200) for ds in ORDERED]
        assert [level < LEVELS_MAX for level in differences] == [at == place for at in range(len(ORDERED))]
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("4")
    expect(page.locator(".corner.lower")).to_contain_text("W 1800 L 400")
    page.wait_for_function("() => document.querySelector('img.picture').src.includes('window=')")
    assert pictures.difference(picture, ORDERED[0], 400, 1800) < LEVELS_MAX


def test_keys_alone_lead_from_the_list_to_the_viewer_and_back(page: Page) -> None:
    expect(browsing.rows(page).nth(1)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("stack")
    expect(page).to_have_url(re.compile("PatientName=stack$"))
    expect(browsing.rows(page)).to_have_count(1)
    page.keyboard.press("ArrowDown")
    assert browsing.focused(page).startswith("grid")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("complementary")).to_contain_text("Stack, Stan")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Stack, Stan")).to_be_visible()
    expect(page.locator("a.card")).to_be_visible()
    browsing.tab_to(page, "a: Series 1")
    page.keyboard.press("Enter")
    expect(page.locator(".corner.lower")).to_contain_text("1 / 4")
    page.keyboard.press("End")
    expect(page.locator(".corner.lower")).to_contain_text("4 / 4")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Stack, Stan")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("PatientName=stack$"))
    expect(browsing.rows(page).first).to_have_attribute("aria-selected", "true")
    assert browsing.focused(page).startswith("grid")


def test_a_series_without_a_picture_shows_an_icon_and_no_broken_one(open_page: OpenPage, watch: Watch) -> None:
    watch.allow("status of 406")
    page = open_page(f"#/study/{samples.ROOT}.3")
    expect(page.locator("a.card")).to_contain_text("Series 1")
    page.wait_for_function("() => document.querySelector('a.card img').naturalWidth > 0")
    page.route("**/thumbnail", lambda route: route.fulfill(status=406))
    page.reload()
    expect(page.locator("a.card")).to_contain_text("Series 1")
    expect(page.locator("a.card img")).to_be_hidden()


def test_what_has_no_pictures_of_its_frames_is_played_or_it_is_said_that_it_cannot_be(page: Page, watch: Watch) -> None:
    watch.allow("status of 406|ERR_")
    page.route(re.compile(r"/frames/\d+/rendered"), lambda route: route.fulfill(status=406))
    asked: list[Route] = []
    page.route(re.compile(r"/rendered\?accept=video/mp4"), lambda route: asked.append(route))
    page.goto(f"/#/view/{MOVIE.StudyInstanceUID}/{MOVIE.SeriesInstanceUID}")
    expect(page.locator("video")).to_be_visible()
    browsing.wait_until(page, lambda: asked, "the video is asked for")
    asked[0].fulfill(status=406)
    expect(page.get_by_role("alert")).to_have_text("This image cannot be shown.")
    expect(page.locator("video")).to_have_count(0)
