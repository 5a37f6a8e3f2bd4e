"""Markdown (CommonMark with tables) as HTML, for pages that link to each other. Pure functions of their text.

    document(text, resolve) ──► Document
        title       the first heading
        body        HTML; raw HTML in the text is shown as text
        sections    what is under each heading: plain text, for a search, and links

Headings have the anchors that GitHub gives them. `resolve` maps the target of each link to a URL; where it gives none,
the target is not served here, and the link becomes text with its target as a tooltip.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

Resolve = Callable[[str], str | None]
SCROLLED = {"class": "scrolled", "tabindex": "0", "role": "group"}
"""Of boxes around what may be wider than the window, to be scrolled by keyboard. Landmarks would need unique names."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link or an image, with its target as it is written."""

    text: str
    target: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text up to the next one."""

    level: int
    heading: str
    anchor: str
    text: str
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A rendered text."""

    title: str
    body: str
    sections: tuple[Section, ...]

    @property
    def links(self) -> tuple[Link, ...]:
        """All links and images."""
        return tuple(link for section in self.sections for link in section.links)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # not needed before somebody reads the documentation

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def document(text: str, resolve: Resolve) -> Document:
    """Renders a text."""
    parser = _parser()
    tokens = parser.parse(text)
    sections = tuple(_sections(tokens))
    _resolve_links(tokens, resolve)
    body = parser.renderer.render(_scrolled(tokens), parser.options, {})
    title = next((section.heading for section in sections if section.level == 1), "")
    return Document(title, body, sections)


def _resolve_links(tokens: Sequence[Token], resolve: Resolve) -> None:
    for token in tokens:
        # Links do not nest, so each end belongs to the last beginning.
        tag = "a"
        for child in token.children or ():
            if child.type == "link_open":
                target = str(child.attrGet("href"))
                url = resolve(target)
                tag = "a" if url is not None else "span"
                child.attrs = {"href": url} if url is not None else {"class": "source", "title": target}
            elif child.type == "image":
                source = str(child.attrGet("src"))
                child.attrSet("src", resolve(source) or source)
            if child.type in ("link_open", "link_close"):
                child.tag = tag


def _sections(tokens: Sequence[Token]) -> Iterator[Section]:
    """Divides a text at its headings, and gives each heading its anchor."""
    numbers: Counter[str] = Counter()
    level, heading, anchor = 0, "", ""
    texts: list[str] = []
    links: list[Link] = []
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            if heading or texts:
                yield Section(level, heading, anchor, " ".join(texts), tuple(links))
            texts, links = [], []
            level, heading = int(token.tag[1:]), _plain(tokens[position + 1])
            anchor = slug(heading)
            if number := numbers[anchor]:
                anchor = f"{anchor}-{number}"
            numbers[slug(heading)] += 1
            token.attrSet("id", anchor)
        elif token.type == "inline":
            links += _links(token)
            if tokens[position - 1].type != "heading_open":
                texts.append(_plain(token))
        elif token.type in ("fence", "code_block"):
            texts.append(token.content)
    yield Section(level, heading, anchor, " ".join(texts), tuple(links))


def _links(token: Token) -> Iterator[Link]:
    text, target = "", None
    for child in token.children or ():
        if child.type == "link_open":
            text, target = "", str(child.attrGet("href"))
        elif child.type == "link_close" and target is not None:
            yield Link(text, target)
            target = None
        elif child.type == "image":
            yield Link(child.content, str(child.attrGet("src")))
        else:
            text += child.content


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _plain(token: Token) -> str:
    parts = (" " if child.type in ("softbreak", "hardbreak") else child.content for child in token.children or ())
    return "".join(parts)


def _scrolled(tokens: Sequence[Token]) -> list[Token]:
    """Puts tables and code into boxes that scroll."""
    from markdown_it.token import Token

    framed: list[Token] = []
    heading = ""
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = _plain(tokens[position + 1])
        begins = token.type in ("table_open", "fence", "code_block")
        if begins:
            label = f"{'Table' if token.type == 'table_open' else 'Code'}: {heading}"
            framed.append(Token("box_open", "div", 1, attrs={**SCROLLED, "aria-label": label}))
        framed.append(token)
        if token.type in ("table_close", "fence", "code_block"):
            framed.append(Token("box_close", "div", -1))
    return framed
