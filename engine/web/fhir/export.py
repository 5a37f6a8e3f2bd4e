"""/fhir/$export: everything that a client may see as ndjson, for research and analytics (Bulk Data Access 2.0).

    GET    /fhir/$export, /fhir/Patient/$export     202; Content-Location: the status      Prefer: respond-async
    GET    /fhir/export-status/{id}                 200: which files there are, one a kind of resource
    GET    /fhir/export-status/{id}/{kind}          the file, made while it is sent
    DELETE /fhir/export-status/{id}                 202: it is forgotten; a file on its way is sent to its end

_type=ImagingStudy,Patient,DiagnosticReport    _since=INSTANT: what arrived then or later, and patients of such studies

There is nothing to wait for, and no copy of patients' data on the disk: a file has what its reader may see when it is
read. Whoever loses a right meanwhile gets no further line: the answer breaks off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine import audit
from engine.access import Action, Records
from engine.archive.exports import Export
from engine.archive.questions import Level
from engine.audit import Event, Kind
from engine.dicom import tags
from engine.errors import NotAllowed, RequestError
from engine.fhir.diagnostic_report import diagnostic_report
from engine.fhir.imaging_study import STUDY_ATTRIBUTES, imaging_study, patient_key
from engine.fhir.patient import PATIENT_ATTRIBUTES, patient
from engine.fhir.release import Release
from engine.fhir.resource_id import PatientKey
from engine.fhir.search import Search
from engine.web.errors import NotFound
from engine.web.fhir import asking, reports
from engine.web.fhir.answers import asked_release, root_of
from engine.web.route import DICOMWEB
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from engine.archive.exports import ExportFiles
    from engine.archive.view import View
    from engine.fhir.datatypes import Attributes, Json
    from engine.web.request import Request

NDJSON: Final = "application/fhir+ndjson"
STATUS: Final = "/export-status"
KINDS: Final = ("ImagingStudy", "Patient", "DiagnosticReport")
STUDIES_AT_ONCE: Final = 50
"""Studies whose series are asked for with one query."""
BATCH_BYTES: Final = 256 << 10
"""Lines are sent together up to this size."""

_FORMATS: Final = ("application/fhir+ndjson", "application/ndjson", "ndjson")
_PARAMETERS: Final = ("_type", "_since", "_outputFormat")
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)


async def begin(request: Request) -> web.Response:
    """Keeps what is asked for. Raises RequestError, JobsFull."""
    release = asked_release(request)
    if "respond-async" not in request.headers.get("Prefer", ""):
        raise RequestError("Prefer: must have respond-async")
    is_lenient = "handling=lenient" in request.headers.get("Prefer", "").replace(" ", "")
    others = sorted(set(request.query) - set(_PARAMETERS))
    if others and not is_lenient:
        raise RequestError(f"there are only the parameters {', '.join(_PARAMETERS)}")
    output_format = request.query.get("_outputFormat", _FORMATS[0]).replace(" ", "+")
    if output_format not in _FORMATS:
        raise RequestError(f"_outputFormat: must be {_FORMATS[0]}")
    kinds = tuple(dict.fromkeys(request.query.get("_type", ",".join(KINDS)).split(",")))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        if not is_lenient:
            raise RequestError(f"_type: {unknown[0][:40]!r} cannot be exported; {', '.join(KINDS)} can")
        kinds = tuple(kind for kind in kinds if kind in KINDS)
    keep = partial(
        _files(request).add,
        by=_owner(request),
        request=f"{request.root}{request.raw_path}",
        kinds=kinds,
        since=_since_of(request),
        release=release.value,
    )
    export = await request.engine.pools.reads.run(keep)
    return web.Response(status=202, headers={"Content-Location": _url(request, export), "Cache-Control": "no-store"})


async def status(request: Request) -> web.Response:
    """Which files there are. Raises NotFound."""
    export = await _loaded(request)
    document = {
        "transactionTime": datetime.fromtimestamp(export.created_s, UTC).isoformat(timespec="milliseconds"),
        "request": export.request,
        "requiresAccessToken": bool(request.principal.session),
        "output": [{"type": kind, "url": f"{_url(request, export)}/{kind}"} for kind in export.kinds],
        "error": [],
    }
    expires = datetime.fromtimestamp(export.created_s + 24 * 3600, UTC)
    headers = {"Cache-Control": "no-store", "Expires": f"{expires:%a, %d %b %Y %H:%M:%S} GMT"}
    return web.Response(body=orjson.dumps(document), content_type="application/json", headers=headers)


async def cancel(request: Request) -> web.Response:
    """Forgets an export. Raises NotFound."""
    export = await _loaded(request)
    await request.engine.pools.reads.run(partial(_files(request).remove, export.id))
    return web.Response(status=202)


async def file(request: Request) -> web.StreamResponse:
    """Sends all resources of a kind. Raises NotFound, NotAllowed, AuditUnavailable."""
    export, kind = await _loaded(request), request.path_values["kind"]
    if kind not in export.kinds:
        raise NotFound("this export has no such file")
    target = Records(kind, "s")
    request.require(Action.QUERY, target)
    request.target = target
    scope = request.scope(Action.QUERY)
    await audit.begin(
        Event(kind=Kind.EXPORTED, principal=request.principal, action="FHIR $export", detail=f"{kind} {export.since}")
    )
    view, release = request.view(Action.QUERY), Release(export.release)
    if kind == "DiagnosticReport":
        lines = _reports(view, export, release, request.root + DICOMWEB)
    else:
        lines = _studies(view, export, release) if kind == "ImagingStudy" else _patients(view, export)
    response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    is_over = request.is_head
    while not is_over:
        batch: list[bytes] = []
        is_over = await request.engine.pools.index.run(partial(_slice, lines, batch))
        if request.scope(Action.QUERY) != scope:
            raise NotAllowed("what may be exported has changed")
        if batch:
            await response.write(b"".join(batch))
    await response.write_eof()
    return response


def _slice(lines: Iterator[Json | None], batch: list[bytes]) -> bool:
    """Makes lines for SLICE_S. Returns whether these were the last ones."""
    start_s, length = perf_counter(), 0
    for line in lines:
        if line is not None:
            batch.append(orjson.dumps(line) + b"\n")
            length += len(batch[-1])
        if length >= BATCH_BYTES or perf_counter() - start_s >= SLICE_S:
            return False
    return True


def _studies(view: View, export: Export, release: Release) -> Iterator[Json | None]:
    group: list[Attributes] = []
    question = asking.query(view, Level.STUDY, Search(), {*STUDY_ATTRIBUTES})
    for match in view.find_steps(question):
        yield None
        if match is not None:
            group.append(match.attributes)
        if len(group) >= STUDIES_AT_ONCE:
            yield from _made(view, group, export, release)
            group = []
    yield from _made(view, group, export, release)


def _made(view: View, group: list[Attributes], export: Export, release: Release) -> Iterator[Json | None]:
    for study in asking.completed(view, group):
        yield None
        if study is not None and _is_since(study.last_updated, export.since):
            yield imaging_study(study, release)


def _reports(view: View, export: Export, release: Release, dicomweb: str) -> Iterator[Json | None]:
    with_reports = Search(keys={tags.SOPClassesInStudy: reports.CLASSES})
    uids: list[str] = []
    for match in view.find_steps(asking.query(view, Level.STUDY, with_reports, (tags.StudyInstanceUID,))):
        yield None
        if match is not None:
            uids.append(match.attributes[tags.StudyInstanceUID].decode("utf-8", "replace"))
        if len(uids) >= STUDIES_AT_ONCE:
            yield from _reports_of(view, uids, export, release, dicomweb)
            uids = []
    if uids:
        yield from _reports_of(view, uids, export, release, dicomweb)


def _reports_of(view: View, uids: list[str], export: Export, release: Release, dicomweb: str) -> Iterator[Json | None]:
    for report in reports.reports_of(view, uids):
        yield None
        if report is not None and _is_since(report.received, export.since):
            yield diagnostic_report(report, release, dicomweb)


def _patients(view: View, export: Export) -> Iterator[Json | None]:
    """The patients as their newest studies have them; of one whose id cannot be spelt there is no resource."""
    recent = _recent_patients(view, export) if export.since else None
    question = asking.query(view, Level.PATIENT, Search(), PATIENT_ATTRIBUTES)
    keys: set[int] = set()  # hashes: of a million patients keys would take four times the memory
    if recent is not None:
        for key in recent:
            yield None
            if key is not None:
                keys.add(hash(key))
    for match in view.find_steps(question):
        yield None
        if match is not None and (recent is None or hash(patient_key(match.attributes)) in keys):
            resource = patient(match.attributes)
            if "id" in resource:
                yield resource


def _recent_patients(view: View, export: Export) -> Iterator[PatientKey | None]:
    attributes = (tags.StudyInstanceUID, tags.PatientID, tags.IssuerOfPatientID)
    for match in view.find_steps(asking.query(view, Level.STUDY, Search(), attributes)):
        yield None
        if match is not None and _is_since(asking.last_updated(view, match.attributes), export.since):
            yield patient_key(match.attributes)


def _is_since(moment: str, since: str) -> bool:
    if not since:
        return True
    return bool(moment) and datetime.fromisoformat(moment) >= datetime.fromisoformat(since)


def _since_of(request: Request) -> str:
    text = request.query.get("_since", "").replace(" ", "+")
    if not text:
        return ""
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError(text)
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        raise RequestError("_since: is not an instant as 2026-01-02T10:11:12Z") from None


async def _loaded(request: Request) -> Export:
    """The export of the path; somebody else's does not exist. Raises NotFound."""
    load = partial(_files(request).load, request.path_values["id"])
    export = await request.engine.pools.reads.run(load)
    if export is None or export.by != _owner(request):
        raise NotFound("there is no such export; one lasts for a day")
    return export


def _owner(request: Request) -> str:
    """Who asks. Tokens change from hour to hour: an export is its user's."""
    return request.principal.actor


def _files(request: Request) -> ExportFiles:
    return request.engine.archive.export_files()


def _url(request: Request, export: Export) -> str:
    return f"{root_of(request)}{STATUS}/{export.id}"
