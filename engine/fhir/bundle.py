"""Bundle of type searchset (bundle.html, search.html#return)."""

from __future__ import annotations

from collections.abc import Sequence

from engine.fhir.datatypes import Json


def searchset(
    matches: Sequence[Json], others: Sequence[Json], links: Sequence[tuple[str, str]], root: str, total: int | None
) -> Json:
    """A page of matches. `others`: included resources and outcomes; `links`: (relation, URL) of pages."""
    entries = [_entry(resource, "match", root) for resource in matches]
    for resource in others:
        entries.append(_entry(resource, "outcome" if _is_outcome(resource) else "include", root))
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        **({"total": total} if total is not None else {}),
        "link": [{"relation": relation, "url": url} for relation, url in links],
        **({"entry": entries} if entries else {}),
    }


def _is_outcome(resource: Json) -> bool:
    return bool(resource["resourceType"] == "OperationOutcome")


def _entry(resource: Json, mode: str, root: str) -> Json:
    address = {"fullUrl": f"{root}/{resource['resourceType']}/{resource['id']}"} if "id" in resource else {}
    return {**address, "resource": resource, "search": {"mode": mode}}
