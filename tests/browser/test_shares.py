"""Shares for people outside, and emergency access, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests import samples
from tests.browser import browsing
from tests.browser.accounts import GUARD, PHONE, THREE_STUDIES, add_users, log_in, once
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.system.server import Server

pytestmark = pytest.mark.rotating(3, turn=2)

CONFIG, DATA_SETS = GUARD, THREE_STUDIES


@pytest.fixture(scope="module", autouse=True)
def users(serve: Server) -> None:
    add_users(serve.data, root="full", ray="radiologist", gary="guard")


@pytest.fixture(autouse=True)
def watched(watch: Watch) -> Iterator[None]:
    watch.allow(r"status of 401")  # the browser reports each request without a session
    yield


def share(page: Page, fill: Callable[[Locator], None]) -> str:
    """Shares the first study; the link."""
    page.goto(f"/#/study/{samples.ROOT}.1")
    page.get_by_role("button", name="Share…").click()
    fill(page.get_by_role("dialog"))
    assert browsing.accessibility_problems(page) == []
    page.get_by_role("button", name="Make the link").click()
    return "s/" + once(page).rpartition("/")[2]


def test_a_share_shows_one_study_to_somebody_outside_until_it_is_revoked(
    page: Page, open_page: OpenPage, watch: Watch
) -> None:
    log_in(page, "ray")
    link = share(page, lambda dialog: dialog.get_by_label("Password (optional").fill("seesaw over there"))
    outside = open_page(link, viewport=PHONE, color_scheme="light")
    field = outside.get_by_label("Password", exact=True)
    expect(field).to_be_focused()
    assert browsing.accessibility_problems(outside) == []
    field.fill("wrong one here")
    outside.keyboard.press("Enter")
    expect(outside.get_by_role("alert")).to_have_text("This is not the password.")
    field.fill("seesaw over there")
    outside.keyboard.press("Enter")
    expect(outside.get_by_role("heading", name="Shared with you", level=1)).to_be_visible()
    expect(outside.get_by_role("article")).to_have_count(1)
    expect(outside.get_by_role("article")).to_contain_text("Doe, Jane")
    expect(outside.get_by_role("link", name="Download")).to_have_count(0)
    expect(outside.get_by_role("navigation")).to_have_count(0)
    assert outside.evaluate("document.documentElement.scrollWidth") <= 390
    assert browsing.accessibility_problems(outside) == []
    outside.goto(f"/#/study/{samples.ROOT}.2")  # whatever is tried, nothing else is there
    expect(outside.get_by_role("article")).to_contain_text("Doe, Jane")
    outside.goto(f"/#/view/{samples.ROOT}.1")
    expect(outside.locator("img.picture")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    page.goto("/#/account")
    row = page.get_by_role("table", name="Shares").get_by_role("row", name=re.compile("open"))
    row.get_by_role("button", name="Revoke").click()
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("table", name="Shares")).to_contain_text("revoked")
    outside.reload()
    expect(outside.get_by_role("button", name="Log in", exact=True)).to_be_visible()
    watch.allow(r"status of 404")
    late = open_page(link)
    expect(late.get_by_text("This link does not work, or does not work any more.")).to_be_visible()


def test_a_share_without_a_password_opens_at_once_and_may_allow_a_download(page: Page, open_page: OpenPage) -> None:
    log_in(page, "ray")
    link = share(page, lambda dialog: dialog.get_by_label("The files may be downloaded").check())
    outside = open_page(link)
    expect(outside.get_by_role("link", name="Download")).to_be_visible()
    inside = page.context.new_page()
    inside.goto(f"/{link}")
    expect(inside.get_by_text("You are logged in as ray")).to_be_visible()


def test_emergency_access_needs_a_reason_is_announced_and_waits_for_review(page: Page, open_page: OpenPage) -> None:
    log_in(page, "gary")
    expect(browsing.rows(page)).to_have_count(1)
    page.get_by_role("button", name="Emergency…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Value").fill("P3")
    dialog.get_by_label("Reason").fill("short")
    dialog.get_by_role("button", name="Open now").click()
    expect(dialog).to_be_visible()
    assert browsing.accessibility_problems(page) == []
    dialog.get_by_label("Reason").fill("Unconscious in the emergency room")
    dialog.get_by_role("button", name="Open now").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Poe, Paul")
    banner = page.locator(".banner")
    expect(banner).to_contain_text("Emergency access is open:")
    assert browsing.accessibility_problems(page) == []
    banner.get_by_role("button", name="End it now").click()
    expect(banner).to_have_count(0)
    page.goto("/#/studies")
    expect(browsing.rows(page)).to_have_count(1)
    review = open_page("#/administration/grants")
    log_in(review, "root")
    row = review.get_by_role("table", name="Grants").get_by_role("row", name="gary")
    expect(row).to_contain_text("Unconscious in the emergency room")
    row.get_by_role("button", name="I have reviewed it").click()
    expect(row).to_contain_text("root")
    assert browsing.accessibility_problems(review) == []


def test_the_audit_log_says_who_came_in_and_that_it_is_whole(open_page: OpenPage) -> None:
    page = open_page("#/administration/audit")
    log_in(page, "root")
    page.get_by_role("search").get_by_role("combobox").select_option("login")
    page.get_by_label("User or address").fill("root")
    row = page.get_by_role("table", name="Audit").locator("tbody tr").first
    expect(row).to_contain_text("log-in")
    expect(row).to_contain_text("root")
    page.get_by_role("button", name="Verify the log").click()
    expect(page.locator(".verdict.good")).to_contain_text("The log is whole")
    assert browsing.accessibility_problems(page) == []
    page.get_by_label("User or address").fill("nobody at all")
    expect(page.get_by_text("No such event.")).to_be_visible()


def test_chosen_series_and_a_patient_can_be_shared(page: Page, open_page: OpenPage) -> None:
    log_in(page, "ray")
    page.goto(f"/#/study/{samples.ROOT}.1")
    page.get_by_role("checkbox", name="Choose series").first.check()
    page.get_by_role("button", name="Share…").click()
    page.get_by_role("button", name="Make the link").click()
    outside = open_page("s/" + once(page).rpartition("/")[2])
    expect(outside.get_by_role("article")).to_have_count(1)
    expect(outside.get_by_role("listitem")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Choose none").click()
    page.get_by_role("link", name="All studies of this patient").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Doe, Jane")
    page.get_by_role("button", name="Share…").click()
    expect(page.get_by_role("dialog")).to_contain_text("Patient ID")
    page.get_by_role("button", name="Make the link").click()
    outside = open_page("s/" + once(page).rpartition("/")[2])
    expect(outside.get_by_role("article").first).to_be_visible()
