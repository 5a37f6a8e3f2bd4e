"""What linked orders supply, for those who are chosen to get it: in answers of queries, and in what is sent.

    of_series   what a study and one of its series lack, and its orders say (`orders.supplying`)
    steps       the matches of a query with it; first those that match only by it

With `[worklist] supply = "corrections"` studies show it to everybody, as corrections (`lifecycle.supplied`). What is
made here is computed from the links in force at each question, and leaves no trace in the archive.

A query matches a supplied accession number only as a whole, without wild cards; what else is supplied is returned, and
not matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from engine.archive.hospital import lacking
from engine.archive.lifecycle import supplied
from engine.dicom import tags
from engine.index.format.types import Level, Match, Query
from engine.orders import supplying

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.view import View
    from engine.index.format.types import KeyValue
    from engine.index.query.explanation import Explanation
    from engine.orders.registry import Orders

MATCHED_MAX: Final = 500
"""Studies that match only by what is supplied; an accession number is that of one order, or of a few."""

_OF_STUDY: Final = (tags.AccessionNumber, tags.IssuerOfAccessionNumberSequence, tags.OtherPatientIDsSequence)
_OF_SERIES: Final = tags.RequestAttributesSequence
_NOT_ASKED: Final = b"-"


class Supplies:
    """Reads the registry and the index; quick, in any thread while the registry is open."""

    def __init__(self, archive: Archive, orders: Orders) -> None:
        self._archive = archive
        self._orders = orders

    def of_series(self, study_instance_uid: str, series_instance_uid: str) -> dict[int, bytes]:
        """Tag → UTF-8, sequences in Explicit VR LE. Raises OrdersError, IndexError_."""
        of_study, of_series = self._of_study(study_instance_uid)
        if of_series:
            with self._archive.parts.index.snapshot() as snapshot:
                stated = snapshot.stated_series(study_instance_uid.encode(), series_instance_uid.encode()) or {}
            of_series = {tag: value for tag, value in of_series.items() if not stated.get(tag)}
        return of_study | of_series

    def _of_study(self, study_instance_uid: str) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """What the study lacks, and what its series may lack."""
        supply = self._orders.supply_of(study_instance_uid)
        if not supply.study and not supply.series and not supply.identifiers:
            return {}, {}
        with self._archive.parts.index.snapshot() as snapshot:
            stated = snapshot.stated_study(study_instance_uid.encode())
        if stated is None:
            return {}, {}
        of_study, of_series = lacking(supply, stated)
        return supplied.allowed(of_study), supplied.allowed(of_series)

    def steps(self, view: View, query: Query, explanation: Explanation | None) -> Iterator[Match | None]:
        """As `View.find_steps`, with what is supplied. Raises QueryError, OrdersError, also later."""
        if query.level < Level.STUDY or query.is_keyed or query.after:
            return view.find_steps(query, explanation)
        keys: dict[int, KeyValue] = {tags.StudyInstanceUID: b"", **query.keys}
        if query.level >= Level.SERIES and _OF_SERIES in keys:
            keys.setdefault(tags.SeriesInstanceUID, b"")
        return self._steps(view, replace(query, keys=keys), explanation)

    def _steps(self, view: View, query: Query, explanation: Explanation | None) -> Iterator[Match | None]:
        count = given = 0
        for match in self._matched_only(view, query):
            if match is None:
                yield None
                continue
            count += 1
            if count > query.offset and (query.limit is None or given < query.limit):
                given += 1
                yield match
            elif count > query.offset and not query.count_max:
                return
            else:
                yield None
        if query.count_max and query.limit is not None and explanation is not None:
            explanation.beyond += max(count - query.offset - given, 0)
        limit = None if query.limit is None else query.limit - given
        rest = replace(query, offset=max(query.offset - count, 0), limit=limit)
        for match in view.find_steps(rest, explanation):
            if match is not None:
                self._fill(match)
            yield match

    def _matched_only(self, view: View, query: Query) -> Iterator[Match | None]:
        """The matches that do not state the accession number, and are supplied with it; one at a time, as `steps`."""
        asked = query.keys.get(tags.AccessionNumber, b"")
        accessions = set(_texts(asked)) if isinstance(asked, bytes) else set()
        if not accessions or any(set(each) & set('*?"') for each in accessions):
            return
        with self._orders.read() as reading:
            studies = set(islice(supplying.studies_of(reading, accessions), MATCHED_MAX))
        own = query.keys[tags.StudyInstanceUID]
        if isinstance(own, bytes) and (named := set(_texts(own)) - {"*"}):
            studies &= named
        if not studies:
            return
        uids = "\\".join(sorted(studies)).encode()
        keys: dict[int, KeyValue] = {**query.keys, tags.StudyInstanceUID: uids, tags.AccessionNumber: b""}
        for match in view.find_steps(replace(query, keys=keys, offset=0, limit=None, count_max=0, relational=True)):
            if match is not None and not match.attributes.get(tags.AccessionNumber):
                self._fill(match)
                is_supplied = match.attributes.get(tags.AccessionNumber, b"").decode("utf-8", "replace") in accessions
                yield match if is_supplied else None
            else:
                yield None

    def _fill(self, match: Match) -> None:
        """Adds what is wanted and lacking."""
        attributes = match.attributes
        wants_series = match.level >= Level.SERIES and not attributes.get(_OF_SERIES, _NOT_ASKED)
        if not wants_series and all(attributes.get(tag, _NOT_ASKED) for tag in _OF_STUDY):
            return
        (study,) = _texts(attributes.get(tags.StudyInstanceUID, b"")) or ("",)
        if wants_series:
            (series,) = _texts(attributes.get(tags.SeriesInstanceUID, b"")) or ("",)
            values = self.of_series(study, series)
        else:
            values = self._of_study(study)[0]
        for tag, value in values.items():
            if not attributes.get(tag, _NOT_ASKED):
                attributes[tag] = value


class Finder(Protocol):
    """Who answers queries: a view, or one with what is supplied."""

    def find_steps(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        """See `View.find_steps`."""


class SuppliedFinder:
    """The queries of a view, with what is supplied."""

    def __init__(self, supplies: Supplies, view: View) -> None:
        self._supplies = supplies
        self._view = view

    def find_steps(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        """See `View.find_steps`."""
        return self._supplies.steps(self._view, query, explanation)


def _texts(value: bytes) -> list[str]:
    texts = (each.strip(" \0") for each in value.decode("utf-8", "replace").split("\\"))
    return [each for each in texts if each]
