"""View: an archive as somebody sees it. Every question of a front end goes through the view of who asks.

    archive.view(access.scope(principal, action))     the studies in scope, with all that they contain
    archive                                           the view of those who see everything

A study out of scope does not exist in a view: it is in no answer, no count and no list, it has no metadata, and nobody
learns that it was deleted. `Archive` is the view of everything: for the command line, background jobs and the library.
Front ends that serve others (`services`, `web`) ask no question of the archive itself: `tests/test_tidy.py` keeps that.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.access.scope import FULL, Scope
from engine.archive.availability import OfMatch
from engine.archive.parts import Parts
from engine.archive.selection import Selection
from engine.dicom import part10, tags
from engine.dicom.schema import Schema
from engine.index.catalog import Conflict, SeriesArrival
from engine.index.format.types import (
    Bookmark,
    Instance,
    InstanceIdentifiers,
    Level,
    Match,
    Order,
    PlacedMatch,
    Query,
    SeriesRevision,
)
from engine.index.query.keywords import query_of_names
from engine.index.query.plan import UNIQUE

if TYPE_CHECKING:
    import pydicom

    from engine.access.scope import AccessFacts
    from engine.index.format.entry import Hold
    from engine.index.query.explanation import Explanation

UIDS_AT_ONCE = 500
"""How many matches of a query are looked up at a time."""


class View:
    """The part of an archive that is in a scope."""

    is_partial = False
    """Whether it has less than whole studies (`part_view`)."""

    def __init__(self, parts: Parts, scope: Scope) -> None:
        self.parts = parts
        """For the modules of the archive. Front ends must not use it."""
        self.scope = scope
        self.retrieval = parts.retrieval

    @property
    def schema(self) -> Schema:
        """The attributes of instances that the index keeps."""
        return self.parts.index.schema

    def sees(self, study_instance_uid: str) -> bool:
        """Whether a study is stored and in scope."""
        return self.parts.index.is_in_scope(study_instance_uid.encode(), self.scope)

    def _hides(self, study_instance_uid: str) -> bool:
        """Whether a study is out of scope. Costs nothing for those who see everything."""
        return self.scope is not FULL and not self.sees(study_instance_uid)

    def access_facts(self, study_instance_uid: str) -> AccessFacts | None:
        """What scopes ask of a study; None: it does not exist here."""
        return None if self._hides(study_instance_uid) else self.parts.index.access_facts(study_instance_uid.encode())

    def find(
        self,
        query: Query | str = "study",
        keys: Mapping[str, str] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        fuzzy: bool = False,
        explanation: Explanation | None = None,
        **named: str,
    ) -> Iterator[Match]:
        """Matches in a stable order. Holds no read transaction between pages. Raises QueryError.

        `query` is a complete Query, or a level ("patient", "study", "series", "instance"). With a level, keyword
        arguments are keys of C-FIND in plain strings (PatientName="DOE*"; "" only returns the attribute), and `keys`
        has those that no identifier can name ({"RequestAttributesSequence.RequestedProcedureID": "R7"}).
        """
        if isinstance(query, str):
            query = query_of_names(
                query, {**(keys or {}), **named}, self.schema, limit=limit, offset=offset, fuzzy=fuzzy
            )
        return (match for match in self.find_steps(query, explanation) if match is not None)

    def availability(self, level: Level) -> OfMatch | None:
        """The Instance Availability of matches of a level; None: all are ONLINE."""
        return self.parts.availability.of_matches(level)

    def availability_of_instances(self) -> Callable[[Instance], bytes]:
        """The Instance Availability of single instances."""
        return self.parts.availability.of_instances()

    def find_steps(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        """As `find`; yields None at points where the caller may do other work."""
        return self.parts.index.search_steps(query, explanation, self.scope)

    def ordered_steps(
        self, query: Query, order: Order, after: Bookmark | None, explanation: Explanation, *, skip: int = 0
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        """Matching studies in the order of an attribute, after a bookmark; see `index.query.ordering`.

        Raises QueryError, also later, for more studies than can be sorted where the index has no keys in that order.
        """
        return self.parts.index.ordered_steps(query, order, after, explanation, skip=skip, scope=self.scope)

    def bookmark_at(self, order: Order, text: str) -> Bookmark:
        """A bookmark before the first study whose value is `text` or begins with it. Raises QueryError."""
        return self.parts.index.bookmark_at(order, text)

    def sizes(self, study_instance_uids: Sequence[bytes]) -> list[tuple[int, int]]:
        """Instances and bytes of each of these studies that is stored."""
        if self.scope is not FULL:
            study_instance_uids = [uid for uid in study_instance_uids if self.sees(uid.decode("utf-8", "replace"))]
        return self.parts.index.sizes(study_instance_uids)

    def arrivals(self, study_instance_uid: str, *, whole: bool = False) -> list[SeriesArrival]:
        """How the series of a study arrived: counts, senders, times; see `index.query.arrivals`."""
        if self._hides(study_instance_uid):
            return []
        return self.parts.index.arrivals(study_instance_uid.encode(), whole=whole)

    def instances(self, query: Query) -> list[Instance]:
        """The instances that a retrieval names, by series and instance number. Raises QueryError."""
        return self.parts.index.instances(query, self.scope)

    def identifiers(self, query: Query) -> list[InstanceIdentifiers]:
        """The identifiers of the same instances, in no order. Raises QueryError."""
        return self.parts.index.identifiers(query, self.scope)

    def matching(
        self, query: Query | str = "study", keys: Mapping[str, str] | None = None, **named: str
    ) -> Iterator[Instance]:
        """The instances of all studies, series, … that `find` would match, each once."""
        if isinstance(query, str):
            query = query_of_names(query, {**(keys or {}), **named}, self.schema)
        # PatientID alone does not tell patients apart; their studies do.
        query = replace(query, level=max(query.level, Level.STUDY))
        unique = UNIQUE[query.level]
        matches = self.find(replace(query, keys={unique: b"", **query.keys}))
        uids: set[str] = set()
        while group := [match.attributes[unique] for match in itertools.islice(matches, UIDS_AT_ONCE)]:
            for instance in self.instances(replace(query, keys={unique: b"\\".join(group)})):
                if instance.sop_instance_uid not in uids:
                    uids.add(instance.sop_instance_uid)
                    yield instance

    def corrected(self, study_instance_uid: str, series_instance_uid: str) -> dict[int, bytes]:
        """The values that corrections set in a study and one of its series: tag → UTF-8, sequences in Explicit VR LE.

        b"" removes the value. Only attributes of patient, study and series; empty, and quick, without corrections.
        """
        if self._hides(study_instance_uid):
            return {}
        return self.parts.index.corrected_values(study_instance_uid.encode(), series_instance_uid.encode())

    def revisions(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[SeriesRevision]:
        """The revisions of a study's series, or of one series: see `metadata.series_metadata`."""
        if self._hides(study_instance_uid):
            return []
        series = series_instance_uid.encode() if series_instance_uid is not None else None
        return self.parts.index.revisions(study_instance_uid.encode(), series)

    def select(self, query: Query) -> Selection:
        """As `instances`, in bounded memory; call `gather` to read them. Raises QueryError, StorageFull."""
        return Selection(self.parts.index.select(query, self.scope), Path(self.parts.layout.index), at_once=False)

    def instance(self, sop_instance_uid: str) -> Instance | None:
        """The current instance of a UID; None if there is none."""
        instance = self.parts.index.locate(sop_instance_uid.encode())
        return None if instance is None or self._hides(instance.study_instance_uid) else instance

    def was_deleted(self, sop_instance_uid: str) -> bool:
        """Whether an instance of this UID was stored, and none is now. Nobody can tell in whose scope it was: only who
        sees everything is told."""
        if self.scope is not FULL:
            return False
        instance, newest_stamp = self.parts.index.current_and_newest_stamp(sop_instance_uid.encode())
        return instance is None and newest_stamp > 0

    def was_entity_deleted(self, study_instance_uid: str, series_instance_uid: str | None = None) -> bool:
        """Whether a study or series that is not here was deleted: a series by itself, or with its study. As with
        `was_deleted`."""
        if self.scope is not FULL:
            return False
        index, study = self.parts.index, study_instance_uid.encode()
        if series_instance_uid is not None:
            if index.was_deleted(Level.SERIES, series_instance_uid.encode()):
                return True
            if index.revisions(study):
                return False
        return index.was_deleted(Level.STUDY, study)

    def contents(self, study_instance_uid: str, series_instance_uid: str | None = None) -> Selection:
        """The instances of a study, or of one of its series, as `select` gives them."""
        keys = {tags.StudyInstanceUID: study_instance_uid.encode()}
        if series_instance_uid is not None:
            keys[tags.SeriesInstanceUID] = series_instance_uid.encode()
        return self.select(Query(Level.STUDY if series_instance_uid is None else Level.SERIES, {**keys}))

    def read(self, instance: Instance) -> bytes:
        """The stored data set, whole and checked. Raises CorruptRecord."""
        return self.retrieval.open(instance).whole()

    def pieces(self, instance: Instance) -> Iterator[memoryview]:
        """The same piece by piece; damage raises before the last piece. Each piece is overwritten by the next."""
        return self.retrieval.open(instance).pieces()

    def dataset(self, instance: Instance) -> pydicom.Dataset:
        """The stored data set as pydicom reads it, with its transfer syntax. Raises CorruptRecord."""
        import pydicom

        meta = part10.write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
        return pydicom.dcmread(io.BytesIO(meta + self.read(instance)))

    def holds(self) -> list[Hold]:
        """The legal holds in force, by study."""
        holds = self.parts.index.holds()
        if self.scope is FULL:
            return holds
        return [hold for hold in holds if self.sees(hold.study_instance_uid.decode("utf-8", "replace"))]

    def conflicts(self) -> Iterator[Conflict]:
        """Studies and series whose instances disagree."""
        for conflict in self.parts.index.conflicts():
            if not self._hides(conflict.study_instance_uid.decode("utf-8", "replace")):
                yield conflict

    def conflicts_of(self, study_instance_uid: str) -> list[Conflict]:
        """The conflicts of one study and of its series."""
        if self._hides(study_instance_uid):
            return []
        return self.parts.index.conflicts_of(study_instance_uid.encode())
