"""A query from names and plain strings, as people write them on a command line and in Python.

    PatientName      DOE*             by keyword or by tag, see `dicom.keywords`
    StudyDate        20260101-        a range
    Modality                          no value: only to be returned
    RequestAttributesSequence[0].ScheduledProcedureStepID    within a sequence; [0] may be left out
    0019,xxA3        7                a private attribute of the configuration; 0019,0010 names its creator

What a value means is PS3.4 C.2.2.2 and not looked at here; what can match nothing is refused (`key_values`).
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
"""Levels as people call them."""

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
"""What is returned at each level when nothing is asked for by name."""

Value: TypeAlias = "str | list[dict[int, Value]]"
"""Of one key: text, "" matches everything; of a sequence its only item."""

Keys: TypeAlias = "dict[int, Value]"


def tag_of(name: str) -> int:
    """The tag of a keyword or of gggg,eeee. Raises QueryError that names the nearest keyword."""
    tag = keywords.tag_of(name)
    if tag is None:
        name = name.strip()
        near = keywords.nearest(name)
        hint = f"did you mean {near}?" if near else f"write KEY=VALUE, such as {key_values.meant_by(name)}"
        raise QueryError(f"{name!r} is not a DICOM keyword" + (f"; {hint}" if name else ""))
    return tag


def matches_all(value: Value) -> bool:
    """Whether a key is only to be returned (universal matching)."""
    return not value if isinstance(value, str) else all(matches_all(inner) for item in value for inner in item.values())


STEPS_MAX: Final = 32
"""Of a path; as deep as an identifier of C-FIND may be (`dicom.identifier`)."""


def path_of(name: str, schema: Schema = STANDARD) -> list[int]:
    """The tags that lead to an attribute, through sequences. Raises QueryError."""
    path = []
    steps = name.strip().split(".")
    if len(steps) > STEPS_MAX:
        raise QueryError(f"{name[:64]}: leads through more than {STEPS_MAX} sequences")
    for number, step in enumerate(steps):
        match = re.fullmatch(r"(.*?)(?:\[(.*)\])?", step)
        tag = tag_of(match[1] if match else step)
        if match and match[2] is not None and match[2].strip() != "0":
            raise QueryError(f"{name}: a sequence is matched by one item, which is {match[1]}[0] (PS3.4 C.2.2.2.6)")
        is_entered = number < len(steps) - 1 or (match is not None and match[2] is not None)
        if is_entered and schema.vr_of(tag) not in ("SQ", "UN"):
            raise QueryError(f"{name}: {tags.keyword_of(tag)} is no sequence")
        path.append(tag)
    return path


def put(wanted: Keys, path: list[int], value: str, schema: Schema = STANDARD) -> None:
    """Sets a key, or one within a sequence. Raises QueryError for a value that it can never match."""
    tag, *inner = path
    if inner:
        items = wanted.get(tag)
        if not isinstance(items, list):
            items = wanted[tag] = [{}]
        put(items[0], inner, value, schema)
    elif value and schema.vr_of(tag) == "SQ":
        name = tags.keyword_of(tag)
        raise QueryError(f"{name} is a sequence: {name}.ATTRIBUTE=VALUE asks for what is in it")
    else:
        key_values.check(tags.keyword_of(tag), schema.vr_of(tag), value)
        wanted[tag] = value


def question(
    level: str,
    named: Mapping[str, str],
    schema: Schema,
    *,
    limit: int | None = None,
    offset: int = 0,
    fuzzy: bool = False,
) -> Query:
    """The question of names and plain strings: `named` is what must match, and with "" what is to be returned too.

    Raises QueryError for a level, a name or a value that is none.
    """
    if level not in LEVELS:
        raise QueryError(f"{level!r} is no level; there are {', '.join(LEVELS)}")
    keys: Keys = {tag_of(name): "" for name in RETURNED[level]}
    for name, value in named.items():
        if not isinstance(value, str):
            raise QueryError(f"{name}={value!r}: write it as DICOM does, in a string")
        put(keys, path_of(name, schema), value, schema)
    return query_of(LEVELS[level], keys, schema, limit=limit, offset=offset, fuzzy=fuzzy)


def query_of(
    level: Level,
    wanted: Mapping[int, Value],
    schema: Schema,
    *,
    limit: int | None = None,
    offset: int = 0,
    date_time: bool = False,
    fuzzy: bool = False,
    timezone: bool = False,
) -> Query:
    """The question that these keys ask; the flags as in Query.

    Raises QueryError for a key with a value that the index does not keep at this level.
    """
    for tag, value in wanted.items():
        if keywords.is_creator(tag) or matches_all(value):
            continue
        # C-FIND passes over such a key (PS3.4 C.2.2.1.3); who types it wants fewer matches, and exports fewer.
        if not is_kept(tag, wanted, schema) or COMPUTED.get(tag, level) > level:
            name = next(name for name, each in LEVELS.items() if each is level)
            raise QueryError(f"{tags.keyword_of(tag)} is not indexed at the {name} level: nothing matches it")
    return Query(
        # The root that has every level; the two give the same answers at the levels that both have.
        root=Root.PATIENT,
        level=level,
        keys={tag: _key_value(tag, value, schema) for tag, value in wanted.items()},
        character_set=b"ISO_IR 192",
        limit=limit,
        offset=offset,
        relational=True,
        # Without another meaning, so nobody has to ask for them.
        empty_values=True,
        multiple_values=True,
        date_time=date_time,
        fuzzy=fuzzy,
        timezone=timezone,
    )


def is_kept(tag: int, wanted: Mapping[int, Value], schema: Schema) -> bool:
    """Whether the index keeps an attribute; a private one in the block that a creator among the keys reserves."""
    creator = wanted.get(keywords.creator_of(tag)) if tags.is_private(tag) else None
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
