"""/api/corrections and /api/conflicts: corrected attributes, and instances of a study or series that disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.access import Action
from engine.archive.admin import corrections
from engine.archive.questions import path_of
from engine.dicom import tags
from engine.errors import RequestError
from engine.web.api import reach
from engine.web.api.bodies import (
    Correction,
    CorrectPatient,
    CorrectSeries,
    CorrectStudy,
    Merge,
    Move,
    ReasonBody,
    Values,
)
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of, switch_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.view import View
    from engine.web.request import Request


async def listed(request: Request) -> web.Response:
    """Every correction and undo, oldest first."""
    return await _page(request, "corrections", corrections.list_all)


async def conflicts(request: Request) -> web.Response:
    """Studies and series whose instances disagree."""
    return await _page(request, "conflicts", corrections.conflicts)


async def _page(request: Request, name: str, rows: Callable[..., Iterator[dict[str, Any]]]) -> web.Response:
    check_parameters(request, ("values", "limit", "offset"))
    shows_values = switch_of(request, "values")
    if shows_values:
        request.require(Action.QUERY)
    limit, offset = page_of(request)
    work = partial(_read, name, rows, request.view(Action.QUERY), shows_values, limit, offset)
    return answer(await request.engine.pools.index.run(work))


def _read(
    name: str, rows: Callable[..., Iterator[dict[str, Any]]], view: View, values: bool, limit: int, offset: int
) -> dict[str, Any]:
    return page(name, rows(view, values=values), limit, offset)


async def make(request: Request) -> web.Response:
    """Makes a correction; answers with its number, by which it can be undone."""
    body: Correction = await body_of(request, Correction)  # type: ignore[arg-type]
    work = partial(_make, request, body)
    return answer(await request.engine.pools.slow.run(work), 201)


def _make(request: Request, body: Correction) -> dict[str, Any]:
    archive, by = request.engine.archive, request.principal
    _check_reach(request, body)
    match body:
        case Merge():
            return corrections.merge(
                archive, body.patient, body.into, in_advance=body.in_advance, actor=by, reason=body.reason
            )
        case Move():
            return corrections.move(archive, body.studies, body.into, actor=by, reason=body.reason)
        case CorrectPatient():
            sets = _tags(request, body.sets)
            return corrections.correct(archive, sets, patient=body.patient, actor=by, reason=body.reason)
        case CorrectStudy():
            return corrections.correct(
                archive, _tags(request, body.sets), study=body.study, actor=by, reason=body.reason
            )
        case CorrectSeries():
            sets = _tags(request, body.sets)
            return corrections.correct(
                archive, sets, series=body.series, study=body.study, actor=by, reason=body.reason
            )
    return corrections.split(archive, body.studies, body.new, _tags(request, body.sets), actor=by, reason=body.reason)


def _check_reach(request: Request, body: Correction) -> None:
    """Raises NotFound if the client may not correct something that the correction changes."""
    view = request.view(Action.CORRECT)
    match body:
        case Merge():
            reach.patient(request, Action.CORRECT, body.patient)
            reach.patient(request, Action.CORRECT, body.into)
        case Move():
            reach.studies(view, body.studies)
            reach.patient(request, Action.CORRECT, body.into)
        case CorrectPatient():
            reach.patient(request, Action.CORRECT, body.patient)
        case CorrectStudy():
            reach.studies(view, [body.study])
        case CorrectSeries():
            reach.entities(view, tags.SeriesInstanceUID, [body.series])
            reach.studies(view, [body.study] if body.study else [])
        case _:
            reach.studies(view, body.studies)


def _tags(request: Request, sets: Values) -> dict[int, str]:
    """The values by tag instead of name. Raises QueryError, RequestError."""
    values: dict[int, str] = {}
    for name, value in sets.items():
        path = path_of(name, request.engine.archive.schema)
        if len(path) > 1:
            raise RequestError(f"{name}: single attributes within sequences cannot be corrected")
        values[path[0]] = value
    return values


async def undo(request: Request) -> web.Response:
    """Undoes a correction."""
    body = await body_of(request, ReasonBody)
    reach.everything(request, Action.CORRECT)
    work = partial(
        corrections.undo,
        request.engine.archive,
        request.path_values["number"],
        actor=request.principal,
        reason=body.reason,
    )
    return answer(await request.engine.pools.slow.run(work), 201)
