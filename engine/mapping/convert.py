"""HL7's data types as values of DICOM. A value that cannot be one is left out, with a warning that does not show it.

XPN  family^given^middle^suffix^prefix^degree^type^representation      PN  family^given^middle^prefix^suffix
XCN  id^family^given^middle^suffix^prefix^degree                       PN
TS   YYYY[MM[DD[HHMM[SS]]]][+ZZZZ]                                     DA only if known to the day; TM
CE   code^text^system [^code^text^system of the other]                 a code of a sequence
CX, EI, HD                                                             an identifier with its issuer
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from engine.hl7 import moment
from engine.hl7.message import NULL, Value
from engine.orders.values import Code, Identifier, Issuer

CODE_VALUE_MAX = 16
"""A longer one is a Long Code Value (0008,0119): whoever writes a data set decides by the length."""

_REPRESENTATIONS = {"A": 0, "I": 1, "P": 2}
_DELIMITERS = str.maketrans({"^": " ", "=": " ", "\\": " ", "\r": " ", "\n": " "})


def person_name(values: list[Value]) -> str:
    """The first name; other representations (XPN-8) of it become component groups."""
    groups = ["", "", ""]
    for value in values:
        parts = [part.translate(_DELIMITERS).strip() for part in value.components()[:8]]
        parts += [""] * (8 - len(parts))
        place = _REPRESENTATIONS.get(parts[7], 0)
        if not groups[place]:
            groups[place] = _joined(parts[0], parts[1], parts[2], parts[4], parts[3], parts[5])
    return "=".join(groups).rstrip("=")


def person(values: list[Value]) -> str:
    """The name of the first person with an id in front of it (XCN); a name alone is taken too."""
    parts = [part.translate(_DELIMITERS).strip() for part in values[0].components()[:7]]
    parts += [""] * (7 - len(parts))
    return _joined(parts[1], parts[2], parts[3], parts[5], parts[4], parts[6]) or parts[0]


def _joined(family: str, given: str, middle: str, prefix: str, suffix: str, degree: str) -> str:
    suffixes = " ".join(part for part in (suffix, degree) if part)
    return "^".join((family, given, middle, prefix, suffixes)).rstrip("^")


def text(values: list[Value]) -> str:
    """The first subcomponent of the first component; of several repetitions the first."""
    return values[0].text().strip()


def whole(values: list[Value]) -> str:
    """All repetitions, one a line: for comments."""
    return "\n".join(value.whole().strip() for value in values)


def label(values: list[Value]) -> str:
    """The text of a code, else the code."""
    parts = values[0].components()
    parts += [""] * (5 - len(parts))
    return (parts[1] or parts[4] or parts[0]).strip()


def date(values: list[Value]) -> str | None:
    """DA; None if the date is not known to the day or is none."""
    found = moment.parse(values[0].text())
    return found.full_date or None if found is not None else None


def time(values: list[Value]) -> str | None:
    """TM; None if there is none."""
    found = moment.parse(values[0].text())
    return found.time or None if found is not None else None


def offset(values: list[Value]) -> str | None:
    """The offset that the time itself has."""
    found = moment.parse(values[0].text())
    return found.offset or None if found is not None else None


def codes(values: list[Value]) -> tuple[Code, ...]:
    """The first triplet of each repetition."""
    return tuple(code for value in values if (code := _code(value.components(), 0)) is not None)


def local_codes(values: list[Value]) -> tuple[Code, ...]:
    """The second triplet of each repetition, else the first."""
    parts = [value.components() for value in values]
    return tuple(code for each in parts if (code := _code(each, 3) or _code(each, 0)) is not None)


def _code(parts: list[str], first: int) -> Code | None:
    triplet = [part.strip() for part in parts[first : first + 3]]
    if not triplet or not triplet[0]:
        return None
    code, meaning, system = (*triplet, "", "")[:3]
    return Code(code, system, meaning or code)


def identifier(value: Value) -> Identifier | None:
    """Of a CX, EI or plain text: CX has the issuer in its fourth component, EI from the second on."""
    parts = value.components()
    number = parts[0]
    if not number.strip() or value.is_null:
        return None
    if len(parts) == 1:
        return Identifier(number)
    if value.component(4) and not value.component(2) and not value.component(3):
        return Identifier(number, issuer(value, 4), value.text(5))
    if value.component(2) or value.component(3):
        return Identifier(number, _issuer(*(*parts, "", "")[1:4]))
    return Identifier(number)


def extended_identifier(value: Value) -> Identifier | None:
    """Of a CX (PID-3, PID-18, PV1-19, MRG): its second component is a check digit."""
    parts = value.components()
    number = parts[0]
    if not number.strip() or value.is_null:
        return None
    if len(parts) < 4:
        return Identifier(number)
    return Identifier(number, issuer(value, 4), parts[4] if len(parts) > 4 else "")


def issuer(value: Value, component: int) -> Issuer:
    """Of an HD in a component."""
    return _issuer(*(*value.subcomponents(component), "", "")[:3])


@lru_cache(1024)
def _issuer(name: str, universal_id: str, universal_id_type: str) -> Issuer:
    """Most messages name the same few."""
    return Issuer(name, universal_id, universal_id_type)


def is_null(values: list[Value]) -> bool:
    """Whether they say "delete"."""
    return bool(values) and values[0].raw == NULL


Converter = Callable[[list[Value]], "str | tuple[Code, ...] | None"]

CONVERTERS: dict[str, Converter] = {
    "text": text,
    "whole": whole,
    "label": label,
    "name": person_name,
    "person": person,
    "date": date,
    "time": time,
    "offset": offset,
    "codes": codes,
    "local-codes": local_codes,
}
"""What a rule may write after "as"."""
