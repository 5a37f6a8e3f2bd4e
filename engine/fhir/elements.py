"""_elements: the members of a resource that a client asks for (search.html#elements)."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from engine.fhir.datatypes import SUBSETTED, Json

_MANDATORY: Final = frozenset(("resourceType", "id", "status", "subject", "intent", "agent", "source", "recorded"))
_MANDATORY_OF: Final = {
    "DiagnosticReport": _MANDATORY | {"code"},
    "Endpoint": _MANDATORY | {"connectionType", "payloadType", "address"},
}
"""Those without which a resource of ours is not valid. There may be more than were asked for."""


def only(resource: Json, elements: Set[str]) -> Json:
    """The resource with these elements, and a mark that it is not whole; whole without any."""
    if not elements:
        return resource
    mandatory = _MANDATORY_OF.get(resource["resourceType"], _MANDATORY)
    chosen = {name: value for name, value in resource.items() if name in elements or name in mandatory}
    if resource["resourceType"] in ("Provenance", "AuditEvent"):
        chosen = resource
    meta = resource.get("meta", {})
    tags = [tag for tag in meta.get("tag", []) if tag != SUBSETTED]
    return {**chosen, "meta": {**meta, "tag": [*tags, SUBSETTED]}}
