"""What HTTP clients do, for the audit log: `front` asks before a handler runs, and tells when it has answered.

    images, metadata, pictures   two events a session and study: one is on the disk before anything is sent, the other
                                 one follows after WINDOW_S, with the number of answers
    searches                     an event each; on the page one for each new filter, however much one scrolls
    one study on the page        an event a session and study
    other changes                an event each, unless what is changed records itself, as corrections and deletions do

While the audit log cannot be written, everything of the first three rows is refused with 503.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPMethod
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

from engine import audit
from engine.access import Action
from engine.audit import Alert, Event, Kind, Outcome
from engine.errors import AuditUnavailable
from engine.runtime.audit_trail import Act
from engine.web.route import API, DICOMWEB, FHIR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.access import Principal
    from engine.runtime.engine import Engine
    from engine.web.request import Request
    from engine.web.route import Route

WINDOW_S: Final = 900.0
WINDOWS_MAX: Final = 20_000
"""Windows of all sessions. When there are more, the oldest end early."""

_POSITIONS: Final = frozenset({"after", "position", "limit", "count", "arrivals", "includefield"})
"""Parameters of the page's searches that only say which rows of the same search are shown."""
_RECORDS_ITSELF: Final = frozenset(
    {
        Action.STORE,
        Action.COMMIT,
        Action.DELETE,
        Action.RESTORE,
        Action.EMPTY,
        Action.CORRECT,
        Action.HOLD,
        Action.SHARE,
        Action.BREAK_GLASS,
        Action.ADMINISTER,
    }
)
_VIEWS: Final = frozenset((f"{API}/studies/{{study}}", f"{FHIR}/ImagingStudy/{{study}}"))
_PAGE_SEARCHES: Final = frozenset(f"{API}/studies{rest}" for rest in ("", "/totals", ".csv"))

_Key: TypeAlias = tuple[str, str, str, str]
"""Name, address and session of the principal; the study, or the search."""


class _Sort(Enum):
    """How a route is recorded."""

    NOTHING = auto()
    DISCLOSURE = auto()
    SEARCH = auto()
    PAGE_SEARCH = auto()
    VIEW = auto()
    ALERT = auto()
    OPERATION = auto()


@dataclass(slots=True)
class _Window:
    """A session's use of one study."""

    act: Act
    study: str
    begun: asyncio.Future[None]
    answers: int = 1


class AuditedRequests:
    """The requests of one process. Used on the loop's thread."""

    def __init__(self, engine: Engine, routes: Iterable[Route]) -> None:
        self._engine = engine
        self._sorts = {route.name: _sort_of(route) for route in routes}
        self._windows: dict[_Key, _Window] = {}
        self._searches: dict[_Key, None] = {}
        engine.audit_trail.at_end.append(self.end)

    def is_known(self, principal: Principal, study: str) -> bool:
        """Counts an answer about a study whose beginning is recorded; False: `begin` must come first."""
        if not audit.is_on():
            return True
        window = self._windows.get(_key(principal, study))
        if window is None or not window.begun.done():
            return False
        try:
            audit.check()
        except AuditUnavailable:
            return False
        window.answers += 1
        return True

    async def begin(self, request: Request, route: Route) -> None:
        """Call it before the handler. Raises AuditUnavailable."""
        if not audit.is_on():
            return
        sort = self._sorts.get(route.name, _Sort.NOTHING)
        if sort in (_Sort.SEARCH, _Sort.PAGE_SEARCH, _Sort.VIEW):
            audit.check()
        elif sort is _Sort.DISCLOSURE and (study := _study_of(request)):
            await self._disclose(Act(request.principal, _action_of(route)), study)

    def finished(self, request: Request, status: int) -> None:
        """Call it when a request was answered."""
        sort = self._sorts.get(request.route_name, _Sort.NOTHING)
        if not audit.is_on() or sort in (_Sort.NOTHING, _Sort.DISCLOSURE):
            return
        outcome = Outcome.SUCCESS if status < 400 else Outcome.MINOR
        principal, service = request.principal, _service_of(request.raw_path)
        match sort:
            case _Sort.SEARCH:
                self._engine.audit_trail.query(Act(principal, service), _spelled(request), outcome=outcome)
            case _Sort.PAGE_SEARCH:
                filters = _spelled(request, without=_POSITIONS)
                if outcome or self._is_new(_key(principal, filters)):
                    self._engine.audit_trail.query(Act(principal, service), filters, outcome=outcome)
            case _Sort.VIEW:
                study = request.path_values.get("study", "")
                if not outcome and self._is_new(_key(principal, study)):
                    self._engine.audit_trail.about_study(Kind.VIEWED, Act(principal, service), study)
            case _:
                audit.write(
                    Event(
                        kind=Kind.ALERT if sort is _Sort.ALERT else Kind.OPERATION,
                        alert=Alert.NETWORK if sort is _Sort.ALERT else None,
                        principal=principal,
                        outcome=outcome,
                        action=request.route_name,
                        detail=unquote(request.raw_path),
                    )
                )

    def refused(self, request: Request, reason: str) -> None:
        """Call it for a request that the access rules refuse."""
        self._engine.audit_trail.alert(request.principal, Alert.RESTRICTED, f"{request.route_name}: {reason}")

    def end(self) -> None:
        """Records what has been disclosed until now."""
        for key in list(self._windows):
            self._close(key)

    # -- inside ---------------------------------------------------------------------------------------

    async def _disclose(self, act: Act, study: str) -> None:
        audit.check()
        key = _key(act.principal, study)
        window = self._windows.get(key)
        if window is not None:
            window.answers += 1
            await asyncio.shield(window.begun)
            return
        while len(self._windows) >= WINDOWS_MAX:
            self._close(next(iter(self._windows)))
        loop = self._engine.loop
        window = self._windows[key] = _Window(act, study, loop.create_future())
        try:
            is_stored = await self._engine.audit_trail.sending_study(act, study)
        except BaseException as error:
            self._windows.pop(key, None)
            if isinstance(error, AuditUnavailable):
                window.begun.set_exception(error)
                window.begun.exception()  # others may wait for it, or nobody
            else:
                window.begun.cancel()
            raise
        window.begun.set_result(None)
        if is_stored:
            loop.call_later(WINDOW_S, self._expire, key, window)
        else:
            self._windows.pop(key, None)

    def _expire(self, key: _Key, window: _Window) -> None:
        if self._windows.get(key) is window:
            self._close(key)

    def _close(self, key: _Key) -> None:
        window = self._windows.pop(key)
        if window.begun.done() and not window.begun.cancelled():
            detail = f"{window.answers} answers"
            self._engine.audit_trail.about_study(Kind.SENT, window.act, window.study, detail)

    def _is_new(self, key: _Key) -> bool:
        """Whether that was not recorded in the last WINDOW_S."""
        if key in self._searches:
            return False
        if len(self._searches) >= WINDOWS_MAX:
            del self._searches[next(iter(self._searches))]
        self._searches[key] = None
        self._engine.loop.call_later(WINDOW_S, self._searches.pop, key, None)
        return True


def _sort_of(route: Route) -> _Sort:
    if route.path.startswith(f"{FHIR}/Subscription") and route.method != HTTPMethod.GET:
        return _Sort.SEARCH if route.path.endswith("/_search") else _Sort.OPERATION
    if route.path.startswith(FHIR) and route.action in (Action.QUERY, Action.WORKLIST) and route.path not in _VIEWS:
        return _Sort.SEARCH
    if route.method == HTTPMethod.GET:
        if route.action is Action.RETRIEVE:
            names_a_study = any(part in route.path for part in ("{study}", "{instance}", "/wado"))
            return _Sort.DISCLOSURE if names_a_study else _Sort.NOTHING
        if route.action is Action.QUERY:
            if route.path in _PAGE_SEARCHES:
                return _Sort.PAGE_SEARCH
            if route.path in _VIEWS:
                return _Sort.VIEW
            return _Sort.SEARCH if route.path.startswith(DICOMWEB) else _Sort.NOTHING
        return _Sort.NOTHING
    if route.action is None or route.action in _RECORDS_ITSELF or route.method == HTTPMethod.OPTIONS:
        return _Sort.NOTHING
    return _Sort.ALERT if route.action is Action.CONFIGURE else _Sort.OPERATION


def _study_of(request: Request) -> str:
    """The study that a request wants to read; "": none that exists."""
    values = request.path_values
    if "study" in values:
        return values["study"]
    if "instance" in values:
        instance = request.engine.archive.instance(values["instance"])
        return instance.study_instance_uid if instance is not None else ""
    return request.query.get("studyUID", "")


def _action_of(route: Route) -> str:
    if route.path.startswith(API):
        return "page"
    return "WADO-RS" if route.path.startswith(DICOMWEB) else "WADO-URI"


def _service_of(path: str) -> str:
    """What a search or a view came through."""
    return "FHIR" if path.startswith(FHIR) else "QIDO-RS" if path.startswith(DICOMWEB) else "page"


def _spelled(request: Request, without: frozenset[str] = frozenset()) -> str:
    """A search in words: its path and its parameters."""
    pairs = request.search_parameters
    if pairs is None:
        pairs = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    texts = [f"{name}={value}" for name, value in pairs if name not in without]
    return " ".join([unquote(request.raw_path.partition("?")[0]), *texts])


def _key(principal: Principal, subject: str) -> _Key:
    return principal.name, principal.address, principal.session, subject
