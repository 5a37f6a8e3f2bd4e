"""web.viewer_files: OHIF's files as they are sent, its page at its addresses, and nothing where there is nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests

from engine.viewer import installer, package, recipe
from engine.web.settings import Http
from tests.viewer import packages
from tests.web.hosting import Hosting, hosted

NAME = f"{package.VERSION}-{package.RECIPE}-whole"
HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("viewer")
    with pytest.MonkeyPatch.context() as monkeypatch:
        source = packages.stand_in(monkeypatch, folder)
        installer.install(folder / "ohif", lambda what: None, source)
        yield folder / "ohif"


@pytest.fixture(scope="module")
def hosting(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    http = Http(viewer_directory=directory)
    with hosted(tmp_path_factory.mktemp("web") / "data", http=http) as hosting:
        yield hosting


def files_of(url: str) -> list[str]:
    """The absolute URLs of the scripts and style sheets of a page."""
    page = requests.get(url, headers=HTML, timeout=60)
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    return [urljoin(page.url, found) for found in re.findall(r'(?:href|src|data-files)="([^"]+)"', page.text)]


@pytest.mark.parametrize("path", ["/ohif", "/ohif/", "/ohif/viewer?StudyInstanceUIDs=1.2", "/ohif/viewer/",
                                  "/ohif/segmentation/filmroom", "/ohif/tmtv/filmroom/"])  # fmt: skip
def test_every_view_finds_the_files_of_the_viewer(hosting: Hosting, path: str) -> None:
    urls = files_of(hosting.url + path)
    assert f"{hosting.url}/ohif/app-config.js" in urls
    for url in urls:
        if not url.endswith("/"):
            assert requests.get(url, timeout=60).status_code == 200, url


def test_scripts_run_in_their_order_and_early_ones_at_any_time(hosting: Hosting) -> None:
    text = requests.get(f"{hosting.url}/ohif/viewer", timeout=60).text
    scripts = re.findall(r'<script (defer|async) src="[^"]*?([^"/]+)"', text)
    parts = [recipe.part_of(number) for number in range(1, recipe.PARTS)]
    assert scripts[: 2 + len(parts)] == [("defer", name) for name in ("app-config.js", *parts, packages.ENTRY)]
    early = [f"{number}.bundle.0123456789abcdef.js" for number in recipe.EARLY_CHUNKS]
    assert scripts[2 + len(parts) :] == [("async", name) for name in early]


def test_scripts_are_kept_by_browsers_and_the_page_is_checked_each_time(hosting: Hosting) -> None:
    page = requests.get(f"{hosting.url}/ohif/viewer", timeout=60)
    configuration, _, script = files_of(f"{hosting.url}/ohif/viewer")[2:5]
    assert page.headers["Cache-Control"] == "no-cache"
    assert requests.get(configuration, timeout=60).headers["Cache-Control"] == "no-cache"
    answer = requests.get(script, timeout=60)
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Type"] == "text/javascript"
    for sent in (page, answer):
        policy = sent.headers["Content-Security-Policy"]
        assert "http" not in policy and "*" not in policy
        assert "'unsafe-inline'" not in policy[policy.index("script-src") : policy.index("style-src")]


def test_no_page_has_a_script_of_its_own(hosting: Hosting) -> None:
    text = requests.get(f"{hosting.url}/ohif/viewer", timeout=60).text
    assert set(re.findall(r"<script[^>]*>([^<]*)</script>", text)) == {""}
    assert "style=" not in text and "<style" not in text


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip, deflate", "gzip"), ("gzip, br", "br"), ("br;q=0, gzip;q=0.5", "gzip"), ("identity", None),
     ("gzip;q=0.0", None)],
)  # fmt: skip
def test_a_client_gets_a_coding_that_it_accepts(hosting: Hosting, accepted: str, coding: str | None) -> None:
    script = files_of(f"{hosting.url}/ohif/viewer")[-1]
    with requests.get(script, headers={"Accept-Encoding": accepted}, stream=True, timeout=60) as answer:
        assert answer.headers.get("Content-Encoding") == coding
        assert len(answer.raw.read(decode_content=False)) == int(answer.headers["Content-Length"])
        head = requests.head(script, headers={"Accept-Encoding": accepted}, timeout=60)
        for name in ("ETag", "Content-Length", "Content-Type"):
            assert head.headers[name] == answer.headers[name]
    known = requests.get(
        script, headers={"Accept-Encoding": accepted, "If-None-Match": head.headers["ETag"]}, timeout=60
    )
    assert (known.status_code, known.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["none.js", "none.bundle.js", "viewer.js", "microscopy", "files", "files/1", "viewer/a/b", "assets/favicon.ico",
     f"files/{NAME}/none.js", f"files/{NAME}/..%2Fviewer.json", f"files/{NAME}/%2e%2e",
     "files/..%2F..%2F/app.bundle.css", f"files/{NAME}/app.bundle.css.gz", "files/0-0/app.bundle.css",
     "app-config.js/x"],
)  # fmt: skip
def test_what_does_not_exist_is_never_the_page(hosting: Hosting, path: str) -> None:
    request = f"GET /ohif/{path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
    assert hosting.ask(request.encode()).split()[1] == b"404"


def test_a_damaged_file_is_an_error_and_not_sent(hosting: Hosting, directory: Path, tmp_path: Path) -> None:
    name = "0.bundle.0123456789abcdef.js"
    path = (directory / "current").resolve() / "files" / name
    content = path.read_bytes()
    url = f"{files_of(f'{hosting.url}/ohif/')[-1].rpartition('/')[0]}/{name}"
    try:
        path.write_bytes(content[:-1])
        assert requests.get(url, headers={"Accept-Encoding": "identity"}, timeout=60).status_code == 500
        path.unlink()
        assert requests.get(url, headers={"Accept-Encoding": "identity"}, timeout=60).status_code == 500
    finally:
        path.write_bytes(content)
    assert requests.get(url, headers={"Accept-Encoding": "identity"}, timeout=60).content == content


def test_without_an_installation_the_page_says_what_to_do(hosting: Hosting, directory: Path) -> None:
    link = directory / "current"
    target = link.readlink()
    link.unlink()
    try:
        assert requests.get(f"{hosting.url}/api/viewer", timeout=60).json() == {"is_installed": False}
        url = f"{hosting.url}/ohif/viewer/filmroom?StudyInstanceUIDs=1.2.3"
        page = requests.get(url, headers=HTML, timeout=60)
        assert page.status_code == 404
        assert "filmroom viewer install" in page.text
        [link_to_study] = re.findall(r'href="([^"]+)"', page.text)
        assert urljoin(page.url, link_to_study) == f"{hosting.url}/#/study/1.2.3"
        hostile = requests.get(url.replace("1.2.3", '"><script>1</script>'), headers=HTML, timeout=60)
        assert "script>" not in hostile.text
        problem = requests.get(url, headers={"Accept": "*/*"}, timeout=60)
        assert (problem.status_code, "filmroom viewer install" in problem.json()["detail"]) == (404, True)
    finally:
        link.symlink_to(target)
    assert files_of(f"{hosting.url}/ohif/viewer")


def test_the_page_learns_what_is_installed(hosting: Hosting) -> None:
    state = requests.get(f"{hosting.url}/api/viewer", timeout=60).json()
    assert state == {
        "is_installed": True, "name": NAME, "version": package.VERSION, "is_minified": False, "is_current": True,
    }  # fmt: skip
    licence = requests.get(f"{hosting.url}/ohif/files/{NAME}/LICENSE.txt", timeout=60)
    assert (licence.status_code, licence.text) == (200, "MIT")
