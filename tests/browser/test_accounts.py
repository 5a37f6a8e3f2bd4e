"""Accounts in a browser: the first link, users, second factors, keys, shares, emergency access."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyotp
import pytest
import requests
from playwright.sync_api import Page, expect

from engine.accounts import links
from engine.accounts.database import FOLDER, Database
from tests import effort
from tests.browser import browsing
from tests.browser.accounts import GUARD, PASSWORD, PHONE, THREE_STUDIES, add_users, log_in, once, send_login
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.system.server import Server

pytestmark = pytest.mark.rotating(3, turn=2)

CONFIG, DATA_SETS = GUARD, THREE_STUDIES


@pytest.fixture(scope="module", autouse=True)
def users(serve: Server) -> None:
    add_users(serve.data, root="full", ray="radiologist", gary="guard", vera="radiologist")


@pytest.fixture(autouse=True)
def watched(watch: Watch) -> Iterator[None]:
    watch.allow(r"status of 401")  # the browser reports each request without a session
    yield


def choose_password(page: Page, password: str) -> None:
    page.get_by_label("New password", exact=True).fill(password)
    page.get_by_label("The same again", exact=True).fill(password)


def test_the_first_link_makes_an_account_and_works_once(open_page: OpenPage, serve: Server, watch: Watch) -> None:
    database = Database(serve.data / FOLDER)
    token = links.make(database, roles=("admin", "full"))
    database.close()
    page = open_page(f"#/welcome/{token}")
    page.get_by_label("User", exact=True).fill("anna")
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    page.get_by_label("The same again", exact=True).fill("something else")
    expect(page.get_by_role("alert")).to_have_text("The two are not the same.")
    expect(page.get_by_role("button", name="Begin")).to_be_disabled()
    assert browsing.accessibility_problems(page) == []
    page.get_by_label("The same again", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("anna")
    expect(page.get_by_text("Roles: administrator, everything")).to_be_visible()
    watch.allow(r"status of 404")
    again = open_page(f"#/welcome/{token}")
    expect(again.get_by_text("This link was used already, or has ended.")).to_be_visible()


def test_an_administrator_adds_a_user_who_comes_in_by_a_link_and_is_shut_out_at_once(
    page: Page, open_page: OpenPage
) -> None:
    log_in(page, "root")
    page.goto("/#/administration/users")
    page.get_by_role("button", name="Add a user…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User", exact=True).fill("nina")
    dialog.get_by_label("radiologist").check()
    assert browsing.accessibility_problems(page) == []
    dialog.get_by_role("button", name="Save").click()
    theirs = open_page(once(page).partition("/")[2].partition("/")[2].partition("/")[2])
    expect(theirs.get_by_label("User", exact=True)).to_have_value("nina")
    choose_password(theirs, "my own long secret")
    theirs.get_by_role("button", name="Begin").click()
    theirs.get_by_role("link", name="Studies").click()
    expect(browsing.rows(theirs)).to_have_count(3)
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    row = page.get_by_role("table", name="Users").get_by_role("row", name="nina")
    row.get_by_role("button", name="Disable").click()
    row.get_by_role("button", name="Disable").click()
    expect(row).to_contain_text("disabled")
    theirs.get_by_label("Filter: Patient", exact=True).fill("doe")
    expect(theirs.get_by_text("Your session has ended.")).to_be_visible()
    send_login(theirs, "nina", "my own long secret")
    expect(theirs.get_by_role("alert")).to_contain_text("This is not right")


def test_a_second_factor_is_set_up_from_a_picture_and_then_needed(page: Page, open_page: OpenPage) -> None:
    log_in(page, "vera")
    page.goto("/#/account")
    page.get_by_role("button", name="Set up an authenticator app").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("img", name="The secret as a QR code")).to_be_visible()
    totp = pyotp.TOTP(str(dialog.locator("p code").text_content()))
    assert browsing.accessibility_problems(page) == []
    dialog.get_by_label("Code", exact=True).fill(totp.now())
    dialog.get_by_label("Present password").fill(PASSWORD)
    dialog.get_by_role("button", name="Confirm").click()
    code = once(page).split()[0]
    other = open_page()
    send_login(other, "vera")
    expect(other.get_by_role("alert")).to_have_text("A code of your authenticator app is needed.")
    field = other.get_by_label("Code of your authenticator app")
    expect(field).to_be_focused()
    field.fill(code)
    other.keyboard.press("Enter")
    expect(browsing.rows(other)).to_have_count(3)


def test_a_passkey_of_the_device_opens_the_page_without_a_password(page: Page, watch: Watch) -> None:
    watch.allow(r"another host: http://localhost:")
    page.goto(page.url.replace("127.0.0.1", "localhost"))  # passkeys are for names, and browsers take this one for safe
    client = page.context.new_cdp_session(page)
    client.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    client.send(
        "WebAuthn.addVirtualAuthenticator",
        {"options": {**options, "isUserVerified": True, "automaticPresenceSimulation": True}},
    )
    log_in(page, "ray")
    page.goto(page.url.partition("#")[0] + "#/account")
    page.get_by_label("Name of the device").fill("Workstation 7")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("table", name="Passkeys")).to_contain_text("Workstation 7")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="Log in with a passkey").click()
    expect(page.get_by_role("link", name="Account of ray")).to_be_visible()


def test_an_api_key_is_shown_once_and_ends_when_it_is_revoked(page: Page, serve: Server) -> None:
    log_in(page, "ray")
    page.goto("/#/account")
    page.get_by_role("button", name="New API key…").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("Pipeline")
    page.get_by_role("button", name="Make the key").click()
    headers = {"Authorization": f"Bearer {once(page)}"}
    assert requests.get(f"{serve.url}/dicom-web/studies", headers=headers, timeout=60).status_code == 200
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    row = page.get_by_role("table", name="API keys").get_by_role("row", name="Pipeline")
    row.get_by_role("button", name="Revoke").click()
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("No API keys.")).to_be_visible()
    assert requests.get(f"{serve.url}/dicom-web/studies", headers=headers, timeout=60).status_code == 401


@pytest.mark.parametrize("scheme", effort.one_of("dark", "light"))
def test_these_views_fit_a_phone_and_are_accessible_and_german(open_page: OpenPage, scheme: str) -> None:
    page = open_page(locale="de-DE", color_scheme=scheme, viewport=PHONE)
    page.get_by_label("Benutzer", exact=True).fill("root")
    page.get_by_label("Passwort", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("dialog.cover")).to_have_count(0)
    titles = {"account": "Root Test root"} | dict.fromkeys(
        ("administration/users", "administration/shares", "administration/grants"), "Verwaltung"
    )
    some = browsing.some([*titles])
    for place, title in titles.items():
        page.goto(f"/#/{place}")
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page.locator("[role=status]", has_text="Lädt")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
        if place in some:
            assert browsing.accessibility_problems(page) == [], place


def test_a_qr_code_has_the_modules_that_readers_read(page: Page) -> None:
    """The sums are of codes that zbarimg has read: of one block and of two, with the information on the version."""
    sums = {
        "HELLO": "e349ee3a1b2fc263",
        "https://filmroom.example.org/s/abcdefghijklmnopqrstuvwxyz0123456789": "dffbfdf2697cd6d7",
        "y" * 150: "9bf4bb6de35bf168",
    }
    for text, digest in sums.items():
        rows = page.evaluate(
            "async (text) => (await import('/page/qr_code.js')).modulesOf(text).map((row) => row.join('')).join('')",
            text,
        )
        assert hashlib.sha256(rows.encode()).hexdigest()[:16] == digest, text
    assert page.evaluate("async () => (await import('/page/qr_code.js')).modulesOf('x'.repeat(1000))") is None
