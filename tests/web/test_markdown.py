"""web.markdown: a text as HTML, its anchors and links, and what of it is searched."""

from __future__ import annotations

import pytest

from engine.web import markdown


def body(text: str) -> str:
    return markdown.document(text, lambda target: target).body


def test_html_in_a_text_is_shown_as_text() -> None:
    html = body("<script>alert(1)</script>\n\n`<b>` <img src=x onerror=y> [x](javascript:alert(1))\n\n    <i>\n")
    assert not any(tag in html for tag in ("<script", "<b>", "<img", "<i>", "href"))


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("The first minute", "the-first-minute"),
        ("C-STORE, `[http]` & TLS", "c-store-http--tls"),
        ("What is new in 0.2?", "what-is-new-in-02"),
        ("Größe", "größe"),
    ],
)
def test_headings_have_the_anchors_of_github(heading: str, anchor: str) -> None:
    assert f'<h2 id="{anchor}">' in body(f"## {heading}\n")


def test_equal_headings_have_different_anchors() -> None:
    sections = markdown.document("## A\n\n## B\n\n## A\n\n## A\n", lambda target: target).sections
    assert [section.anchor for section in sections] == ["a", "b", "a-1", "a-2"]


def test_a_link_that_is_not_served_becomes_text() -> None:
    html = markdown.document("[one](a.md) and [*two*](../b.py)", {"a.md": "a"}.get).body
    assert '<a href="a">one</a> and <span class="source" title="../b.py"><em>two</em></span>' in html


def test_a_document_has_its_title_its_sections_and_its_links() -> None:
    document = markdown.document(
        "# The title\n\nOne [link `x`](a.md#b)\nand more.\n\n"
        "## Part\n\n| a | b |\n|---|---|\n| c | ![d](e.png) |\n\n    code\n",
        lambda target: target,
    )
    assert document.title == "The title"
    first, second = document.sections
    assert (first.level, first.anchor, first.text) == (1, "the-title", "One link x and more.")
    assert second.text.split() == ["a", "b", "c", "d", "code"]
    assert document.links == (markdown.Link("link x", "a.md#b"), markdown.Link("d", "e.png"))


def test_tables_and_code_can_be_scrolled_by_keyboard() -> None:
    html = body("## Sizes\n\n| a |\n|---|\n| b |\n\n    code\n")
    assert html.count('class="scrolled" tabindex="0" role="group" aria-label="Table: Sizes"><table>') == 1
    assert html.count('aria-label="Code: Sizes"><pre>') == 1
    assert html.count("<div") == html.count("</div>") == 2
