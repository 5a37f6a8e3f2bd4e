"""Uploads in a browser: files, zip archives, refusals with their reasons, pause, a server that is away."""

from __future__ import annotations

import io
import re
import zipfile

import pytest
import requests
from playwright.sync_api import Page, Route, expect

from tests import samples
from tests.browser import browsing
from tests.system.server import Server


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def file(number: int, study: int = 1) -> bytes:
    return samples.part10(samples.instance(study, 1, number, patient_name="Upload^Una"))


def test_an_empty_archive_says_what_to_do(page: Page) -> None:
    expect(page.get_by_text("There are no images yet")).to_be_visible()
    expect(page.get_by_role("button", name="Emergency…")).to_have_count(0)  # nobody has to log in here
    page.locator("main").get_by_role("link", name="Upload").click()
    expect(page).to_have_url(re.compile("#/upload$"))


def test_each_refused_file_has_its_reason_and_the_others_are_stored(page: Page) -> None:
    files = {"a.dcm": file(1), "b.dcm": file(2), "notes.txt": b"no image", "DICOMDIR": b"\0" * 200}
    browsing.drop(page, files)
    status = page.locator("section [role=status]")
    expect(status).to_contain_text("4 of 4: 2 stored, 0 with a warning, 1 refused, 1 skipped")
    expect(page.get_by_role("table", name="refused")).to_contain_text("notes.txt")
    expect(page.get_by_role("table", name="refused")).to_contain_text("is no DICOM file")
    assert browsing.accessibility_problems(page) == []
    page.get_by_role("link", name="Show what has arrived").click()
    expect(browsing.rows(page)).to_contain_text("Upload, Una")


def test_the_members_of_zip_archives_are_stored(page: Page, serve: Server) -> None:
    stored = zipped({"x.dcm": file(1, 2)}, zipfile.ZIP_STORED)
    damaged = bytearray(zipped({"y.dcm": file(2, 2)}, zipfile.ZIP_STORED))
    damaged[len(damaged) // 2] ^= 1
    members = {"ct/1.dcm": file(3, 2), "ct/2.dcm": file(4, 2), "__MACOSX/._1.dcm": b"?", "inner.zip": stored}
    browsing.drop(
        page, {"study.zip": zipped(members), "damaged.zip": bytes(damaged), "half.zip": stored[: len(stored) // 2]}
    )
    expect(page.locator("section [role=status]")).to_contain_text("3 stored, 0 with a warning, 2 refused")
    refused = page.get_by_role("table", name="refused")
    expect(refused).to_contain_text("damaged.zip/y.dcm")
    expect(refused.get_by_role("row", name="half.zip")).to_contain_text("the zip archive is damaged")
    page.goto(f"{serve.url}/#/study/{samples.ROOT}.2")
    expect(page.locator(".facts")).to_contain_text("images: 3")


def test_an_archive_with_lengths_of_64_bits_is_read(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    large = zipped({"1.dcm": file(1, 6), "2.dcm": file(2, 6)})
    assert b"PK\x06\x06" in large
    encrypted = bytearray(zipped({"x.dcm": file(3, 6)}))
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    browsing.drop(page, {"large.zip": large, "encrypted.zip": bytes(encrypted)})
    expect(page.locator("section [role=status]")).to_contain_text("5 of 5: 2 stored, 0 with a warning, 1 refused, 2")
    expect(page.get_by_role("row", name="encrypted.zip/x.dcm")).to_contain_text("is encrypted")


def test_what_was_downloaded_can_be_uploaded_again(page: Page, serve: Server) -> None:
    browsing.store(serve.url, samples.instance(9, 1, 1), samples.instance(9, 1, 2))
    path = f"{serve.url}/dicom-web/studies/{samples.ROOT}.9"
    own = requests.get(f"{path}?accept=application/zip", timeout=60).content
    requests.delete(path, timeout=60)
    browsing.drop(page, {"study.exe": b"PK\3\4 a program that unpacks itself" + own})
    # Two instances; the DICOMDIR and the archive itself are passed over.
    expect(page.locator("section [role=status]")).to_contain_text("4 of 4: 2 stored, 0 with a warning, 0 refused, 2")


def test_a_paused_upload_goes_on_and_nothing_is_lost(page: Page) -> None:
    held: list[Route] = []
    page.route("**/dicom-web/studies", lambda route: held.append(route))
    browsing.drop(page, {f"{number}.dcm": file(number, 3) for number in range(1, 8)})
    browsing.wait_until(page, lambda: held, "uploads are under way")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused.")).to_be_visible()
    page.unroute("**/dicom-web/studies")
    expect(page.locator("section [role=status]")).to_contain_text("0 of 7")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("section [role=status]")).to_contain_text("7 of 7: 7 stored")


def test_a_server_that_is_away_is_waited_for(page: Page, watch: browsing.Watch) -> None:
    watch.allow("ERR_|Failed to load")
    page.route("**/dicom-web/studies", lambda route: route.abort("connectionrefused"))
    browsing.drop(page, {"a.dcm": file(1, 4)})
    expect(page.get_by_text("The server does not answer")).to_be_visible()
    page.unroute("**/dicom-web/studies")
    expect(page.locator("section [role=status]")).to_contain_text("1 of 1: 1 stored")


def test_what_happens_before_the_view_listens_is_shown(page: Page) -> None:
    # Effects run after the first drawing: what is stored in between must not be missed.
    page.evaluate(
        """async () => {
            const [{ html, render }, { Upload }, { uploads }] =
                await Promise.all(["preact", "upload", "uploads"].map((name) => import(
                    name === "preact" ? "./page/preact.mjs" : `./page/${name}.js`)));
            const place = document.body.appendChild(document.createElement("div"));
            place.id = "second";
            uploads.counts.waiting = 1;
            render(html`<${Upload} />`, place);
            Object.assign(uploads.counts, { waiting: 0, stored: 1 });
            uploads.tell();
        }"""
    )
    expect(page.locator("#second [role=status]")).to_contain_text("1 of 1: 1 stored")
