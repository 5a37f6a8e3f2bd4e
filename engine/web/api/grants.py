"""/api/grants: single studies and patients for users and roles; /api/break-glass: emergency access to one of them."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from engine import audit, log
from engine.access import Action
from engine.access.roles import roles_of
from engine.accounts import grants, users
from engine.accounts.records import GrantRow
from engine.audit import Alert, Event
from engine.errors import AccountsRefused
from engine.web.api.accounts import Text
from engine.web.api.bodies import UID, Reason, ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of
from engine.web.api.moments import seconds_of, text_of
from engine.web.api.shares import PatientName
from engine.web.errors import HttpError, NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

logger = log.get("web.grants")

HOURS: Final = 1.0
"""How long an emergency access lasts if nothing else is asked for."""


class BreakGlass(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The study or patient that somebody needs now, and why."""

    study: UID | None = None
    patient: PatientName | None = None
    reason: Reason
    hours: Annotated[float, Meta(gt=0, le=8)] = HOURS


class NewGrant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Studies or a patient for a user or a role."""

    to: Literal["user", "role"] = "user"
    name: Text
    studies: Annotated[tuple[UID, ...], Meta(max_length=1000)] = ()
    patient: PatientName | None = None
    actions: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=20)] = ("query", "retrieve")
    until: datetime | None = None
    reason: Reason = ""


async def break_glass(request: Request) -> web.Response:
    """Gives oneself a study or patient for some hours. It is reviewed afterwards."""
    check_parameters(request)
    body = await body_of(request, BreakGlass)
    principal = request.principal
    if not principal.name:
        raise HttpError(HTTPStatus.CONFLICT, "emergency access is for users who have logged in")
    if (body.study is None) == (body.patient is None):
        raise AccountsRefused("name one study, or one patient")
    grants.check_emergency(body.reason, body.hours * 3600)
    accounts = request.engine.accounts
    work = partial(
        grants.break_glass,
        accounts.database,
        principal.name,
        studies=() if body.study is None else (body.study,),
        patient=None if body.patient is None else body.patient.pair,
        reason=body.reason,
        lasts_s=body.hours * 3600,
        by=principal.actor,
    )
    # Recorded first, and durably: without a record there is no emergency access.
    await audit.begin(
        Event(
            kind=audit.Kind.ALERT,
            alert=Alert.EMERGENCY_STARTED,
            principal=principal,
            study=body.study or "",
            patient=None if body.patient is None else audit.Patient(*body.patient.pair),
            action="break-glass",
            reason=body.reason,
            detail=f"for {body.hours:g} hours",
        )
    )
    identifier = await accounts.run(work)
    logger.about(request.origin.client).error("emergency access", by=principal.actor, grant=identifier)
    row = dict(await accounts.run(partial(grants.listed, accounts.database)))[identifier]
    return answer(_facts(identifier, row), 201)


async def listed(request: Request) -> web.Response:
    """One's own grants; an administrator's or auditor's: those of all."""
    check_parameters(request, ("limit", "offset", "emergency"))
    accounts, principal = request.engine.accounts, request.principal
    rows = await accounts.run(partial(grants.listed, accounts.database))
    if not (request.allowed(Action.ADMINISTER) or request.allowed(Action.AUDIT)):
        key, roles = users.key_of(principal.name), accounts.directory.roles_of(principal)
        rows = [
            (identifier, row)
            for identifier, row in rows
            if (row.holder == key if row.holder_kind == "user" else row.holder in roles)
        ]
    if request.query.get("emergency") == "true":
        rows = [(identifier, row) for identifier, row in rows if row.is_break_glass]
    return answer(page("grants", (_facts(*row) for row in rows), *page_of(request)))


async def add(request: Request) -> web.Response:
    """Makes a grant."""
    check_parameters(request)
    body = await body_of(request, NewGrant)
    if body.to == "role" and body.name not in roles_of(request.config.roles):
        raise AccountsRefused("there is no such role")
    row = GrantRow(
        holder_kind=body.to,
        holder=users.key_of(body.name) if body.to == "user" else body.name,
        actions=tuple(sorted(set(body.actions))),
        studies=body.studies,
        patient=None if body.patient is None else body.patient.pair,
        until=None if body.until is None else seconds_of(body.until),
        by=request.principal.actor,
        reason=body.reason,
    )
    accounts = request.engine.accounts
    identifier = await accounts.run(partial(grants.add, accounts.database, row))
    _record(request, identifier, row, "granted")
    return answer(_facts(identifier, row), 201)


async def revoke(request: Request) -> web.Response:
    """Ends a grant at once: an administrator any, others an emergency access of their own."""
    check_parameters(request)
    accounts, identifier = request.engine.accounts, request.path_values["id"]
    rows = dict(await accounts.run(partial(grants.listed, accounts.database)))
    row = rows.get(identifier)
    is_own = row is not None and row.is_break_glass and row.holder == users.key_of(request.principal.name)
    if row is None or not (is_own or request.allowed(Action.ADMINISTER)):
        raise NotFound("there is no such grant")
    await accounts.run(partial(grants.revoke, accounts.database, identifier))
    _record(request, identifier, row, "grant revoked")
    return answer({"revoked": identifier})


async def review(request: Request) -> web.Response:
    """Notes that somebody has looked at an emergency access."""
    await body_of(request, ReasonBody)
    accounts, identifier = request.engine.accounts, request.path_values["id"]
    if not await accounts.run(partial(grants.review, accounts.database, identifier, request.principal.actor)):
        raise NotFound("there is no such emergency access")
    return answer({"reviewed": identifier})


def _facts(identifier: str, row: GrantRow) -> dict[str, Any]:
    return {
        "id": identifier,
        "to": row.holder_kind,
        "name": row.holder,
        "studies": row.studies,
        "patient": None if row.patient is None else {"id": row.patient[0], "issuer": row.patient[1]},
        "actions": row.actions,
        "created": text_of(row.created),
        "until": text_of(row.until),
        "by": row.by,
        "reason": row.reason,
        "is_break_glass": row.is_break_glass,
        "reviewed": text_of(row.reviewed),
        "reviewed_by": row.reviewed_by,
    }


def _record(request: Request, identifier: str, row: GrantRow, what: str) -> None:
    is_end = row.is_break_glass and what == "grant revoked"
    for study in row.studies or ("",):
        audit.write(
            Event(
                kind=audit.Kind.ALERT,
                alert=Alert.EMERGENCY_STOPPED if is_end else Alert.OBJECT,
                principal=request.principal,
                study=study,
                patient=None if row.patient is None else audit.Patient(*row.patient),
                action=what,
                reason=row.reason,
                detail=f"grant {identifier} to {row.holder_kind} {row.holder}: {', '.join(row.actions)}",
            )
        )
