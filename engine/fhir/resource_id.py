"""Ids of patients: the Patient ID and its issuer, spelt with the characters of an id (datatypes.html#id).

    P1                  P1                    letters, digits and - are themselves
    4711/B              4711.2fB              any other byte of UTF-8 is a dot and two hexadecimal digits
    P1, issuer 1.2.3    P1..1.2e2.2e3         two dots before the issuer

An id can be read back, so that no table is needed, and every node and each rebuild has the same. One that has more than
64 characters cannot be spelt: such a patient has an identifier, and no address.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from engine.errors import RequestError

LENGTH_MAX: Final = 64
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
_SPELT: Final = re.compile(r"(?:[A-Za-z0-9-]|\.[0-9a-f]{2})+", re.ASCII)
_ESCAPE: Final = re.compile(rb"\.([0-9a-f]{2})")


class PatientKey(NamedTuple):
    """What tells a patient apart."""

    patient_id: str
    issuer: str
    """Issuer of Patient ID; "": none."""


def spell(key: PatientKey) -> str:
    """The id of a patient; "" for one that has none."""
    if not key.patient_id:
        return ""
    spelt = "..".join(map(_spelt, filter(None, key)))
    return spelt if len(spelt) <= LENGTH_MAX else ""


def read(resource_id: str) -> PatientKey:
    """The patient of an id. Raises RequestError for one that `spell` never gives."""
    patient_id, _, issuer = resource_id.partition("..")
    try:
        key = PatientKey(_read(patient_id), _read(issuer) if issuer else "")
    except UnicodeDecodeError:
        key = PatientKey("", "")
    if not key.patient_id or spell(key) != resource_id:
        raise RequestError("the id is none of this server's")
    return key


def _spelt(value: str) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f".{byte:02x}" for byte in value.encode("utf-8", "replace"))


def _read(spelt: str) -> str:
    if not _SPELT.fullmatch(spelt):
        return ""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), spelt.encode("ascii")).decode("utf-8")
