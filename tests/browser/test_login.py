"""Log-in in a browser: who sees what, the end of a session, the lock, and one's own account."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from engine.web import page_files
from tests import effort, samples
from tests.browser import browsing
from tests.browser.accounts import add_users, log_in, send_login
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.system.server import Server

pytestmark = pytest.mark.rotating(3, turn=1)

DATA_SETS = [samples.instance(number, 1, 1, patient_name=f"Doe^{number}") for number in (1, 2, 3)]
STUDY = f"{samples.ROOT}.1"
UNAUTHORIZED = r"status of 401"
"""What the browser says of each request without a session."""


@pytest.fixture(scope="module", autouse=True)
def users(serve: Server) -> None:
    add_users(serve.data, root="full", ray="radiologist", anna="admin", audrey="auditor", gone="radiologist")


@pytest.fixture(autouse=True)
def watched(watch: Watch) -> Iterator[None]:
    watch.allow(UNAUTHORIZED)
    yield


def test_nothing_of_the_archive_is_shown_before_somebody_has_logged_in(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "api/studies" in request.url else None)
    page.reload()
    expect(page.get_by_role("button", name="Log in", exact=True)).to_be_visible()
    expect(page.get_by_label("User", exact=True)).to_be_focused()
    expect(page.locator(".grid")).to_have_count(0)
    expect(page.get_by_role("navigation")).to_have_count(0)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Log in", exact=True)).to_be_visible()
    assert browsing.accessibility_problems(page) == []
    assert not asked


def test_a_wrong_password_is_refused_in_words_and_the_right_one_goes_where_the_address_says(
    open_page: OpenPage,
) -> None:
    page = open_page("#/studies?PatientName=*2")
    send_login(page, "root", "wrong")
    expect(page.get_by_role("alert")).to_contain_text("This is not right")
    expect(page.get_by_label("Password", exact=True)).to_have_value("")
    page.get_by_label("Password", exact=True).fill("correct horse battery")
    page.keyboard.press("Enter")
    expect(browsing.rows(page)).to_have_count(1)
    expect(browsing.rows(page)).to_contain_text("Doe, 2")
    expect(page.get_by_role("link", name="Account of root")).to_be_visible()


def test_a_session_that_ends_is_covered_and_goes_on_where_it_was(page: Page) -> None:
    log_in(page, "root")
    expect(browsing.rows(page)).to_have_count(3)
    held: list[Route] = []
    page.route("**/api/studies?*PatientName*", lambda route: held.append(route))
    page.get_by_label("Filter: Patient", exact=True).fill("*3")
    browsing.wait_until(page, lambda: held, "the list is asked for")
    page.context.clear_cookies()
    for route in held:
        route.continue_()
    page.unroute("**/api/studies?*PatientName*")
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    expect(page.get_by_label("User", exact=True)).to_have_value("root")
    page.get_by_label("Password", exact=True).fill("correct horse battery")
    page.keyboard.press("Enter")
    expect(page.locator("dialog.cover")).to_have_count(0)
    expect(page.get_by_label("Filter: Patient", exact=True)).to_have_value("*3")
    expect(browsing.rows(page)).to_have_count(1)


def test_a_refusal_that_arrives_after_the_log_in_does_not_cover_the_page_again(page: Page) -> None:
    log_in(page, "root")
    expect(browsing.rows(page)).to_have_count(3)
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    # Not times=1: while requests cease to be intercepted, Playwright hears nothing of a new one.
    page.route("**/api/viewer", hold_first)
    server = f"/page/files/{page_files.version()}/server.js"  # the page's own, not another one with the same text
    page.evaluate("server => void import(server).then(({ get }) => get('api/viewer'))", server)
    browsing.wait_until(page, lambda: held, "the server is asked")
    page.context.clear_cookies()
    page.get_by_label("Filter: Patient", exact=True).fill("*3")
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    log_in(page, "root")
    with page.expect_response(lambda response: response.url.endswith("/api/viewer") and response.ok):
        held[0].fulfill(status=401, json={"status": 401})  # it is made again
    expect(page.locator("dialog.cover")).to_have_count(0)


def test_somebody_else_does_not_get_what_was_on_the_page(open_page: OpenPage) -> None:
    page = open_page(f"#/study/{STUDY}")
    log_in(page, "root")
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("dialog", name="Delete…")).to_be_visible()
    page.context.clear_cookies()
    page.evaluate("location.hash = '#/queues'")
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    send_login(page, "ray")
    expect(page.get_by_role("link", name="Account of ray")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("None of your roles allows this.")).to_be_visible()
    expect(page.get_by_role("link", name="Administration")).to_have_count(0)


def test_what_a_role_may_not_do_is_not_offered(open_page: OpenPage) -> None:
    page = open_page(f"#/study/{STUDY}")
    log_in(page, "ray")
    expect(page.get_by_role("link", name="View", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Send…")).to_be_visible()
    for name in ("Hold…", "Correct…", "Delete…"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("navigation", name="Main")).to_have_text("StudiesWorklist")
    page.keyboard.press("h")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_an_administrator_sees_lists_but_no_images(open_page: OpenPage) -> None:
    page = open_page(f"#/study/{STUDY}")
    log_in(page, "anna")
    expect(page.get_by_role("button", name="Delete…")).to_be_visible()
    expect(page.get_by_text("Images: 1").or_(page.get_by_text("images: 1")).first).to_be_visible()
    expect(page.locator("img")).to_have_count(0)
    expect(page.get_by_role("link", name="Download")).to_have_count(0)


def test_an_auditor_begins_where_something_can_be_seen(page: Page) -> None:
    log_in(page, "audrey")
    expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Studies")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")


def test_nobody_there_covers_the_page_and_asks_for_nothing_until_somebody_comes(
    open_page: OpenPage, watch: Watch
) -> None:
    watch.allow(r"favicon\.ico")  # of the picture from which the page is opened with a clock of ours
    page = open_page("page/icon.svg")
    page.clock.install()
    page.goto("/")
    log_in(page, "root")
    expect(browsing.rows(page)).to_have_count(3)
    asked: list[str] = []
    page.clock.fast_forward("16:00")
    page.clock.run_for(6_000)
    expect(page.get_by_text("Are you still there?")).to_be_visible()
    assert browsing.accessibility_problems(page) == []
    page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
    page.clock.fast_forward("30:00")
    assert asked == []
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("dialog.cover")).to_have_count(0)
    expect(browsing.rows(page)).to_have_count(3)


def test_logging_out_leaves_nothing_behind(page: Page) -> None:
    log_in(page, "root")
    expect(browsing.rows(page)).to_have_count(3)
    page.get_by_role("link", name="Account of root").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("User", exact=True)).to_have_value("")
    assert page.context.cookies() == []
    page.go_back()
    expect(page.get_by_role("button", name="Log in", exact=True)).to_be_visible()
    expect(page.locator(".grid")).to_have_count(0)


@pytest.mark.parametrize("scheme", effort.one_of("dark", "light"))
def test_the_log_in_is_in_german_too_and_fits_a_phone(open_page: OpenPage, scheme: str) -> None:
    page = open_page(locale="de-DE", color_scheme=scheme, viewport={"width": 390, "height": 800})
    expect(page.get_by_role("button", name="Anmelden", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("dialog.cover").bounding_box()
    assert box is not None and (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 390, 800)
    assert browsing.accessibility_problems(page) == []
