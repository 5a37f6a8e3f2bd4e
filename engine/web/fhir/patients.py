"""/fhir/Patient: read and search the patients whose studies are here (patient.html).

    GET  /fhir/Patient/{id}          the id as `fhir.resource_id` spells it
    GET  /fhir/Patient?…             a page of patients; POST /fhir/Patient/_search has the parameters in the body

A page is a number of patients to skip: the order is that of arrival, and stable while nothing is stored or deleted.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.access import Action
from engine.archive.questions import Level
from engine.dicom import tags
from engine.errors import RequestError
from engine.fhir import bundle, outcome
from engine.fhir.elements import only
from engine.fhir.imaging_study import patient_key
from engine.fhir.patient import PATIENT_ATTRIBUTES, patient
from engine.fhir.resource_id import read as read_id
from engine.fhir.search import PAGE, PATIENT, Search
from engine.web.errors import NotFound
from engine.web.fhir import asking
from engine.web.fhir.answers import answer, asked_release, read_answer, root_of
from engine.web.fhir.parameters import page_url, search_of
from engine.web.window import count_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def read(request: Request) -> web.Response:
    """One patient. Raises NotFound."""
    release, view = asked_release(request), request.view(Action.QUERY)
    try:
        key = read_id(request.path_values["id"])
        asked = asking.query(view, Level.PATIENT, Search(keys={tags.PatientID: key.patient_id}), PATIENT_ATTRIBUTES)
    except RequestError:
        raise NotFound("there is no patient with this id") from None
    # A Patient ID with a wild card would find others too.
    found = [each for each in await asking.matches(request, view, asked) if patient_key(each) == key]
    if not found:
        raise NotFound("there is no patient with this id")
    return read_answer(request, patient(found[-1]), release)


async def search(request: Request) -> web.Response:
    """A page of patients. Raises RequestError, TooLarge."""
    release, view = asked_release(request), request.view(Action.QUERY)
    asked = await search_of(request, PATIENT)
    if not re.fullmatch(r"\d{1,9}", asked.cursor or "0", re.ASCII):
        raise RequestError(f"{PAGE}: is none of this server's")
    skipped = int(asked.cursor or "0")
    links, patients, total = [("self", page_url(request, "Patient", None))], [], 0 if asked.wants_total else None
    if not asked.is_empty:
        question = asking.query(view, Level.PATIENT, asked, PATIENT_ATTRIBUTES)
        if asked.wants_total:
            total, _ = await count_of(request, view, question)
        window = replace(question, offset=skipped, limit=asked.count + 1)
        patients = await asking.matches(request, view, window) if asked.count else []
        if len(patients) > asked.count:
            links.append(("next", page_url(request, "Patient", str(skipped + asked.count))))
    resources = [only(patient(each), asked.elements) for each in patients[: asked.count]]
    others = [outcome.of_warning(f"ignored: {', '.join(asked.ignored)}")] if asked.ignored else []
    return answer(request, bundle.searchset(resources, others, links, root_of(request), total), release)
