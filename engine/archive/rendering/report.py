"""Lays a structured report out as a page or as text (PS3.3 C.17.3, C.18). Runs in `render_process` only.

    CONTAINER    a heading, and its content            CODE, TEXT, NUM, PNAME, DATE, …    a name and its value
    IMAGE, COMPOSITE, WAVEFORM    the referenced SOP Instance UID

Every text comes from the data set and is hostile: it is escaped, and the page has a policy that runs no script.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.archive.rendering import annotation
from engine.archive.transcoding.head import Head
from engine.dicom import charset, elements, tags
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax

HTML: Final = "text/html"
PLAIN: Final = "text/plain"
MEDIA_TYPES: Final = (HTML, PLAIN)

DEPTH_MAX: Final = 24
ITEMS_MAX: Final = 50_000

_RELATIONS: Final = {"HAS CONCEPT MOD": "·", "HAS OBS CONTEXT": "·", "INFERRED FROM": "from", "SELECTED FROM": "from"}
_TEXT_VALUES: Final = {
    "TEXT": (tags.TextValue, "UT"),
    "PNAME": (tags.PersonName, "PN"),
    "DATE": (tags.Date, "DA"),
    "TIME": (tags.Time, "TM"),
    "DATETIME": (tags.DateTime, "DT"),
    "UIDREF": (tags.UID, "UI"),
}
_STYLE: Final = (
    "body{font:16px/1.45 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#111;background:#fff}"
    "h1{font-size:1.5rem}h2,h3,h4,h5,h6{font-size:1.1rem;margin:1.2rem 0 .3rem}dl{margin:.2rem 0 .2rem 1rem}"
    "dt{color:#444;font-weight:600}dd{margin:0 0 .4rem 1rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;margin:0 0 1rem}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
)
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Line:
    """One content item: its depth, its concept name, and its value, None for a heading."""

    depth: int
    name: str
    value: str | None


def laid_out(source: Source, syntax: TransferSyntax, media_type: str) -> bytes:
    """The report in UTF-8. Raises TranscodeError if the instance is no report."""
    try:
        encoding = elements.encoding_of(source.read(0, 8), syntax)
        head = Head.read(source, encoding)
        if tags.ContentSequence not in head and tags.ConceptNameCodeSequence not in head:
            raise TranscodeError("the instance is no structured report")
        title = _concept(head, head) or "Structured report"
        facts = list(_facts(head))
        lines = list(_lines(head, head, 0, [0]))
    except DataSetError as error:
        raise TranscodeError(f"the data set cannot be read: {error}") from error
    page = _html(title, facts, lines) if media_type == HTML else _plain(title, facts, lines)
    return page.encode()


def _facts(head: Head) -> Iterator[tuple[str, str]]:
    for name, tag, vr in (
        ("Patient", tags.PatientName, "PN"),
        ("Patient ID", tags.PatientID, "LO"),
        ("Born", tags.PatientBirthDate, "DA"),
        ("Study", tags.StudyDescription, "LO"),
        ("Study date", tags.StudyDate, "DA"),
        ("Content date", tags.ContentDate, "DA"),
        ("Completion", tags.CompletionFlag, "CS"),
        ("Verification", tags.VerificationFlag, "CS"),
    ):
        text = annotation.value(head, tag, vr)
        if text:
            yield name, text


def _lines(item: Head, root: Head, depth: int, count: list[int]) -> Iterator[Line]:
    if depth > DEPTH_MAX:
        raise TranscodeError(f"the report is nested deeper than {DEPTH_MAX}")
    for child in item.items(tags.ContentSequence):
        count[0] += 1
        if count[0] > ITEMS_MAX:
            raise TranscodeError(f"the report has more than {ITEMS_MAX} items")
        name = _concept(child, root)
        value = _value(child, root)
        relation = _RELATIONS.get(child.text(tags.RelationshipType), "")
        yield Line(depth, f"{relation} {name}".strip(), value)
        yield from _lines(child, root, depth + 1, count)


def _value(item: Head, root: Head) -> str | None:
    kind = item.text(tags.ValueType)
    if kind == "CONTAINER":
        return None
    if kind in _TEXT_VALUES:
        tag, vr = _TEXT_VALUES[kind]
        if vr in ("PN", "DA"):
            return annotation.value_in(item, root, tag, vr)
        return _text(item, root, tag, vr)
    if kind == "CODE":
        return _code(item, root, tags.ConceptCodeSequence)
    if kind == "NUM":
        measured = item.item(tags.MeasuredValueSequence)
        if measured is None:
            return _code(item, root, tags.NumericValueQualifierCodeSequence) or "not measured"
        unit = measured.item(tags.MeasurementUnitsCodeSequence)
        unit_text = _text(unit, root, tags.CodeValue, "SH") if unit is not None else ""
        number = _text(measured, root, tags.NumericValue, "DS")
        return number if unit_text in ("", "1", "{0:0}") else f"{number} {unit_text}"
    reference = item.item(tags.ReferencedSOPSequence)
    if reference is not None:
        frames = reference.text(tags.ReferencedFrameNumber)
        uid = reference.text(tags.ReferencedSOPInstanceUID)
        return f"{uid}, frame {frames}" if frames else uid
    if kind in ("SCOORD", "SCOORD3D", "TCOORD"):
        return f"{item.text(tags.GraphicType) or item.text(tags.TemporalRangeType)}".strip() or kind
    return kind or ""


def _concept(item: Head, root: Head) -> str:
    return _code(item, root, tags.ConceptNameCodeSequence)


def _code(item: Head, root: Head, tag: int) -> str:
    code = item.item(tag)
    if code is None:
        return ""
    return _text(code, root, tags.CodeMeaning, "LO") or _text(code, root, tags.CodeValue, "SH")


def _text(item: Head, root: Head, tag: int, vr: str) -> str:
    sets = item.raw(tags.SpecificCharacterSet) or root.raw(tags.SpecificCharacterSet)
    text = charset.decode(item.raw(tag), sets, vr).rstrip(" \0")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _plain(title: str, facts: list[tuple[str, str]], lines: list[Line]) -> str:
    out = [title, "=" * len(title), *(f"{name}: {value}" for name, value in facts), ""]
    for line in lines:
        indent = "  " * line.depth
        if line.value is None:
            out += ["", f"{indent}{line.name or 'Section'}"]
            continue
        rows = line.value.split("\n")
        out.append(f"{indent}{line.name}: {rows[0]}" if line.name else f"{indent}{rows[0]}")
        out += [f"{indent}  {row}" for row in rows[1:]]
    return "\n".join(out) + "\n"


def _html(title: str, facts: list[tuple[str, str]], lines: list[Line]) -> str:
    escape = html.escape
    out = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><table>",
        *(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts),
        "</table>",
    ]
    for line in lines:
        if line.value is None:
            level = min(line.depth + 2, 6)
            out.append(f"<h{level}>{escape(line.name or 'Section')}</h{level}>")
        else:
            margin = f" style='margin-left:{line.depth + 1}rem'"
            out.append(f"<dl{margin}><dt>{escape(line.name)}</dt><dd>{escape(line.value)}</dd></dl>")
    out.append("</body></html>\n")
    return "\n".join(out)
