"""Accounts for tests of the page: users in the database of a running server, and the log-in of a page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from playwright.sync_api import Page, expect

from engine.accounts import passwords, users
from engine.accounts.database import FOLDER, Database
from engine.accounts.records import User
from tests import samples

THREE_STUDIES = [
    samples.instance(1, 1, 1, patient_id="P1", patient_name="Doe^Jane"),
    samples.instance(2, 1, 1, patient_id="P2", patient_name="Roe^Rita", ReferringPhysicianName="Refer^Ralph"),
    samples.instance(3, 1, 1, patient_id="P3", patient_name="Poe^Paul"),
]
GUARD = """
[[role]]
name = "guard"
may = ["query", "retrieve", "break-glass"]
studies = [{ referrer = "Refer^Ralph" }]
"""
"""A configuration with a role that sees the second study only."""
PHONE = {"width": 390, "height": 800}
PASSWORD = "correct horse battery"


@cache
def password_hash() -> str:
    """That of PASSWORD; it takes a while, on purpose."""
    return passwords.hash_of(PASSWORD)


def add_users(data: Path, **roles: str) -> None:
    """Adds users with PASSWORD to the archive in `data`: `add_users(data, ray="radiologist")`."""
    database = Database(data / FOLDER)
    try:
        for name, role in roles.items():
            users.add(
                database, User(name=name, full_name=f"{name.title()} Test", roles=(role,), password=password_hash())
            )
    finally:
        database.close()


def log_in(page: Page, user: str, password: str = PASSWORD) -> None:
    """Fills the form that covers the page, and waits until it is gone."""
    send_login(page, user, password)
    expect(page.locator("dialog.cover")).to_have_count(0)


def send_login(page: Page, user: str, password: str = PASSWORD) -> None:
    """Fills the form that covers the page, and sends it."""
    page.get_by_label("User", exact=True).fill(user)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Log in", exact=True).click()


def once(page: Page) -> str:
    """The secret or link that is shown once, now."""
    code = page.locator(".once code")
    expect(code).to_be_visible()
    return str(code.text_content())
