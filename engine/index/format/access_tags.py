"""The keys of a study in `access`: what a scope may ask of it, in the form that is compared. Opens nothing.

    kind u8, text    text: as `access.scope.normalized` makes it, in UTF-8; a long one ends in a digest (`keys.bounded`)

    institution, department, modality    every value of every series
    referrer                             every value of a name, and each of its groups
    sender                               who sent the first current instance of each series
    de-identified                        no text; the study's own row says that the identity was removed

A study has the keys of everything for which `query.admission` may admit it. Only that of a removed identity may be too
many: there `admission` asks every statement of the study.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from engine.access.scope import Attribute, normalized
from engine.dicom import tags
from engine.index.format import keys

KIND_OF = {
    Attribute.INSTITUTION: b"I",
    Attribute.DEPARTMENT: b"D",
    Attribute.MODALITY: b"M",
    Attribute.REFERRER: b"R",
    Attribute.SENDER: b"S",
}
DEIDENTIFIED_KEY = b"X"

LONG = b"\x01"
"""The first byte of a text that is not whole: see `keys.bounded`."""
_OF_SERIES = (
    (tags.InstitutionName, Attribute.INSTITUTION),
    (tags.InstitutionalDepartmentName, Attribute.DEPARTMENT),
    (tags.Modality, Attribute.MODALITY),
)
_MODALITY_BYTES_MAX = 255
"""As many bytes of a Modality are in `counts`."""


def key_of(attribute: Attribute, text: str) -> bytes:
    """The key of a normalized text."""
    return KIND_OF[attribute] + keys.bounded(text.encode("utf-8", "replace"))


def text_of(key: bytes) -> str | None:
    """The text of a key; None: it is not whole."""
    return None if key[1:2] == LONG else key[1:].decode("utf-8", "replace")


def keys_of_series(items: Mapping[int, bytes]) -> set[bytes]:
    """The keys that a study has from a series with these attributes."""
    result: set[bytes] = set()
    for tag, attribute in _OF_SERIES:
        value = items.get(tag)
        if value:
            result |= _keys_of(attribute, value[:_MODALITY_BYTES_MAX] if tag == tags.Modality else value)
    return result


def keys_of_study(items: Mapping[int, bytes]) -> set[bytes]:
    """The keys of a study with these attributes of its own."""
    result: set[bytes] = set()
    name = items.get(tags.ReferringPhysicianName)
    if name:
        result.update(key_of(Attribute.REFERRER, text) for text in names_of(name))
    if says_identity_removed(items):
        result.add(DEIDENTIFIED_KEY)
    return result


def keys_of_sender(calling_ae_title: bytes) -> frozenset[bytes]:
    """The keys of who sent an instance."""
    return _keys_of(Attribute.SENDER, calling_ae_title)


@lru_cache(4096)
def _keys_of(attribute: Attribute, value: bytes) -> frozenset[bytes]:
    return frozenset(key_of(attribute, text) for text in texts_of(value))


# what a scope compares --------------------------------------------------------------------------------


@lru_cache(4096)
def texts_of(value: bytes) -> frozenset[str]:
    """Each value of a text, normalized."""
    return frozenset(filter(None, map(normalized, decoded(value).split("\\"))))


def names_of(value: bytes) -> set[str]:
    """Each value of a person name, and each of its groups: alphabetic, ideographic, phonetic."""
    groups: Iterable[str] = (group for name in decoded(value).split("\\") for group in name.split("="))
    return set(filter(None, map(normalized, groups)))


def says_identity_removed(items: Mapping[int, bytes]) -> bool:
    """Whether these attributes say that the patient's identity was removed."""
    return items.get(tags.PatientIdentityRemoved, b"").strip(b" \0").upper() == b"YES"


def decoded(value: bytes) -> str:
    """A stored value as text, without padding."""
    return value.decode("utf-8", "replace").strip(" \0")
