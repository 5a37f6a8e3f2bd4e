"""The list of studies in a browser: filters, live arrival, rows that stay where they are while others come and go."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests import samples
from tests.browser import browsing
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.system.server import Server, wait_for

pytestmark = pytest.mark.rotating(3, turn=2)

STUDIES = 230
"""More than two windows of the list."""
DATA_SETS = [
    samples.instance(number, patient_id=f"P{number}", patient_name=f"Family{number:03d}^Jane", pixels=b"")
    for number in range(1, STUDIES + 1)
]
BY_NAME = "#/studies?order=PatientName"

RECORD_PLACEHOLDERS = """() => {
    window.placeholders = 0;
    new MutationObserver(() => {
        const texts = [...document.querySelectorAll(".grid-body [role=row]")].map((row) => row.textContent.trim());
        if (!texts.length || texts.includes("…")) window.placeholders += 1;
    }).observe(document.querySelector(".grid-body"), { childList: true, subtree: true, characterData: true });
}"""

RECORD_REQUESTS = """() => {
    window.askedAt = [];
    const { fetch } = window;
    window.fetch = (url, ...more) => {
        if (String(url).includes("api/studies?")) window.askedAt.push(performance.now());
        return fetch(url, ...more);
    };
}"""


@pytest.fixture(autouse=True)
def without_pictures(watch: Watch) -> None:
    """The instances here have no pixels: the panel of a selected study asks for thumbnails in vain."""
    watch.allow("status of 406")


def send(serve: Server, number: int, name: str) -> None:
    """A modality sends a study of one instance."""
    browsing.send(serve.port, samples.instance(number, patient_id=f"P{number}", patient_name=name, pixels=b""))


def names_of(serve: Server) -> list[str]:
    """All patients by name, as the list shows them."""
    names: list[str] = []
    for position in (0, 200):
        answer = requests.get(f"{serve.url}/api/studies?order=PatientName&limit=200&position={position}", timeout=60)
        names += [row["00100010"]["Value"][0]["Alphabetic"].replace("^", ", ") for row in answer.json()["studies"]]
    return names


def scroll_to(page: Page, row: int) -> None:
    """Puts a row at the upper edge of the list."""
    page.locator(".grid-body").evaluate("(element, row) => { element.scrollTop = row * 34; }", row)


def top_of(page: Page, name: str) -> float:
    """Pixels from the upper edge of the window to the row of a patient."""
    box = page.get_by_role("row", name=name).bounding_box()
    assert box is not None
    return box["y"]


def test_typing_in_a_filter_finds_a_study_and_the_address_keeps_it(page: Page) -> None:
    expect(browsing.rows(page).nth(2)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("family017")
    expect(browsing.rows(page)).to_have_count(1)
    expect(browsing.rows(page)).to_contain_text("Family017, Jane")
    expect(page).to_have_url(re.compile("[?]PatientName=family017$"))
    page.reload()
    expect(browsing.rows(page)).to_have_count(1)


def test_a_study_that_a_modality_sends_appears_and_no_row_flickers(page: Page, serve: Server) -> None:
    expect(browsing.rows(page).nth(2)).to_be_visible()
    page.evaluate(RECORD_PLACEHOLDERS)
    send(serve, 1001, "Delta^Dan")
    expect(browsing.rows(page).first).to_contain_text("Delta, Dan")
    assert page.evaluate("window.placeholders") == 0


def test_a_study_that_arrives_before_the_change_feed_is_followed_is_shown(page: Page, serve: Server) -> None:
    page.add_init_script("delete window.SharedWorker")  # its requests cannot be held
    held: list[Route] = []
    page.route("**/changes?*", lambda route: held.append(route))
    page.reload()
    expect(browsing.rows(page).nth(2)).to_be_visible()
    send(serve, 1005, "Early^Emil")
    wait_for(lambda: f"{samples.ROOT}.1005" in requests.get(f"{serve.url}/changes?limit=1000", timeout=60).text)
    browsing.wait_until(page, lambda: held, "the list follows the change feed")
    held[0].continue_()
    page.unroute("**/changes?*")
    expect(browsing.rows(page).first).to_contain_text("Early, Emil")


def test_the_selected_row_stays_selected_when_one_types_on(page: Page) -> None:
    page.get_by_label("Filter: Patient", exact=True).fill("family01")
    expect(browsing.rows(page).filter(has_text="Family01")).to_have_count(10)
    page.get_by_role("row", name="Family017, Jane").click()
    page.get_by_label("Filter: Patient", exact=True).fill("family017")
    expect(browsing.rows(page)).to_have_count(1)
    expect(browsing.rows(page)).to_have_attribute("aria-selected", "true")
    page.locator(".grid").press("Enter")
    expect(page.get_by_role("heading", name="Family017, Jane")).to_be_visible()
    page.keyboard.press("Escape")
    expect(browsing.rows(page)).to_have_attribute("aria-selected", "true")


def test_a_row_has_its_place_while_the_list_is_fetched_again(page: Page) -> None:
    places = page.evaluate(
        """async () => {
            const { Windows } = await import("/page/windows.js");
            let asked = 0;
            const rows = [{ uid: "a" }, { uid: "b" }];
            const ask = async () => (asked++ ? new Promise(() => {}) : { rows, next: null });
            const count = async () => ({ studies: 2, instances: 2, bytes: 0, is_exact: true });
            const windows = new Windows(ask, count, (row) => row.uid, () => {}, false);
            await windows.refresh();
            windows.refresh();
            return [windows.positionOf("b"), windows.positionOf("c") ?? null, asked];
        }"""
    )
    assert places == [1, None, 2]


def test_rows_stay_in_place_and_the_cursor_on_its_row_while_others_arrive_above(
    open_page: OpenPage, serve: Server
) -> None:
    page = open_page(BY_NAME)
    expect(browsing.rows(page).first).to_be_visible()
    status = page.locator(".bar").get_by_role("status")
    expect(status).to_contain_text("images")
    counted = status.inner_text()
    scroll_to(page, 150)
    page.get_by_role("row", name="Family155, Jane").click()
    before = top_of(page, "Family155, Jane")
    send(serve, 1002, "Aaron^Ann")
    expect(status).not_to_have_text(counted)
    expect(page.get_by_role("row", name="Family155, Jane")).to_have_attribute("aria-selected", "true")
    page.wait_for_function("() => document.querySelector('.row.cursor')?.textContent.includes('Family155')")
    assert top_of(page, "Family155, Jane") == pytest.approx(before, abs=1)
    page.locator(".grid").press("ArrowDown")
    expect(page.get_by_role("row", name="Family156, Jane")).to_have_attribute("aria-selected", "true")


def test_rows_that_were_scrolled_past_are_fetched_again_after_a_change(open_page: OpenPage, serve: Server) -> None:
    page = open_page(BY_NAME)
    for row, name in ((0, "Family003, Jane"), (200, "Family203, Jane"), (100, "Family105, Jane")):
        scroll_to(page, row)
        expect(page.get_by_role("row", name=name)).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("images")
    before = page.get_by_role("status").inner_text()
    send(serve, 1003, "Abel^Abe")
    expect(page.get_by_role("status")).not_to_have_text(before)
    names = names_of(serve)
    assert "Abel, Abe" in names[:4]
    for row in (0, 200, 100):
        scroll_to(page, row)
        page.wait_for_function(
            """([row, names]) => {
                const rows = [...document.querySelectorAll(".grid-body [role=row]")];
                const places = rows.map((one) => Number(one.getAttribute("aria-rowindex")) - 3);
                return places.includes(row + 5) &&
                    rows.every((one, at) => one.children[1].textContent === names[places[at]]);
            }""",
            arg=[row, names],
        )


def test_a_server_that_fails_leaves_the_rows_and_the_list_recovers(page: Page, serve: Server, watch: Watch) -> None:
    watch.allow("503")
    expect(browsing.rows(page).nth(2)).to_be_visible()
    page.route("**/api/studies?*", lambda route: route.fulfill(status=503, body="the server is busy"))
    page.evaluate(RECORD_PLACEHOLDERS)
    page.evaluate(RECORD_REQUESTS)
    send(serve, 1004, "Echo^Eve")
    expect(page.get_by_role("alert")).to_contain_text("503: the server is busy")
    assert page.evaluate("window.placeholders") == 0
    asked_ms = page.evaluate("window.askedAt")
    pauses_ms = [later - earlier for earlier, later in pairwise(asked_ms)]
    # A second request may come of a second change.
    assert sum(pause_ms < 3_900 for pause_ms in pauses_ms) <= 1, f"a failed request is repeated at once: {asked_ms}"
    page.unroute("**/api/studies?*")
    expect(browsing.rows(page).first).to_contain_text("Echo, Eve")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_end_key_means_the_last_row_although_the_rows_are_not_counted_yet(open_page: OpenPage) -> None:
    page = open_page("#/health")
    held: list[Route] = []
    page.route("**/api/studies/totals?*", lambda route: held.append(route))
    page.goto(f"/{BY_NAME}")
    expect(browsing.rows(page).first).to_be_visible()
    browsing.wait_until(page, lambda: held, "the rows are counted")
    page.locator(".grid").press("End")
    expect(page.locator(".row.selected")).to_be_visible()  # the last one that is known
    for route in held:
        route.continue_()
    page.unroute("**/api/studies/totals?*")  # lets later ones go on
    expect(page.get_by_role("row", name="Family230, Jane")).to_have_attribute("aria-selected", "true")


def test_the_end_key_selects_the_last_row_once_it_is_there(open_page: OpenPage) -> None:
    page = open_page(BY_NAME)
    expect(page.get_by_role("row", name="Family003, Jane")).to_be_visible()
    page.locator(".grid").press("End")
    expect(page.get_by_role("row", name="Family230, Jane")).to_have_attribute("aria-selected", "true")
    page.locator(".grid").press("Home")
    expect(browsing.rows(page).first).to_have_attribute("aria-selected", "true")
