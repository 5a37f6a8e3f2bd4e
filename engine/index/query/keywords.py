"""Makes a query from names and plain strings, as people write them on a command line and in Python.

    PatientName      DOE*             by keyword or by tag, see `dicom.keywords`
    StudyDate        20260101-        a range
    Modality                          no value: only return it
    RequestAttributesSequence[0].ScheduledProcedureStepID    within a sequence; [0] is optional
    0019,xxA3        7                a private attribute of the configuration; 0019,0010 names its creator

PS3.4 C.2.2.2 defines the meaning of values. A value that can match nothing is refused (`key_values`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from engine.dicom import keywords, plain_values, tags
from engine.dicom.schema import STANDARD, Schema
from engine.errors import QueryError
from engine.index.format.types import KeyValue, Level, Query, Root
from engine.index.query import key_values
from engine.index.query.plan import COMPUTED, level_of

LEVELS = {"patient": Level.PATIENT, "study": Level.STUDY, "series": Level.SERIES, "instance": Level.IMAGE}
"""The names of levels for people."""

RETURNED: dict[str, tuple[str, ...]] = {
    "patient": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies"),
    "study": (
        "StudyDate",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    "series": (
        "SeriesNumber",
        "Modality",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
    "instance": ("InstanceNumber", "SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
"""The attributes to return at each level if the caller names none."""

Value: TypeAlias = "str | list[dict[int, Value]]"
"""The value of one key: text, "" matches everything; for a sequence its only item."""

Keys: TypeAlias = "dict[int, Value]"


def tag_of(name: str) -> int:
    """The tag of a keyword or of gggg,eeee. Raises QueryError, which suggests the most similar keyword."""
    tag = keywords.tag_of(name)
    if tag is None:
        name = name.strip()
        near = keywords.nearest(name)
        hint = f"did you mean {near}?" if near else f"write KEY=VALUE, such as {key_values.guess_key(name)}"
        raise QueryError(f"{name!r} is not a DICOM keyword" + (f"; {hint}" if name else ""))
    return tag


def matches_all(value: Value) -> bool:
    """Whether a key is only to be returned (universal matching)."""
    return not value if isinstance(value, str) else all(matches_all(inner) for item in value for inner in item.values())


STEPS_MAX: Final = 32
"""Limit for the steps of a path; an identifier of C-FIND may be as deep (`dicom.identifier`)."""


def path_of(name: str, schema: Schema = STANDARD) -> list[int]:
    """The tags that lead to an attribute, through sequences. Raises QueryError."""
    path = []
    steps = name.strip().split(".")
    if len(steps) > STEPS_MAX:
        raise QueryError(f"{name[:64]}: the path has more than {STEPS_MAX} sequences")
    for number, step in enumerate(steps):
        match = re.fullmatch(r"(.*?)(?:\[(.*)\])?", step)
        tag = tag_of(match[1] if match else step)
        if match and match[2] is not None and match[2].strip() != "0":
            raise QueryError(f"{name}: a sequence key has only one item, {match[1]}[0] (PS3.4 C.2.2.2.6)")
        is_entered = number < len(steps) - 1 or (match is not None and match[2] is not None)
        if is_entered and schema.vr_of(tag) not in ("SQ", "UN"):
            raise QueryError(f"{name}: {tags.keyword_of(tag)} is not a sequence")
        path.append(tag)
    return path


def set_key(keys: Keys, path: list[int], value: str, schema: Schema = STANDARD) -> None:
    """Sets a key, or one within a sequence. Raises QueryError for a value that can never match."""
    tag, *inner = path
    if inner:
        items = keys.get(tag)
        if not isinstance(items, list):
            items = keys[tag] = [{}]
        set_key(items[0], inner, value, schema)
    elif value and schema.vr_of(tag) == "SQ":
        name = tags.keyword_of(tag)
        raise QueryError(f"{name} is a sequence: write {name}.ATTRIBUTE=VALUE for an attribute of its items")
    else:
        key_values.check(tags.keyword_of(tag), schema.vr_of(tag), value)
        keys[tag] = value


def query_of_names(
    level: str,
    values: Mapping[str, str],
    schema: Schema,
    *,
    limit: int | None = None,
    offset: int = 0,
    fuzzy: bool = False,
) -> Query:
    """The query of names and plain strings: `values` must match; "" only returns the attribute.

    Raises QueryError for an invalid level, name or value.
    """
    if level not in LEVELS:
        raise QueryError(f"{level!r} is not a level; the levels are {', '.join(LEVELS)}")
    keys: Keys = {tag_of(name): "" for name in RETURNED[level]}
    for name, value in values.items():
        if not isinstance(value, str):
            raise QueryError(f"{name}={value!r}: write the value in a string, in DICOM's form")
        set_key(keys, path_of(name, schema), value, schema)
    return query_of(LEVELS[level], keys, schema, limit=limit, offset=offset, fuzzy=fuzzy)


def query_of(
    level: Level,
    keys: Mapping[int, Value],
    schema: Schema,
    *,
    limit: int | None = None,
    offset: int = 0,
    date_time: bool = False,
    fuzzy: bool = False,
    timezone: bool = False,
) -> Query:
    """The query of these keys; the flags as in Query.

    Raises QueryError for a key with a value that the index does not have at this level.
    """
    for tag, value in keys.items():
        if keywords.is_creator(tag) or matches_all(value):
            continue
        # C-FIND ignores such a key (PS3.4 C.2.2.1.3). A person who types it expects fewer matches, so refuse it here.
        if not is_indexed(tag, keys, schema) or COMPUTED.get(tag, level) > level:
            name = next(name for name, each in LEVELS.items() if each is level)
            raise QueryError(f"{tags.keyword_of(tag)} is not indexed at the {name} level: nothing matches it")
    return Query(
        # This root has every level; both roots give the same answers at the levels that they share.
        root=Root.PATIENT,
        level=level,
        keys={tag: _key_value(tag, value, schema) for tag, value in keys.items()},
        character_set=b"ISO_IR 192",
        limit=limit,
        offset=offset,
        relational=True,
        # Always on: without these flags, the same text would have no other meaning.
        empty_values=True,
        multiple_values=True,
        date_time=date_time,
        fuzzy=fuzzy,
        timezone=timezone,
    )


def is_indexed(tag: int, keys: Mapping[int, Value], schema: Schema) -> bool:
    """Whether the index has an attribute; a private one in the block that a creator among the keys reserves."""
    creator = keys.get(keywords.creator_of(tag)) if tags.is_private(tag) else None
    if not isinstance(creator, str):
        return level_of(tag, schema) is not None
    return schema.extra_set.find_private(tag >> 16, creator.strip(), tag & 0xFF) is not None


def _key_value(tag: int, value: Value, schema: Schema) -> KeyValue:
    if not isinstance(value, str):
        return [{inner: _key_value(inner, text, schema) for inner, text in item.items()} for item in value]
    if (encoded := plain_values.encoded_numbers(tag, schema.vr_of(tag), value)) is not None:
        return encoded
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise QueryError(f"the value of {tags.keyword_of(tag)} is not UTF-8") from None
