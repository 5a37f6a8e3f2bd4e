"""The list of studies in a browser."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests import samples
from tests.browser import browsing
from tests.system.server import Server

DATA_SETS = [
    samples.instance(number, patient_id=f"P{number}", patient_name=f"{family}^Jane", study_date=f"202601{number:02d}")
    for number, family in enumerate(("Alpha", "Beta", "Gamma"), 1)
]


def test_typing_in_a_filter_finds_a_study_and_the_address_keeps_it(page: Page) -> None:
    expect(page.get_by_role("row", name="Alpha, Jane")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("bet")
    expect(browsing.rows(page)).to_have_count(1)
    expect(browsing.rows(page)).to_contain_text("Beta, Jane")
    expect(page).to_have_url(re.compile("[?]PatientName=bet$"))
    page.reload()
    expect(browsing.rows(page)).to_have_count(1)


def test_a_study_that_a_modality_sends_appears_by_itself(page: Page, serve: Server) -> None:
    expect(page.get_by_role("row", name="Alpha, Jane")).to_be_visible()
    browsing.send(serve.port, samples.instance(4, patient_id="P4", patient_name="Delta^Dan"))
    expect(browsing.rows(page).first).to_contain_text("Delta, Dan")
    expect(page.get_by_role("row", name="Alpha, Jane")).to_be_visible()
