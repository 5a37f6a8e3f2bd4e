"""PartView: an archive of which somebody sees single series, through a share. Everything else of their studies does not
exist: no series, no instance, no count and no modality of it.

A study is there with what it says of itself and its patient. Queries get the shared series as a further key, so a study
matches only by these; what is computed of studies and patients is computed from them. Lists in an order, holds,
conflicts and corrections of whole studies are not for those who see a part of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.archive.selection import Selection
from engine.archive.view import View
from engine.dicom import tags
from engine.errors import QueryError
from engine.index.catalog import Conflict, SeriesArrival
from engine.index.format.types import Instance, InstanceIdentifiers, Level, Match, Query, SeriesRevision
from engine.index.query.plan import COMPUTED

if TYPE_CHECKING:
    from engine.access.scope import Scope
    from engine.archive.parts import Parts
    from engine.index.format.entry import Hold
    from engine.index.format.types import Bookmark, KeyValue, Order, PlacedMatch
    from engine.index.query.explanation import Explanation

_UIDS: Final = (tags.StudyInstanceUID, tags.SeriesInstanceUID)
_UNIVERSAL: Final = (b"", b"*")


class PartView(View):
    """Single series of an archive."""

    is_partial = True

    def __init__(self, parts: Parts, scope: Scope, series: frozenset[tuple[str, str]]) -> None:
        """`series`: Study and Series Instance UIDs."""
        super().__init__(parts, scope)
        self._series = series
        self._key = "\\".join(sorted({uid for _, uid in series})).encode()

    def _has(self, study_instance_uid: str, series_instance_uid: str) -> bool:
        return (study_instance_uid, series_instance_uid) in self._series and super().sees(study_instance_uid)

    def _has_instance(self, instance: Instance | InstanceIdentifiers) -> bool:
        return self._has(instance.study_instance_uid, instance.series_instance_uid)

    def sees(self, study_instance_uid: str) -> bool:
        """Whether something that is shared of a study is stored."""
        return bool(self.revisions(study_instance_uid))

    def find_steps(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        """See `View.find_steps`."""
        asked = _text(query.keys.get(tags.SeriesInstanceUID, b""))
        shared = set(self._key.split(b"\\"))
        chosen = shared if asked in _UNIVERSAL else shared & set(asked.split(b"\\"))
        if not chosen:
            return iter(())
        keys: dict[int, KeyValue] = {tag: b"" if tag in COMPUTED else value for tag, value in query.keys.items()}
        keys.setdefault(tags.StudyInstanceUID, b"")
        keys[tags.SeriesInstanceUID] = b"\\".join(sorted(chosen))
        steps = self.parts.index.search_steps(replace(query, keys=keys, relational=True), explanation, self.scope)
        return self._own(steps, query)

    def _own(self, steps: Iterator[Match | None], query: Query) -> Iterator[Match | None]:
        """The matches as they are without what is not shared."""
        computed = [tag for tag in query.keys if tag in COMPUTED]
        for match in steps:
            if match is None:
                yield None
                continue
            study, series = (_uid(match.attributes.get(tag, b"")) for tag in _UIDS)
            if match.level >= Level.SERIES and (study, series) not in self._series:
                continue
            of_study = self._facts(study) if computed else {}
            for tag in computed:
                if tag in of_study:
                    match.attributes[tag] = of_study[tag]
                elif COMPUTED[tag] == Level.PATIENT:
                    match.attributes[tag] = self._of_patient(tag, match)
            for tag in _UIDS:
                if tag not in query.keys:
                    match.attributes.pop(tag, None)
            yield match

    def _facts(self, study: str) -> dict[int, bytes]:
        """What is computed of a study, from what is shared of it."""
        instances = self._instances_of(study)
        counts = {
            tags.NumberOfStudyRelatedSeries: len({instance.series_instance_uid for instance in instances}),
            tags.NumberOfStudyRelatedInstances: len(instances),
        }
        uids = "\\".join(sorted({instance.series_instance_uid for instance in instances})).encode()
        keys: dict[int, KeyValue] = {
            tags.StudyInstanceUID: study.encode(),
            tags.SeriesInstanceUID: uids,
            tags.Modality: b"",
        }
        rows = self.parts.index.search(Query(Level.SERIES, keys, relational=True), None, self.scope) if uids else ()
        modalities = {row.attributes.get(tags.Modality, b"").strip(b" \0") for row in rows} - {b""}
        classes = {instance.sop_class_uid.encode() for instance in instances}
        return {tag: b"%d" % count for tag, count in counts.items()} | {
            tags.ModalitiesInStudy: b"\\".join(sorted(modalities)),
            tags.SOPClassesInStudy: b"\\".join(sorted(classes)),
        }

    def _of_patient(self, tag: int, match: Match) -> bytes:
        """A count of a patient's studies, series or instances, of those that are shared."""
        if match.level == Level.PATIENT:
            patient = match.attributes.get(tags.PatientID, b"")
            query = Query(Level.STUDY, {tags.PatientID: patient, tags.StudyInstanceUID: b""}, relational=True)
            studies = {_uid(row.attributes[tags.StudyInstanceUID]) for row in self.find(query) if patient}
        else:
            studies = {_uid(match.attributes.get(tags.StudyInstanceUID, b""))}
        instances = [instance for study in studies for instance in self._instances_of(study)]
        if tag == tags.NumberOfPatientRelatedStudies:
            return b"%d" % len({instance.study_instance_uid for instance in instances})
        if tag == tags.NumberOfPatientRelatedSeries:
            return b"%d" % len({(one.study_instance_uid, one.series_instance_uid) for one in instances})
        return b"%d" % len(instances)

    def _instances_of(self, study: str) -> list[Instance]:
        return self.instances(Query(Level.STUDY, {tags.StudyInstanceUID: study.encode()})) if study else []

    def ordered_steps(
        self, query: Query, order: Order, after: Bookmark | None, explanation: Explanation, *, skip: int = 0
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        """Raises QueryError: a place in a list tells of what is not shared."""
        raise QueryError("single series are shared: there is no list of studies")

    def bookmark_at(self, order: Order, text: str) -> Bookmark:
        """Raises QueryError."""
        raise QueryError("single series are shared: there is no list of studies")

    def sizes(self, study_instance_uids: Sequence[bytes]) -> list[tuple[int, int]]:
        """See `View.sizes`."""
        of_studies = [self._instances_of(uid.decode("utf-8", "replace")) for uid in study_instance_uids]
        return [
            (len(instances), sum(instance.position.payload_length for instance in instances))
            for instances in of_studies
            if instances
        ]

    def arrivals(self, study_instance_uid: str, *, whole: bool = False) -> list[SeriesArrival]:
        """See `View.arrivals`."""
        arrivals = super().arrivals(study_instance_uid, whole=whole)
        return [arrival for arrival in arrivals if self._has(study_instance_uid, arrival.series_instance_uid)]

    def instances(self, query: Query) -> list[Instance]:
        """See `View.instances`."""
        return [instance for instance in super().instances(query) if self._has_instance(instance)]

    def identifiers(self, query: Query) -> list[InstanceIdentifiers]:
        """See `View.identifiers`."""
        return [instance for instance in super().identifiers(query) if self._has_instance(instance)]

    def corrected(self, study_instance_uid: str, series_instance_uid: str) -> dict[int, bytes]:
        """See `View.corrected`."""
        if not self._has(study_instance_uid, series_instance_uid):
            return {}
        return super().corrected(study_instance_uid, series_instance_uid)

    def revisions(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[SeriesRevision]:
        """See `View.revisions`."""
        if not super().sees(study_instance_uid):
            return []
        series = series_instance_uid.encode() if series_instance_uid is not None else None
        revisions = self.parts.index.revisions(study_instance_uid.encode(), series)
        return [each for each in revisions if (study_instance_uid, each.series_instance_uid) in self._series]

    def select(self, query: Query) -> Selection:
        """See `View.select`."""
        chosen = filter(self._has_instance, self.parts.index.select(query, self.scope))
        return Selection(chosen, Path(self.parts.layout.index), at_once=False)

    def instance(self, sop_instance_uid: str) -> Instance | None:
        """See `View.instance`."""
        instance = super().instance(sop_instance_uid)
        return None if instance is None or not self._has_instance(instance) else instance

    def holds(self) -> list[Hold]:
        """None."""
        return []

    def conflicts(self) -> Iterator[Conflict]:
        """None."""
        return iter(())

    def conflicts_of(self, study_instance_uid: str) -> list[Conflict]:
        """None."""
        return []


def _text(value: KeyValue) -> bytes:
    """A key for UIDs as bytes. Raises QueryError for a sequence."""
    if not isinstance(value, bytes):
        raise QueryError("Series Instance UID is no sequence")
    return value.strip(b" \0")


def _uid(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip(" \0")
