"""/api/shares: links for people outside. A link is shown once, when it is made."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from engine import audit
from engine.access import FULL, Action
from engine.accounts import shares, users
from engine.accounts.records import Share
from engine.audit import Alert, Event
from engine.errors import NotAllowed
from engine.web.api.bodies import UID
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of
from engine.web.api.moments import seconds_of, text_of
from engine.web.api.session import Password
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


class PatientName(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A patient: ID and issuer."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    issuer: Annotated[str, Meta(max_length=200)] = ""

    @property
    def pair(self) -> tuple[str, str]:
        """As records have it."""
        return self.id, self.issuer


class SeriesName(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A series of a study."""

    study: UID
    series: UID


class NewShare(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to share: studies, a patient with all studies, or single series and nothing else."""

    studies: Annotated[tuple[UID, ...], Meta(max_length=100)] = ()
    series: Annotated[tuple[SeriesName, ...], Meta(max_length=100)] = ()
    patient: PatientName | None = None
    until: datetime
    uses_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    password: Password = ""
    may_download: bool = False
    recipient: Annotated[str, Meta(max_length=200)] = ""
    """Whom it is for."""


async def listed(request: Request) -> web.Response:
    """One's own shares; an administrator's: those of all."""
    check_parameters(request, ("limit", "offset"))
    accounts = request.engine.accounts
    rows = await accounts.run(partial(shares.listed, accounts.database, _owner(request)))
    return answer(page("shares", (_facts(*row) for row in rows), *page_of(request)))


async def add(request: Request) -> web.Response:
    """Makes a share."""
    check_parameters(request)
    body = await body_of(request, NewShare)
    for action in (Action.SHARE, Action.RETRIEVE):
        await _check_sees(request, action, body.studies, is_whole_patient=body.patient is not None)
        await _check_series(request, action, body.series)
    accounts = request.engine.accounts
    hashed = await accounts.share_password_hash(body.password) if body.password else ""
    principal = request.principal
    share = Share(
        studies=body.studies,
        series=tuple((each.study, each.series) for each in body.series),
        patient=None if body.patient is None else body.patient.pair,
        may_download=body.may_download,
        password=hashed,
        until=seconds_of(body.until),
        uses_max=body.uses_max,
        created=time(),
        by=principal.actor,
        owner=users.key_of(principal.name),
        recipient=body.recipient,
    )
    identifier, token = await accounts.run(partial(shares.add, accounts.database, share))
    _record(request, identifier, share, "shared")
    return answer({**_facts(identifier, share), "link": f"{request.root}/s/{token}"}, 201)


async def revoke(request: Request) -> web.Response:
    """Ends a share at once."""
    check_parameters(request)
    accounts, identifier = request.engine.accounts, request.path_values["id"]
    work = partial(shares.revoke, accounts.database, identifier, request.principal.actor, _owner(request))
    share = await accounts.run(work)
    if share is None:
        raise NotFound("there is no such share")
    _record(request, identifier, share, "share revoked")
    return answer({"revoked": identifier})


async def _check_sees(request: Request, action: Action, studies: tuple[str, ...], *, is_whole_patient: bool) -> None:
    """Raises NotFound unless the client may do that with each of the studies, NotAllowed for a whole patient.

    A share of a patient has studies that arrive later, and those that its maker does not see.
    """
    engine = request.engine
    scope = engine.access.scope(request.principal, action)
    if is_whole_patient and scope is not FULL:
        raise NotAllowed("you do not see all studies, so that you can share single ones only")
    view = engine.archive.view(scope)
    for uid in studies:
        if not await engine.pools.index.run(partial(view.sees, uid)):
            raise NotFound(f"there is no study {uid}")


async def _check_series(request: Request, action: Action, series: tuple[SeriesName, ...]) -> None:
    """Raises NotFound unless the client may do that with the study of each series, and it is stored."""
    view = request.view(action)
    for each in series:
        if not await request.engine.pools.index.run(partial(view.revisions, each.study, each.series)):
            raise NotFound(f"there is no series {each.series} in study {each.study}")


def _owner(request: Request) -> str | None:
    return None if request.allowed(Action.ADMINISTER) else users.key_of(request.principal.name)


def _facts(identifier: str, share: Share) -> dict[str, Any]:
    return {
        "id": identifier,
        "studies": share.studies,
        "series": [{"study": study, "series": series} for study, series in share.series],
        "patient": None if share.patient is None else {"id": share.patient[0], "issuer": share.patient[1]},
        "may_download": share.may_download,
        "has_password": bool(share.password),
        "until": text_of(share.until),
        "uses_max": share.uses_max,
        "uses": share.uses,
        "used": text_of(share.used),
        "created": text_of(share.created),
        "by": share.by,
        "recipient": share.recipient,
        "revoked": text_of(share.revoked),
        "revoked_by": share.revoked_by,
        "is_open": shares.is_open(share, time()),
    }


def _record(request: Request, identifier: str, share: Share, what: str) -> None:
    of_study: dict[str, list[str]] = {study: [] for study in share.studies}
    for study, series in share.series:
        of_study.setdefault(study, []).append(series)
    for study, parts in (of_study or {"": []}).items():
        audit.write(
            Event(
                series=tuple(parts),
                kind=audit.Kind.ALERT,
                alert=Alert.OBJECT,
                principal=request.principal,
                study=study,
                patient=None if share.patient is None else audit.Patient(*share.patient),
                action=what,
                detail=f"share {identifier}, until {text_of(share.until)}, for {share.recipient or 'anybody'}",
            )
        )
