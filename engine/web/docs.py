"""Serves the documentation: the folder `engine/docs`, rendered.

    /docs/              index.md; with ?q=words: the sections that have all of the words
    /docs/{page}        {page}.md, or another file of the folder by its name

All links are relative, so that they work behind a proxy that adds a prefix. They depend on a slash at the end of the
index and on none at the end of a page; requests that differ are redirected. The menu is the list of links in index.md.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine import __version__
from engine.web import markdown, page_files
from engine.web.errors import NotFound
from engine.web.route import Parameter, Route
from engine.web.static_file import TYPES, StaticFile

if TYPE_CHECKING:
    from engine.web.request import Request

FOLDER: Final = Path(__file__).parent.parent / "docs"
INDEX: Final = "index"
WORDS_MAX: Final = 8
MATCHES_MAX: Final = 30
EXCERPT: Final = 180
"""Characters of a match that are shown."""

_TEMPLATE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>{title} – Filmroom</title>
<link rel="icon" href="{files}icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{files}page.css">
<link rel="stylesheet" href="{files}docs.css">
<script src="{files}docs.js"></script>
</head>
<body class="docs">
<a class="skip" href="#text">Skip to the text</a>
<header class="top">
<a class="brand" href="../">Filmroom</a>
<a class="to-menu" href="#menu">Contents</a>
<form role="search" action="./"><input type="search" name="q" value="{query}" maxlength="200" \
aria-label="Search the documentation" placeholder="Search"></form>
</header>
<div class="columns">
<nav aria-label="Documentation" class="menu" id="menu" tabindex="-1">{menu}</nav>
<main id="text" tabindex="-1">
{body}
<footer class="quiet">Filmroom {version}</footer>
</main>
</div>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class _Book:
    """All pages, the other files, and what the menu is made of."""

    documents: dict[str, markdown.Document]
    files: dict[str, StaticFile]
    menu: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Heading → names and titles of pages."""


def resolve(target: str) -> str | None:
    """The URL of a link's target; None: the documentation does not have it."""
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return target
    path, _, fragment = target.partition("#")
    name = os.path.normpath(path)
    if "/" in name or not (FOLDER / name).is_file():
        return None
    if name.endswith(".md"):
        stem = name.removesuffix(".md")
        name = "./" if stem == INDEX else stem
    return f"{name}#{fragment}" if fragment else name


@cache
def _book() -> _Book:
    """Renders all pages, which takes a tenth of a second: call it on a thread."""
    paths = sorted(FOLDER.iterdir())
    documents = {
        path.stem: markdown.document(path.read_text("utf-8"), resolve) for path in paths if path.suffix == ".md"
    }
    menu = tuple(
        (section.heading, tuple((link.target.removesuffix(".md"), link.text) for link in section.links))
        for section in documents[INDEX].sections
        if section.level == 2
    )
    book = _Book(documents, {}, menu)
    for path in paths:
        if path.suffix in TYPES:
            book.files[path.name] = StaticFile(path.read_bytes(), TYPES[path.suffix])
    for name, document in documents.items():
        html = _html(book, name, document.title, document.body)
        book.files[name] = StaticFile(html.encode(), "text/html")
    return book


def _html(book: _Book, name: str, title: str, body: str, query: str = "") -> str:
    def item(page: str, text: str) -> str:
        current = ' aria-current="page"' if page == name else ""
        return f'<li><a href="{"./" if page == INDEX else page}"{current}>{escape(text)}</a></li>'

    groups = [f"<ul>{item(INDEX, 'Overview')}</ul>"]
    for heading, pages in book.menu:
        groups.append(f"<h2>{escape(heading)}</h2><ul>{''.join(item(page, text) for page, text in pages)}</ul>")
    return _TEMPLATE.format(
        files=f"../page/files/{page_files.version()}/",
        title=escape(title),
        query=escape(query),
        menu="".join(groups),
        body=body,
        version=__version__,
    )


async def page(request: Request) -> web.Response:
    """A page, or a file that a page links to. Raises NotFound."""
    name = request.path_values["page"]
    if request.path.endswith("/"):
        return _redirect(f"../{name}" if re.fullmatch(r"[\w.-]+", name) else "../")
    book = await request.engine.pools.slow.run(_book)
    if name not in book.files:
        raise NotFound("the documentation has no such page")
    return book.files[name].answer(request)


async def index(request: Request) -> web.Response:
    """The first page, or what a search finds."""
    if not request.path.endswith("/"):
        return _redirect("docs/")
    book = await request.engine.pools.slow.run(_book)
    query = request.query.get("q", "").strip()
    if not query:
        return book.files[INDEX].answer(request)
    body = _results(query, search(book.documents, query))
    return StaticFile(_html(book, "", "Search", body, query).encode(), "text/html").answer(request)


def _redirect(location: str) -> web.Response:
    return web.Response(status=308, headers={"Location": location, "Cache-Control": "no-cache"})


# Search --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """A section that has all of the words."""

    page: str
    title: str
    section: markdown.Section
    words: tuple[str, ...]


def search(documents: dict[str, markdown.Document], query: str) -> list[Match]:
    """The sections with all words of the query, regardless of case; those first that have them in their heading."""
    words = tuple(dict.fromkeys(query.lower().split()))[:WORDS_MAX]
    ranked: list[tuple[int, Match]] = []
    for name, document in documents.items():
        for section in document.sections:
            heading, text = f"{document.title} {section.heading}".lower(), section.text.lower()
            if all(word in heading or word in text for word in words):
                rank = sum(10 * (word in section.heading.lower()) + text.count(word) for word in words)
                ranked.append((-rank, Match(name, document.title, section, words)))
    ranked.sort(key=lambda entry: entry[0])
    return [match for _, match in ranked[:MATCHES_MAX]]


def _results(query: str, matches: list[Match]) -> str:
    count = f"{len(matches) or 'No'} section{' has' if len(matches) < 2 else 's have'}"
    return f"<h1>Search</h1><p>{count} <q>{escape(query)}</q>.</p><ol class='results'>{''.join(_items(matches))}</ol>"


def _items(matches: Iterable[Match]) -> Iterable[str]:
    for match in matches:
        heading = match.section.heading
        title = match.title if heading in ("", match.title) else f"{match.title}: {heading}"
        url = f"{'./' if match.page == INDEX else match.page}#{match.section.anchor}"
        yield f'<li><a href="{escape(url)}">{escape(title)}</a><p>{_excerpt(match)}</p></li>'


def _excerpt(match: Match) -> str:
    text = " ".join(match.section.text.split())
    lower = text.lower()
    first = min((lower.find(word) for word in match.words if word in lower), default=0)
    start = text.rfind(" ", 0, max(0, first - EXCERPT // 3)) + 1
    part = text[start : start + EXCERPT]
    marked = re.split(f"({'|'.join(map(re.escape, match.words))})", part, flags=re.IGNORECASE)
    # Every second part is a word of the query.
    html = "".join(f"<mark>{escape(piece)}</mark>" if at % 2 else escape(piece) for at, piece in enumerate(marked))
    return f"{'… ' if start else ''}{html}{' …' if start + EXCERPT < len(text) else ''}"


_PRODUCES = ("text/html", *dict.fromkeys(kind for kind in TYPES.values() if kind != "text/html"))

ROUTES: Final = (
    Route(
        "GET",
        "/docs",
        index,
        "The documentation, or a search in it",
        None,
        parameters=(Parameter("q", "Words to search for"),),
        produces=("text/html",),
        statuses=(200, 304, 308),
        tag="page",
    ),
    Route(
        "GET",
        "/docs/{page}",
        page,
        "A page of the documentation",
        None,
        parameters=(Parameter("page", "Its name", "path", is_required=True),),
        produces=_PRODUCES,
        statuses=(200, 304, 308),
        errors=(404,),
        tag="page",
    ),
)
