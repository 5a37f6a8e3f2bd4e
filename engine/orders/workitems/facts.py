"""What a search for workitems reads of each one: a few attributes, and the keys under which it is found.

    attributes    those of TOP, and some of the items of the sequences in WITHIN, up to VALUE_BYTES_MAX and ITEMS_MAX
    keys          LETTER VALUE NUL START NUL UID, where START is the normal form of the scheduled start

    a  every workitem        p  Patient ID                n c g  code of a station's name, class, location
    s  state                 m  the patient's id (hex)    t      workitem code
    w  worklist label        l  procedure step label      u x    study and accession number that it is for

A longer attribute is left out, and `is_whole` says so: then the data set has to be asked. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from engine.dicom import tags, values
from engine.dicom.identifier import Identifier
from engine.errors import DataSetError
from engine.orders import attributes
from engine.orders.attributes import Items, values_of
from engine.orders.rows import WorkitemRow

ELEMENT_COUNT_MAX: Final = 120_000
"""Elements of a workitem's data set."""
VALUE_BYTES_MAX: Final = 256
ITEMS_MAX: Final = 16
KEY_VALUE_BYTES_MAX: Final = 64
"""Of a value within a key; longer ones that begin alike share their keys."""
START_BYTES_MAX: Final = 26
VALUES_MAX: Final = 100
"""Values under which one workitem is found by a letter; with more of them it is among the answers to each value."""

TOP: Final = frozenset((
    tags.ProcedureStepState, tags.ScheduledProcedureStepStartDateTime, tags.ExpectedCompletionDateTime,
    tags.ScheduledProcedureStepModificationDateTime, tags.ScheduledProcedureStepPriority, tags.ProcedureStepLabel,
    tags.WorklistLabel, tags.InputReadinessState, tags.PatientID, tags.IssuerOfPatientID, tags.PatientName,
    tags.PatientBirthDate, tags.PatientSex, tags.StudyInstanceUID, tags.AdmissionID, tags.SOPInstanceUID,
))  # fmt: skip
_CODE: Final = frozenset((tags.CodeValue, tags.CodingSchemeDesignator, tags.CodeMeaning))
WITHIN: Final = {
    tags.ScheduledStationNameCodeSequence: _CODE,
    tags.ScheduledStationClassCodeSequence: _CODE,
    tags.ScheduledStationGeographicLocationCodeSequence: _CODE,
    tags.ScheduledWorkitemCodeSequence: _CODE,
    tags.ReferencedRequestSequence: frozenset((tags.StudyInstanceUID, tags.AccessionNumber, tags.RequestedProcedureID)),
    tags.ProcedureStepProgressInformationSequence: frozenset(
        (tags.ProcedureStepProgress, tags.ProcedureStepProgressDescription)
    ),
}

_NOT_ANSWERED: Final = frozenset((tags.SpecificCharacterSet, tags.TransactionUID))

ALL, PATIENT_NUMBER, STUDY = "a", "m", "u"
LETTERS: Final = {
    tags.ProcedureStepState: "s",
    tags.WorklistLabel: "w",
    tags.PatientID: "p",
    tags.ProcedureStepLabel: "l",
    tags.StudyInstanceUID: STUDY,
}
"""Attributes of a workitem that lead to it."""
LETTERS_WITHIN: Final = {
    (tags.ScheduledStationNameCodeSequence, tags.CodeValue): "n",
    (tags.ScheduledStationClassCodeSequence, tags.CodeValue): "c",
    (tags.ScheduledStationGeographicLocationCodeSequence, tags.CodeValue): "g",
    (tags.ScheduledWorkitemCodeSequence, tags.CodeValue): "t",
    (tags.ReferencedRequestSequence, tags.StudyInstanceUID): STUDY,
    (tags.ReferencedRequestSequence, tags.AccessionNumber): "x",
}
"""Attributes of items that lead to a workitem."""

Stored = dict[int, bytes | list[dict[int, bytes]]]


class Facts(Struct, frozen=True, array_like=True):
    """Of one workitem."""

    items: Stored
    patient: int
    """The patient that its Patient ID names; 0: nobody who is known."""
    ended: float
    is_whole: bool
    """Whether these are all values of the attributes in TOP and WITHIN."""
    prefixes: tuple[bytes, ...]
    """The beginnings of its keys."""

    @property
    def start(self) -> bytes:
        """Its place in every order."""
        return start_key(text_of(self.items, tags.ScheduledProcedureStepStartDateTime))

    @property
    def tally(self) -> tuple[bytes, bytes]:
        """State and worklist label, under which it is counted."""
        state, label = (text_of(self.items, tag) for tag in (tags.ProcedureStepState, tags.WorklistLabel))
        return value_key("CS", state), value_key("LO", label)

    def keys(self, uid: bytes) -> set[bytes]:
        """The keys under which it is found."""
        tail = self.start + b"\0" + uid
        return {prefix + tail for prefix in self.prefixes}


def facts_of(row: WorkitemRow) -> Facts:
    """The facts of a workitem; of one whose data set cannot be read, its state."""
    is_whole = True
    try:
        items: Items = attributes.decoded(row.data_set, element_count_max=ELEMENT_COUNT_MAX).items
    except DataSetError:
        items, is_whole = {}, False
    items = {**items, tags.ProcedureStepState: row.state.encode()}
    found: Stored = {}
    for tag, value in items.items():
        if tag in TOP and isinstance(value, bytes):
            if len(value) > VALUE_BYTES_MAX:
                is_whole = False
            elif value:
                found[tag] = value
        elif tag in WITHIN and not isinstance(value, bytes):
            kept = [_of_item(values_of(item), WITHIN[tag]) for item in value[:ITEMS_MAX]]
            is_whole &= len(value) <= ITEMS_MAX and None not in kept
            found[tag] = [each for each in kept if each is not None]
    return Facts(found, row.patient, row.ended, is_whole, tuple(sorted(_prefixes(items, row.patient))))


def _of_item(items: Items, wanted: frozenset[int]) -> dict[int, bytes] | None:
    kept = {tag: value for tag, value in items.items() if tag in wanted and isinstance(value, bytes) and value}
    return kept if all(len(value) <= VALUE_BYTES_MAX for value in kept.values()) else None


def _prefixes(items: Items, patient: int) -> set[bytes]:
    found: dict[str, set[bytes]] = {ALL: {prefix_of(ALL, "", "")}}
    for tag, letter in LETTERS.items():
        found.setdefault(letter, set()).update(_of_values(letter, items, tag))
    for (sequence, tag), letter in LETTERS_WITHIN.items():
        inner = items.get(sequence) or []
        for item in () if isinstance(inner, bytes) else inner:
            found.setdefault(letter, set()).update(_of_values(letter, values_of(item), tag))
    if patient:
        found[PATIENT_NUMBER] = {number_prefix(patient)}
    many = {many_prefix(letter) for letter, prefixes in found.items() if len(prefixes) > VALUES_MAX}
    return many.union(*(prefixes for prefixes in found.values() if len(prefixes) <= VALUES_MAX))


def _of_values(letter: str, items: Items, tag: int) -> Iterator[bytes]:
    vr = tags.vr_of(tag)
    for text in values.split(vr, text_of(items, tag)):
        if text.strip(" \0"):
            yield prefix_of(letter, vr, text)


def covers(identifier: Identifier) -> bool:
    """Whether facts have all that a query asks for, of a workitem whose facts are whole."""
    for tag, value in identifier.items.items():
        if tag in WITHIN and isinstance(value, list):
            # Without attributes in its item a key asks for all of them.
            if not value or not value[0].items or not WITHIN[tag].issuperset(value[0].items):
                return False
        elif tag not in TOP and tag not in _NOT_ANSWERED:
            return False
    return True


def prefix_of(letter: str, vr: str, text: str) -> bytes:
    """The beginning of the keys of all workitems with a value."""
    return letter.encode() + value_key(vr, text) + b"\0"


def number_prefix(patient: int) -> bytes:
    """The beginning of the keys of all workitems of a patient, as named when they were created."""
    return b"%s%x\0" % (PATIENT_NUMBER.encode(), patient)


def many_prefix(letter: str) -> bytes:
    """The beginning of the keys of all workitems that have too many values, of which each may be the one."""
    return letter.encode() + b"\1\0"


def value_key(vr: str, text: str) -> bytes:
    """A value as it is in a key."""
    normal = values.normalise(vr, text) if vr else text
    return normal.encode("utf-8", "replace").replace(b"\0", b"")[:KEY_VALUE_BYTES_MAX]


def start_key(text: str) -> bytes:
    """A scheduled start as it is in a key."""
    return values.normalise("DT", text).encode("utf-8", "replace").replace(b"\0", b"")[:START_BYTES_MAX]


def text_of(items: Items, tag: int) -> str:
    """A text of a workitem; "" if there is none."""
    value = items.get(tag, b"")
    return value.decode("utf-8", "replace").strip(" \0") if isinstance(value, bytes) else ""
