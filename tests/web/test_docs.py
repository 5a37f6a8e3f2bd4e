"""web.docs: the documentation as the server shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests

from engine import __version__
from engine.web import docs, page_files
from tests.web.hosting import Hosting, hosted

PAGES = sorted(path.stem for path in docs.FOLDER.glob("*.md"))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with hosted(tmp_path_factory.mktemp("docs") / "data") as hosting:
        yield hosting


def get(hosting: Hosting, path: str, **options: object) -> requests.Response:
    return requests.get(f"{hosting.url}{path}", timeout=60, **options)  # type: ignore[arg-type]


class Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "action"):
                self.links.append(value or "")
            else:
                assert not name.startswith("on") and name != "style", f"the policy forbids {name}"


def test_every_link_of_every_page_leads_somewhere(hosting: Hosting) -> None:
    """Every page is reached from the index, and every anchor is there."""
    waiting, pages = [f"{hosting.url}/docs/"], dict[str, Page]()
    anchors: list[tuple[str, str, str]] = []
    while waiting:
        url = waiting.pop()
        if url in pages:
            continue
        answer = requests.get(url, timeout=60, allow_redirects=False)
        assert answer.status_code == 200, url
        is_page = "text/html" in answer.headers["Content-Type"] and url.startswith(f"{hosting.url}/docs/")
        pages[url] = page = Page(answer.text if is_page else "")
        assert len(set(page.ids)) == len(page.ids), f"{url} has an id twice"
        for link in page.links:
            target, _, anchor = urljoin(url, link).partition("#")
            if target.startswith(f"{hosting.url}/"):
                waiting.append(target)
                anchors.append((url, target, anchor))
    for url, target, anchor in anchors:
        assert not anchor or anchor in pages[target].ids, f"{url} links to {target}#{anchor}"
    assert {f"{hosting.url}/docs/{name}" for name in PAGES if name != "index"} <= set(pages)


def test_a_page_is_sent_once_and_then_known(hosting: Hosting) -> None:
    answer = get(hosting, "/docs/operation")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert '<h1 id="operation">' in answer.text and f"Filmroom {__version__}" in answer.text
    assert '<a href="operation" aria-current="page">' in answer.text
    again = get(hosting, "/docs/operation", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_files_beside_the_pages_are_served_as_they_are(hosting: Hosting) -> None:
    answer = get(hosting, "/docs/LICENSE.txt")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.content == (docs.FOLDER / "LICENSE.txt").read_bytes()


@pytest.mark.parametrize(
    ("path", "location"), [("/docs", "docs/"), ("/docs/page/", "../page"), ("/docs/a%0d%0ab/", "../")]
)
def test_a_wrong_slash_at_the_end_is_redirected(hosting: Hosting, path: str, location: str) -> None:
    """Relative, so that it is right behind a proxy that adds a prefix."""
    answer = get(hosting, path, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (308, location)
    assert get(hosting, "/docs/page/").status_code == 200


@pytest.mark.parametrize("name", ["none", "operation.md", "..%2F..%2Ferrors.py", "..%2FREADME", "index.html", "%00"])
def test_other_names_are_not_found(hosting: Hosting, name: str) -> None:
    request = f"GET /docs/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert hosting.ask(request.encode()).split()[1] == b"404"


def test_a_search_finds_the_sections_with_all_words_and_links_to_them(hosting: Hosting) -> None:
    answer = get(hosting, "/docs/", params={"q": "TRUSTED_proxies  forwarded"})
    assert answer.status_code == 200
    assert 'href="operation#http"' in answer.text
    assert re.search("<mark>trusted_proxies</mark>", answer.text)
    assert "No section has" in get(hosting, "/docs/", params={"q": "trusted_proxies nowhereatall"}).text


def test_the_words_of_a_search_are_text(hosting: Hosting) -> None:
    for words in ('"><script>alert(1)</script>', "\0", "a" * 20_000, "<", ". * ( [", "\u202e\U0001f600", "& amp"):
        answer = get(hosting, "/docs/", params={"q": words})
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        Page(answer.text)


def test_the_menu_names_every_page_by_its_title() -> None:
    """The index lists each page once; what it says of a page is not checked by anything else."""
    index = docs.FOLDER.joinpath("index.md").read_text("utf-8")
    names = re.findall(r"\]\(([\w-]+)\.md\)", index)
    assert sorted(names) == [name for name in PAGES if name != "index"]


def test_the_style_of_the_documentation_is_a_file_of_the_page() -> None:
    assert {"docs.css", "docs.js"} <= {path.name for path in Path(page_files.FOLDER).iterdir()}
