"""The SBOM in the form of CycloneDX 1.6."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from engine.reports.components import Component

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


def bill_of_materials(components: Sequence[Component], made: datetime) -> dict[str, Any]:
    """The document for our component, the first, and all others."""
    ours, *others = components
    references = {id(each): _reference(number, each) for number, each in enumerate(components)}
    by_name = {each.name: references[id(each)] for each in others if not each.within}
    identity = "\n".join(f"{references[id(each)]} {each.sha256}" for each in components)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": made.isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "filmroom", "version": ours.version}]},
            "component": _component(ours, references[id(ours)]),
        },
        "components": [_component(each, references[id(each)]) for each in others],
        "dependencies": [
            {
                "ref": references[id(each)],
                "dependsOn": sorted(
                    {by_name[need] for need in each.needs if need in by_name}
                    | {references[id(part)] for part in others if _is_part(part, each)}
                ),
            }
            for each in components
        ],
    }


def _is_part(part: Component, whole: Component) -> bool:
    """Whether a component comes in another; scripts of the page and the viewer come with us."""
    brought_by_us = whole.name == "filmroom" and part.within in ("page", "viewer")
    return brought_by_us or (part.within == whole.name and not whole.within)


def _reference(number: int, component: Component) -> str:
    within = f"{component.within}/" if component.within else ""
    return f"{number}-{within}{component.name}@{component.version}"


def _component(component: Component, reference: str) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": component.kind, "bom-ref": reference, "name": component.name}
    if component.version:
        plain["version"] = component.version
    if component.purl:
        plain["purl"] = component.purl
    if component.sha256:
        plain["hashes"] = [{"alg": "SHA-256", "content": component.sha256}]
    if component.license:
        plain["licenses"] = [_license(component.license)]
    properties = component.properties | ({"within": component.within} if component.within else {})
    if properties:
        plain["properties"] = [{"name": f"filmroom:{name}", "value": value} for name, value in properties.items()]
    return plain


def _license(text: str) -> dict[str, Any]:
    """An expression; or a name, where the maker wrote no expression."""
    words = text.replace("(", " ").replace(")", " ").split()
    is_expression = len(words) == 1 or any(word in ("AND", "OR", "WITH") for word in words)
    return {"expression": text} if is_expression else {"license": {"name": text}}
