"""JSON Schemas (2020-12) of the JSON answers: the components of the OpenAPI document.

A route names its schema (`route.Route.schema`). Data sets are described as in PS3.18 F.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engine.archive.feed.event import ACTIONS

Schema = Mapping[str, Any]

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_UID: Final = {"type": "string", "maxLength": 64}


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": reference(name)}


def reference(name: str) -> Schema:
    """A reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


SCHEMAS: Final[Mapping[str, Schema]] = {
    "Problem": {
        **_object(
            ("type", "title", "status", "detail", "request_id"),
            type=_TEXT,
            title=_TEXT,
            status={"type": "integer", "minimum": 400, "maximum": 599},
            detail=_TEXT,
            request_id=_TEXT,
        ),
        "description": "An error (RFC 9457); request_id finds it in the log",
    },
    "OperationOutcome": _object(
        ("resourceType", "issue"), resourceType={"const": "OperationOutcome"}, issue={"type": "array", "minItems": 1}
    ),
    "DataSet": {
        "type": "object",
        "description": "A data set of the DICOM JSON Model (PS3.18 F.2): elements by tag",
        "patternProperties": {"^[0-9A-F]{8}$": reference("Element")},
        "additionalProperties": False,
    },
    "Element": {
        "type": "object",
        "required": ["vr"],
        "properties": {
            "vr": {"type": "string", "pattern": "^[A-Z]{2}$"},
            "Value": {"type": "array", "minItems": 1, "items": reference("Value")},
            "BulkDataURI": {"type": "string", "minLength": 1},
            "InlineBinary": {"type": "string", "contentEncoding": "base64"},
        },
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "Value": {
        "anyOf": [
            {"type": ["string", "number", "null"]},
            reference("PersonName"),
            reference("DataSet"),
        ]
    },
    "PersonName": {
        "type": "object",
        "properties": {"Alphabetic": _TEXT, "Ideographic": _TEXT, "Phonetic": _TEXT},
        "additionalProperties": False,
    },
    "DataSets": _list_of("DataSet"),
    "Changes": _object(
        ("events", "next", "more"), events=_list_of("Change"), next=_TEXT, more={"type": "boolean"}
    ),
    "Change": _object(
        ("sequence", "action", "time"),
        sequence=_COUNT,
        action={"enum": list(ACTIONS)},
        time=_TEXT,
        study_instance_uid=_UID,
        series_instance_uid=_UID,
        sop_instance_uid=_UID,
    ),
    "Liveness": _object(("status",), status={"const": "live"}),
    "Readiness": _object(
        ("status", "problems"),
        status={"enum": ["ready", "not ready"]},
        problems={"type": "array", "items": _TEXT},
    ),
    "Capabilities": _object(("application",), application={"type": "object"}),
    "OpenApi": _object(("openapi", "info", "paths"), openapi=_TEXT, info={"type": "object"}, paths={"type": "object"}),
}  # fmt: skip
"""By name."""
