"""The documentation in a browser: reached from the page, read and searched by keyboard, accessible, on a phone too."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests import effort
from tests.browser import browsing
from tests.browser.conftest import OpenPage

PLACES = ("docs/", "docs/install", "docs/dicomweb", "docs/?q=tls")


def test_the_help_of_the_page_leads_to_the_documentation(page: Page) -> None:
    page.keyboard.press("?")
    with page.expect_popup() as popup:
        page.get_by_role("dialog").get_by_role("link", name="Documentation").click()
    expect(popup.value.get_by_role("heading", level=1)).to_have_text("Filmroom")
    popup.value.get_by_role("link", name="Filmroom", exact=True).click()
    expect(popup.value).to_have_url(re.compile(r"/$"))


def test_a_search_by_keyboard_leads_to_the_section(open_page: OpenPage) -> None:
    page = open_page("docs/")
    browsing.tab_to(page, "Search the documentation")
    page.keyboard.type("trusted_proxies")
    page.keyboard.press("Enter")
    expect(page.locator("mark").first).to_have_text("trusted_proxies")
    browsing.tab_to(page, "Operation: HTTP")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/docs/operation#http$"))
    heading = page.get_by_role("heading", name="HTTP", exact=True)
    expect(heading).to_be_in_viewport()


@pytest.mark.parametrize("color_scheme", effort.one_of("dark", "light"))
def test_axe_finds_nothing(open_page: OpenPage, color_scheme: str) -> None:
    page = open_page(color_scheme=color_scheme)
    for place in browsing.some(PLACES):
        page.goto(f"/{place}")
        expect(page.locator("html")).to_have_attribute("data-theme", color_scheme)
        assert browsing.accessibility_problems(page) == [], place


def test_no_page_is_wider_than_a_phone(open_page: OpenPage) -> None:
    page = open_page("docs/", viewport={"width": 390, "height": 844})
    for place in PLACES:
        page.goto(f"/{place}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
    page.get_by_role("link", name="Contents").click()
    expect(page.get_by_role("navigation", name="Documentation")).to_be_in_viewport()


def test_it_is_whole_without_scripts(open_page: OpenPage) -> None:
    page = open_page("docs/operation", java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("Operation")
    page.get_by_role("searchbox").fill("reload")
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Search")
