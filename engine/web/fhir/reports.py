"""/fhir/DiagnosticReport: read and search the reports that are stored (diagnosticreport.html).

    GET  /fhir/DiagnosticReport/{id}       the id is the SOP Instance UID
    GET  /fhir/DiagnosticReport?…          a page of reports, those of the newest study first
    POST /fhir/DiagnosticReport/_search    the same, with the parameters in the body

    _page=PLACE.STUDY/UID    behind PLACE, which `window_cursor` seals, and behind a report of the first study there;
                             without STUDY/UID from that study on, without PLACE from the start

A page may have fewer reports than asked for, or none, when few of many match: follow the link `next`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from engine.access import Action, Records
from engine.archive.feed.event import time_text
from engine.archive.questions import Bookmark, Explanation, Level, Match, Order
from engine.dicom import tags
from engine.errors import RequestError
from engine.fhir import bundle, outcome
from engine.fhir.diagnostic_report import FORMS, REPORT_ATTRIBUTES, Report, diagnostic_report
from engine.fhir.elements import only
from engine.fhir.imaging_study import STUDY_ATTRIBUTES, imaging_study, patient_key
from engine.fhir.patient import PATIENT_ATTRIBUTES, patient
from engine.fhir.report_search import DIAGNOSTIC_REPORT, is_wanted
from engine.fhir.resource_id import spell
from engine.fhir.search import PAGE, Search
from engine.web.api import window_cursor
from engine.web.errors import Gone, NotFound
from engine.web.fhir import asking
from engine.web.fhir.answers import answer, asked_release, read_answer, root_of
from engine.web.fhir.parameters import page_url, search_of
from engine.web.route import DICOMWEB
from engine.web.stored import uid_of
from engine.web.window import Window

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.view import View
    from engine.fhir.datatypes import Attributes, Json
    from engine.fhir.release import Release
    from engine.web.request import Request

CLASSES: Final = "\\".join(FORMS)
REPORTS_MAX: Final = 1000
"""Reports of one study in an answer."""
NAME_CHARACTERS_MAX: Final = 300
_ALL: Final = frozenset((*REPORT_ATTRIBUTES, *PATIENT_ATTRIBUTES))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page begins: behind a study, and behind a report of the one that follows."""

    study: Bookmark | None
    report: str = ""
    """Study Instance UID / SOP Instance UID."""


async def read(request: Request) -> web.Response:
    """One report. Raises NotFound, Gone."""
    release, view, uid = asked_release(request), request.view(Action.QUERY), uid_of(request, "id")
    found: list[Report] = []
    await asking.run(request, _collected(view, {tags.SOPInstanceUID: uid}, 1, found))
    if not found:
        error = Gone if request.view(Action.RETRIEVE).was_deleted(uid) else NotFound
        raise error(f"there is no report {uid}")
    return read_answer(request, diagnostic_report(found[0], release, request.root + DICOMWEB), release)


async def search(request: Request) -> web.Response:
    """A page of reports. Raises RequestError, Gone, TooLarge."""
    release, view = asked_release(request), request.view(Action.QUERY)
    asked = await search_of(request, DIAGNOSTIC_REPORT)
    links = [("self", page_url(request, "DiagnosticReport", None))]
    total: int | None = 0 if asked.wants_total else None
    reports: list[Report] = []
    if not asked.is_empty:
        if asked.wants_total:
            total = await _count(request, view, asked)
        if asked.count:
            reports, behind = await _page(request, view, asked)
            if behind is not None:
                links.append(("next", page_url(request, "DiagnosticReport", behind)))
    resources = [diagnostic_report(each, release, request.root + DICOMWEB) for each in reports]
    resources = [only(each, asked.elements) for each in resources]
    others = await _included(request, view, asked, reports, release)
    return answer(request, bundle.searchset(resources, others, links, root_of(request), total), release)


async def of_studies(request: Request, view: View, uids: Sequence[str], release: Release) -> list[Json]:
    """The reports of some studies; none for who may not search for reports."""
    if not uids or not request.allowed(Action.QUERY, Records("DiagnosticReport", "r")):
        return []
    found: list[Report] = []
    keys = {tags.StudyInstanceUID: "\\".join(uids)}
    await asking.run(request, _collected(view, keys, REPORTS_MAX * len(uids), found))
    return [diagnostic_report(each, release, request.root + DICOMWEB) for each in found]


def reports_of(view: View, uids: Sequence[str]) -> Iterator[Report | None]:
    """The reports of some studies, for a thread; None: the caller may do other work."""
    found: list[Report] = []
    for _ in _collected(view, {tags.StudyInstanceUID: "\\".join(uids)}, REPORTS_MAX * len(uids), found):
        yield None
    yield from found


async def _page(request: Request, view: View, asked: Search) -> tuple[list[Report], str | None]:
    """Reports in the order of their studies, and the place behind them."""
    order, start = Order(tags.StudyDate, asked.is_descending), _place_of(request, asked)
    question = asking.query(view, Level.STUDY, _of_studies(asked), STUDY_ATTRIBUTES)
    if tags.SOPInstanceUID in asked.keys:
        question = replace(question, relational=True)
    before: list[tuple[str, Bookmark | None]] = []

    def add(match: Match) -> None:
        uid = match.attributes[tags.StudyInstanceUID].decode("utf-8", "replace")
        before.append((uid, window.last or start.study))

    window = Window(view.ordered_steps(question, order, start.study, Explanation()), asked.count + 1, add)
    await window.search(request)
    uids = [uid for uid, _ in before]
    found: list[Report] = []
    if uids:
        keys = {tags.StudyInstanceUID: "\\".join(uids), **_of_instances(asked)}
        await asking.run(request, _collected(view, keys, REPORTS_MAX * len(uids), found))
    by_study: dict[str, list[Report]] = {uid: [] for uid in uids}
    for report in found:
        by_study[_uid_of(report, tags.StudyInstanceUID)].append(report)
    page: list[Report] = []
    for uid, place in before:
        for report in sorted(by_study[uid], key=_name_of):
            is_behind = start.report.partition("/")[0] == uid and _name_of(report) <= start.report
            if is_behind or not is_wanted(asked, report.attributes):
                continue
            if len(page) == asked.count:
                last = _name_of(page[-1])
                return page, _sealed(request, order, _Place(place, last if last.startswith(f"{uid}/") else ""))
            page.append(report)
    if window.is_complete:
        return page, None
    return page, _sealed(request, order, _Place(window.last or start.study))


def _of_studies(asked: Search) -> Search:
    """The search for studies that have such reports."""
    search = Search(keys=dict(asked.keys))
    search.add(tags.SOPClassesInStudy, list(FORMS))
    return search


def _of_instances(asked: Search) -> dict[int, str]:
    """What is asked of the reports of a study."""
    uids = asked.keys.get(tags.SOPInstanceUID)
    return {tags.SOPInstanceUID: uids} if uids else {}


async def _count(request: Request, view: View, asked: Search) -> int:
    """How many reports match. Raises TooLarge."""
    count = 0

    def steps() -> Iterator[None]:
        nonlocal count
        for match in view.find_steps(asking.below(view, Level.IMAGE, {tags.SOPClassUID: CLASSES, **asked.keys}, _ALL)):
            count += match is not None and is_wanted(asked, match.attributes)
            yield

    await asking.run(request, steps())
    return count


def _collected(view: View, keys: dict[int, str], limit: int, found: list[Report]) -> Iterator[None]:
    """Adds the reports with these keys, each with the time of its arrival."""
    question = asking.below(view, Level.IMAGE, {tags.SOPClassUID: CLASSES, **keys}, _ALL, limit)
    for match in view.find_steps(question):
        if match is not None:
            instance = view.instance(match.attributes[tags.SOPInstanceUID].decode("utf-8", "replace"))
            if instance is not None:  # else it has been deleted just now
                found.append(Report(match.attributes, time_text(instance.received_ns)))
        yield


async def _included(
    request: Request, view: View, asked: Search, reports: Sequence[Report], release: Release
) -> list[Json]:
    others: list[Json] = []
    if "patient" in asked.includes and request.allowed(Action.QUERY, Records("Patient", "r")):
        patients = {spell(patient_key(each.attributes)): each.attributes for each in reports}
        others += [patient(each) for resource_id, each in patients.items() if resource_id]
    uids = list(dict.fromkeys(_uid_of(each, tags.StudyInstanceUID) for each in reports))
    if uids and "study" in asked.includes and request.allowed(Action.QUERY, Records("ImagingStudy", "r")):
        keys = Search(keys={tags.StudyInstanceUID: "\\".join(uids)})
        found: list[Attributes] = await asking.matches(
            request, view, asking.query(view, Level.STUDY, keys, STUDY_ATTRIBUTES)
        )
        others += [imaging_study(each, release) for each in await asking.with_series(request, view, found)]
    if asked.ignored:
        others.append(outcome.of_warning(f"ignored: {', '.join(asked.ignored)}"))
    return others


def _place_of(request: Request, asked: Search) -> _Place:
    """Raises RequestError, Gone."""
    if asked.cursor is None:
        return _Place(None)
    sealed, _, report = asked.cursor.partition(".")
    if len(report) > NAME_CHARACTERS_MAX:
        raise RequestError(f"{PAGE}: is none of this server's")
    if not sealed:
        return _Place(None, report)
    order = Order(tags.StudyDate, asked.is_descending)
    return _Place(window_cursor.opened(request.engine.secret, order, request.engine.archive.epoch_id(), sealed), report)


def _sealed(request: Request, order: Order, place: _Place) -> str:
    if place.study is None:
        return f".{place.report}"
    epoch = request.engine.archive.epoch_id()
    return f"{window_cursor.sealed(request.engine.secret, order, epoch, place.study)}.{place.report}"


def _uid_of(report: Report, tag: int) -> str:
    return report.attributes[tag].decode("utf-8", "replace")


def _name_of(report: Report) -> str:
    """Study Instance UID / SOP Instance UID: the order within a study."""
    return f"{_uid_of(report, tags.StudyInstanceUID)}/{_uid_of(report, tags.SOPInstanceUID)}"
