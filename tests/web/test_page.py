"""web.page_files: the page's files as they are sent, and what holds them together."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from engine.web import page_files
from engine.web.static_file import StaticFile
from tests.web.hosting import Hosting, hosted

SCRIPTS = sorted(path for path in page_files.FOLDER.iterdir() if path.suffix == ".js")
SCRIPT_BYTES_MAX = 50_000
"""Of all scripts that the first view needs, gzipped."""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with hosted(tmp_path_factory.mktemp("page") / "data") as hosting:
        yield hosting


def test_the_page_is_at_the_root_under_a_strict_policy(hosting: Hosting) -> None:
    answer = requests.get(f"{hosting.url}/", timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    files = f'"page/files/{page_files.version()}/'
    assert answer.text.replace(files, '"page/') == (page_files.FOLDER / "index.html").read_text("utf-8")
    assert answer.text.count(files) == answer.text.count('"page/') > 20, "every file has the version"
    assert answer.headers["Cache-Control"] == "no-cache", "a new release is used at once"


def test_a_file_is_sent_once_and_then_known(hosting: Hosting) -> None:
    url = f"{hosting.url}/page/main.js"
    first = requests.get(url, timeout=60)
    assert (first.status_code, first.headers["Content-Encoding"]) == (200, "gzip")
    assert first.content == (page_files.FOLDER / "main.js").read_bytes()
    assert requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=60).status_code == 304
    plain = requests.get(url, headers={"Accept-Encoding": "identity"}, timeout=60)
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["ETag"] != first.headers["ETag"]
    head = requests.head(url, timeout=60)
    assert (head.status_code, head.headers["ETag"]) == (200, first.headers["ETag"])
    assert first.headers["Cache-Control"] == "no-cache", "a new release is used at once"
    icon = requests.get(f"{hosting.url}/page/icon.svg", timeout=60)
    assert icon.headers["Cache-Control"] == "max-age=86400", "it is asked for with each filter that is typed"


@pytest.mark.parametrize("name", ["main.js", "page.css", "icon.svg", "preact.mjs"])
def test_a_file_of_this_version_is_kept_and_of_another_is_asked_for_again(hosting: Hosting, name: str) -> None:
    old = requests.get(f"{hosting.url}/page/{name}", timeout=60)
    kept = requests.get(f"{hosting.url}/page/files/{page_files.version()}/{name}", timeout=60)
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    other = requests.get(f"{hosting.url}/page/files/{'0' * 16}/{name}", timeout=60)
    assert other.headers["Cache-Control"] == old.headers["Cache-Control"] and "immutable" not in str(old.headers)
    assert kept.content == other.content == old.content
    policies = {answer.headers["Content-Security-Policy"] for answer in (kept, other, old)}
    assert len(policies) == 1
    again = {"If-None-Match": old.headers["ETag"]}
    unchanged = requests.get(kept.url, headers=again, timeout=60)
    assert (unchanged.status_code, unchanged.headers["Cache-Control"]) == (304, kept.headers["Cache-Control"])
    assert requests.get(f"{kept.url}x", timeout=60).status_code == 404
    assert requests.get(f"{kept.url}/{name}", timeout=60).status_code == 404


@pytest.mark.parametrize("page", ["/docs/", "/docs/page", "/docs/?q=worklist"])
def test_the_documentation_names_files_of_this_version(hosting: Hosting, page: str) -> None:
    text = requests.get(f"{hosting.url}{page}", timeout=60).text
    assert set(re.findall(r"\.\./page/files/(.*?)/", text)) == {page_files.version()}
    assert '"../page/icon' not in text and text.count(f"../page/files/{page_files.version()}/") == 4


def test_the_version_is_of_every_file_and_of_its_name() -> None:
    one, two = (StaticFile(body, "text/javascript") for body in (b"1", b"2"))
    books = [{"a.js": one}, {"a.js": two}, {"b.js": one}, {"a.js": one, "b.js": one}, {"a.js": one, "b.js": two}]
    assert len({page_files.version_of(files) for files in books}) == len(books)
    assert page_files.version_of({"b.js": two, "a.js": one}) == page_files.version_of(books[-1])


@pytest.mark.parametrize(
    "name", ["none.js", "..%2Froute.py", "%2e%2e", "main.js%00", "..%2F..%2F..%2Fetc%2Fpasswd", "INDEX.HTML"]
)
def test_other_names_are_not_found(hosting: Hosting, name: str) -> None:
    request = f"GET /page/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert hosting.ask(request.encode()).split()[1] == b"404"


def imports_of(path: Path) -> set[str]:
    return set(re.findall(r'(?:from|import\()\s*"\./([^"]+)"', path.read_text("utf-8")))


def test_every_file_that_is_named_is_there_and_none_comes_from_elsewhere() -> None:
    names = {path.name for path in page_files.FOLDER.iterdir()}
    index = (page_files.FOLDER / "index.html").read_text("utf-8")
    assert set(re.findall(r'(?:href|src)="page/([^"]+)"', index)) <= names
    assert "http" not in index
    for path in SCRIPTS:
        assert imports_of(path) <= names, path.name
        assert not re.search(r"innerHTML|dangerouslySet|\beval\(|document\.write", path.read_text("utf-8")), path.name


def first_view() -> set[str]:
    """The scripts that are needed before anything is shown."""
    names: set[str] = set()
    waiting = ["main.js"]
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        waiting += re.findall(r'from "\./([^"]+)"', (page_files.FOLDER / name).read_text("utf-8"))
    return names


def test_the_first_view_needs_few_bytes() -> None:
    names = first_view()
    assert "uplot.mjs" not in names, "charts are fetched by the view that has some"
    assert sum(len(gzip.compress((page_files.FOLDER / name).read_bytes(), 9)) for name in names) < SCRIPT_BYTES_MAX


def test_all_scripts_of_the_first_view_are_fetched_at_once_and_no_others() -> None:
    """Else each one is asked for when the one that imports it has been read."""
    index = (page_files.FOLDER / "index.html").read_text("utf-8")
    assert set(re.findall(r'rel="modulepreload" href="page/([^"]+)"', index)) == first_view() - {"main.js"}


def words() -> dict[str, set[str]]:
    """The keys of each language, of all views."""
    keys: dict[str, set[str]] = {}
    for path in page_files.FOLDER.glob("words*.js"):
        blocks = re.findall(r"^const ([A-Z]{2}) = \{(.*?)^\};", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for name, block in blocks:
            keys.setdefault(name, set()).update(re.findall(r'(?:^|[{,]\s*|\s)"?([A-Za-z0-9_.]+)"?: "', block))
    return keys


def test_every_language_has_every_word() -> None:
    keys = words()
    assert set(keys) == {"EN", "DE"}
    assert keys["EN"] == keys["DE"]


def test_every_word_that_is_asked_for_is_there() -> None:
    used = {name for path in SCRIPTS for name in re.findall(r'\bt\("([^"]+)"', path.read_text("utf-8"))}
    assert used
    assert used <= words()["EN"]
