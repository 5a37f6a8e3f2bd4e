"""The registry of patients and orders of an archive, and what it tells the archive: merges, and other demographics.

A merge becomes a correction in advance, so that studies that come later under the old identifier follow it too. Changed
demographics become one only if there are stored studies that say something else: a feed of a million messages adds
nothing to the ledger but what people see. Upper and lower case in names do not count.

A link between an order and a study supplies what the study lacks (`lifecycle.supplied`).

The authority of an identifier is Issuer of Patient ID (0010,0021). Studies without an issuer are concerned if the
identifier has none, or that of `[worklist] issuer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from engine import log
from engine.access.principal import Kind, Principal
from engine.archive.feed.subscription import Watch
from engine.archive.lifecycle import correction, supplied
from engine.archive.lifecycle.patients import IDENTITY, Patient, number_of
from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.errors import CorrectionRefused, for_log
from engine.index.format.types import Level
from engine.orders.entry import other_ids_blob
from engine.orders.registry import Orders, Place, exists, state_folder
from engine.orders.values import Change, ChangeKind

if TYPE_CHECKING:
    import asyncio

    from engine.archive.archive import Archive
    from engine.archive.lifecycle.correction import Corrected
    from engine.index.catalog import Snapshot
    from engine.orders.values import Identifier, Source
    from engine.orders.work import Rules, Supply

logger = log.get("archive.hospital")


def open_orders(archive: Archive, rules: Rules) -> Orders:
    """The registry of an archive, for one process; close it before the archive. Raises OrdersError, StorageError."""
    layout = archive.parts.layout
    place = Place(layout.data, layout.archive_id, archive.parts.files, layout.data_key, archive.is_read_only)
    return Orders(place, rules, StudyCorrections(archive, rules))


def has_orders(archive: Archive) -> bool:
    """Whether an archive has a registry of patients and orders."""
    return exists(archive.parts.layout.data)


def orders_watch(archive: Archive, loop: asyncio.AbstractEventLoop) -> Watch:
    """Wakes the tasks of a loop when something is written to the registry's log, before it is committed."""
    folder = state_folder(archive.parts.layout.data)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Watch(str(folder), loop)


class StudyCorrections:
    """Implements `orders.work.Corrections` with the ledger."""

    def __init__(self, archive: Archive, rules: Rules) -> None:
        self._archive = archive
        self._rules = rules

    def agree(self, identifier: Identifier, attributes: Mapping[str, str], source: Source) -> Sequence[str]:
        """Corrects the patient's stored studies where they differ. Raises StorageError, IndexError_, ArchiveInUse."""
        numbers = []
        for issuer in self._issuers(identifier):
            with self._archive.parts.index.snapshot() as snapshot:
                differences = _differences(snapshot, identifier.value, issuer, attributes)
            if differences:
                patient = Patient(identifier.value, issuer)
                correct = partial(correction.correct_patient, self._archive, patient, differences)
                numbers += _attempt(partial(correct, actor=_actor(source), reason=_reason(source)))
        return numbers

    def merge(
        self, prior: Identifier, survivor: Identifier, source: Source, attributes: Mapping[str, str]
    ) -> Sequence[Change]:
        """Merges in advance, unless that merge is in force; one write and one refresh of the studies with what `agree`
        would find afterwards. Raises as `agree`."""
        changes = []
        survivors = self._issuers(survivor)
        for position, issuer in enumerate(self._issuers(prior)):
            target = Patient(survivor.value, survivors[min(position, len(survivors) - 1)])
            with self._archive.parts.index.snapshot() as snapshot:
                is_merged = snapshot.merge_of(prior.value.strip().encode(), issuer.encode()) != 0
            if not is_merged and (prior.value.strip(), issuer) != (target.patient_id.strip(), target.issuer):
                differing = partial(_differing, self._archive.schema.level_of, attributes)
                merge = partial(correction.merge, self._archive, Patient(prior.value, issuer), target, in_advance=True)
                merge = partial(merge, differing=differing, actor=_actor(source), reason=_reason(source))
                for action, number in zip(("merged", "corrected"), _attempt(merge), strict=False):
                    changes.append(Change(ChangeKind.CORRECTION, number, action))
        return changes

    def unmerge(self, prior: Identifier, survivors: Sequence[Identifier], source: Source, reason: str) -> Sequence[str]:
        """Undoes the merge that is in force, if it is one into the survivor. Raises as `agree`."""
        numbers = []
        names = {each.value.strip() for each in survivors}
        for issuer in self._issuers(prior):
            with self._archive.parts.index.snapshot() as snapshot:
                stamp = snapshot.merge_of(prior.value.strip().encode(), issuer.encode())
                entry = snapshot.correction(stamp) if stamp else None
            into = blob_items(entry.correction.items).get(tags.PatientID, b"") if entry is not None else b""
            if into.decode("utf-8", "replace").strip() in names:
                undo = partial(correction.undo, self._archive, number_of(stamp))
                numbers += _attempt(partial(undo, actor=_actor(source), reason=reason))
        return numbers

    def move(self, study_instance_uids: Sequence[str], target: Identifier, source: Source) -> Sequence[str]:
        """Moves studies to a patient, known here or not; not those that are his, or not stored. Raises as `agree`."""
        issuer = self._issuers(target)[0]
        into = Patient(target.value, issuer)
        with self._archive.parts.index.snapshot() as snapshot:
            key = snapshot.patient_key(target.value.strip().encode(), issuer.encode())
            owners = {uid: snapshot.owner_of(uid.encode()) for uid in study_instance_uids}
        studies = [uid for uid, owner in owners.items() if owner not in (None, key)]
        if not studies:
            return []
        move = partial(correction.move, self._archive, studies, into, in_advance=True)
        return _attempt(partial(move, actor=_actor(source), reason=_reason(source)))

    def supply(self, study_instance_uid: str, supply: Callable[[], Supply], source: Source) -> Sequence[str]:
        """Lets a study show what it lacks. Raises as `agree`."""

        def lacks(stated: Mapping[int, bytes]) -> tuple[dict[int, bytes], dict[int, bytes]]:
            if not self._rules.supplies_everybody:
                return {}, {}  # what was supplied before is undone
            return lacking(supply(), stated)

        return supplied.update(self._archive, study_instance_uid, lacks, actor=_actor(source))

    def _issuers(self, identifier: Identifier) -> list[str]:
        """The values of Issuer of Patient ID that mean this authority."""
        name = identifier.issuer.name or identifier.issuer.universal_id
        return [name, ""] if name and name == self._rules.issuer else [name]


def _attempt(correct: Callable[[], Corrected]) -> list[str]:
    """The numbers of the corrections; none if it is refused: the registry has it all the same."""
    try:
        result = correct()
        return [result.number, *([result.further] if result.further else ())]
    except CorrectionRefused as refusal:
        logger.warning("what the hospital says cannot be a correction", why=for_log(refusal))
        return []


def _differences(snapshot: Snapshot, patient_id: str, issuer: str, attributes: Mapping[str, str]) -> dict[int, str]:
    """What stored studies of this patient say otherwise."""
    found = [each for each in snapshot.patients_with(patient_id.strip().encode(), issuer.encode()) if each.studies]
    return _differing(snapshot.schema.level_of, attributes, found[0].items) if len(found) == 1 else {}


def _differing(levels: Mapping[int, int], attributes: Mapping[str, str], shown: Mapping[int, bytes]) -> dict[int, str]:
    """The attributes of a patient that are shown otherwise."""
    result: dict[int, str] = {}
    for keyword, text in attributes.items():
        tag = tags.tag_of(keyword)
        if tag is None or tag in IDENTITY or levels.get(tag) != Level.PATIENT:
            continue
        if _comparable(tag, shown.get(tag, b"").decode("utf-8", "replace")) != _comparable(tag, text):
            result[tag] = text
    return result


def _comparable(tag: int, text: str) -> str:
    text = text.strip(" \0")
    return text.casefold().rstrip("^=") if tags.vr_of(tag) == "PN" else text


def _actor(source: Source) -> Principal:
    return Principal(Kind.JOB, source.who)


def _reason(source: Source) -> str:
    return f"message {source.reference}" if source.reference else "message of the hospital"


def lacking(supply: Supply, stated: Mapping[int, bytes]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """What a study lacks of a supply, and what its series may lack, from what the study states."""
    values = {tag: value for tag, value in supply.study.items() if not stated.get(tag, b"").strip(b" \0")}
    if tags.AccessionNumber not in values:
        values.pop(tags.IssuerOfAccessionNumberSequence, None)
    own = stated.get(tags.PatientID, b"").decode("utf-8", "replace").strip(" ")
    others = [each for each in supply.identifiers if each.value.strip() != own]
    if others and not (stated.get(tags.OtherPatientIDs) or stated.get(tags.OtherPatientIDsSequence)):
        values[tags.OtherPatientIDsSequence] = other_ids_blob(others)
    return values, dict(supply.series)
