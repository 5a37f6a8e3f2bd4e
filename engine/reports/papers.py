"""All papers of one server, as files: `filmroom security-report`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import orjson

from engine.config import Config
from engine.reports import conformance, cryptography, hipaa, mds2
from engine.reports.components import components
from engine.reports.cyclonedx import bill_of_materials
from engine.reports.document import Document, to_markdown, to_plain
from engine.reports.facts import Facts, gather

Format = Literal["md", "json"]


@dataclass(frozen=True, slots=True)
class Paper:
    """One file."""

    name: str
    title: str
    content: bytes
    counts: dict[str, int]
    """Verdicts or parts, for a summary."""


def papers(config: Config, form: Format) -> list[Paper]:
    """Makes all of them from one look at the server. Raises EngineError if its archive cannot be opened."""
    facts = gather(config)
    parts = components(config.http.viewer_directory)
    bill = orjson.dumps(bill_of_materials(parts, facts.made), option=orjson.OPT_INDENT_2)
    return [
        *(_paper(document, facts, form) for document in _documents(facts)),
        Paper("sbom.cdx.json", "Software bill of materials (CycloneDX 1.6)", bill + b"\n", {"components": len(parts)}),
    ]


def _documents(facts: Facts) -> Iterable[Document]:
    yield hipaa.make(facts)
    yield mds2.make(facts)
    yield conformance.make(facts)
    yield cryptography.make(facts)


def _paper(document: Document, facts: Facts, form: Format) -> Paper:
    if form == "md":
        content = to_markdown(document, facts.subtitle).encode()
    else:
        plain = {**to_plain(document), "of": facts.subtitle, "made": facts.made}
        content = orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n"
    return Paper(f"{document.name}.{form}", document.title, content, document.counts)
