"""/fhir/ImagingStudy: read and search (imagingstudy.html).

    GET  /fhir/ImagingStudy/{study}       with its series and instances
    GET  /fhir/ImagingStudy?…             a page of studies with their series, the newest first
    POST /fhir/ImagingStudy/_search       the same, with the parameters in the body, where no log sees them

The cursor of a page is that of `/api/studies`: a place in the order, sealed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.access import Action, Records
from engine.archive.questions import Bookmark, Explanation, Level, Order
from engine.dicom import tags
from engine.fhir import bundle, outcome
from engine.fhir.conformance import endpoint
from engine.fhir.datatypes import Attributes
from engine.fhir.elements import only
from engine.fhir.imaging_study import STUDY_ATTRIBUTES, imaging_study, patient_key
from engine.fhir.patient import PATIENT_ATTRIBUTES, patient
from engine.fhir.resource_id import spell
from engine.fhir.search import IMAGING_STUDY, Search
from engine.web.api import window_cursor
from engine.web.api.studies import cursor_of
from engine.web.fhir import asking, reports
from engine.web.fhir.answers import answer, asked_release, read_answer, root_of
from engine.web.fhir.parameters import page_url, search_of
from engine.web.route import DICOMWEB
from engine.web.stored import missing, uid_of
from engine.web.window import Window, count_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.fhir.datatypes import Json
    from engine.fhir.release import Release
    from engine.web.request import Request


async def read(request: Request) -> web.Response:
    """One study. Raises NotFound, Gone."""
    release, view = asked_release(request), request.view(Action.QUERY)
    uid = uid_of(request, "study")
    asked = asking.query(view, Level.STUDY, Search(keys={tags.StudyInstanceUID: uid}), STUDY_ATTRIBUTES)
    study = await asking.read_study(request, view, asked)
    if study is None:
        raise missing(request, uid, None)
    return read_answer(request, imaging_study(study, release), release)


async def search(request: Request) -> web.Response:
    """A page of studies. Raises RequestError, Gone, TooLarge."""
    release, view = asked_release(request), request.view(Action.QUERY)
    asked = await search_of(request, IMAGING_STUDY)
    order = Order(tags.StudyDate, asked.is_descending)
    links = [("self", page_url(request, "ImagingStudy", None))]
    total: int | None = None
    studies: list[Attributes] = []
    if asked.is_empty:
        total = 0 if asked.wants_total else None
    else:
        question = asking.query(view, Level.STUDY, asked, {*STUDY_ATTRIBUTES, *PATIENT_ATTRIBUTES})
        if asked.wants_total:
            total, _ = await count_of(request, view, question)
        if asked.count:
            after = _after(request, asked, order)
            found = Window(
                view.ordered_steps(question, order, after, Explanation()),
                asked.count,
                lambda match: studies.append(match.attributes),
            )
            await found.search(request)
            cursor = cursor_of(request, found, order, after)
            if cursor is not None:
                links.append(("next", page_url(request, "ImagingStudy", cursor)))
    others = _included(request, asked, studies, release)
    if "reports" in asked.includes:
        uids = [each[tags.StudyInstanceUID].decode("utf-8", "replace") for each in studies]
        others = [*await reports.of_studies(request, view, uids, release), *others]
    resources = [imaging_study(each, release) for each in await asking.with_series(request, view, studies)]
    resources = [only(each, asked.elements) for each in resources]
    return answer(request, bundle.searchset(resources, others, links, root_of(request), total), release)


def _included(request: Request, asked: Search, studies: list[Attributes], release: Release) -> list[Json]:
    others: list[Json] = []
    if "patient" in asked.includes and request.allowed(Action.QUERY, Records("Patient", "r")):
        patients = {spell(patient_key(each)): each for each in studies}
        others += [patient(each) for resource_id, each in patients.items() if resource_id]
    if "endpoint" in asked.includes and studies:
        others.append(endpoint(release, request.root + DICOMWEB))
    if asked.ignored:
        others.append(outcome.of_warning(f"ignored: {', '.join(asked.ignored)}"))
    return others


def _after(request: Request, asked: Search, order: Order) -> Bookmark | None:
    if asked.cursor is None:
        return None
    return window_cursor.opened(request.engine.secret, order, request.engine.archive.epoch_id(), asked.cursor)
