"""Every link of a text in the repository leads to a file that is there, and to a heading in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from engine.web import markdown

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted(
    path
    for folder in ("engine", "perf", "tests", "tools")
    for path in (ROOT / folder).rglob("*.md")
    if "node_modules" not in path.parts
)


@cache
def document(path: Path) -> markdown.Document:
    return markdown.document(path.read_text("utf-8"), lambda target: target)


@pytest.mark.parametrize("path", [ROOT / "README.md", *TEXTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(path: Path) -> None:
    for link in document(path).links:
        if re.match(r"(https?|mailto):", link.target):
            continue
        name, _, anchor = link.target.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT) and target.exists(), f"[{link.text}]({link.target})"
        if anchor and target.suffix == ".md":
            assert anchor in {section.anchor for section in document(target).sections}, f"[{link.text}]({link.target})"


def test_links_to_other_sites_are_encrypted() -> None:

    for path in (ROOT / "README.md", *TEXTS):
        for link in document(path).links:
            assert not link.target.startswith("http:") or link.target.startswith("http://127.0.0.1"), link.target
