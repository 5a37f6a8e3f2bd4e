"""The part of `backend` for workitems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.cli import backend
from engine.cli.worklist import opened
from engine.config import Config
from engine.dicom import tags
from engine.dicom.identifier import Identifier


def listed(config: Config, keys: Sequence[tuple[str, str]], limit: int) -> list[dict[str, Any]]:
    """The workitems that meet the keys, by their start. Raises QueryError."""
    from engine.orders.workitems import listing

    found, cursor = list[dict[str, Any]](), ""
    with opened(config) as orders:
        while len(found) < limit:
            more, cursor = listing.page(orders, keys, limit=limit - len(found), after=cursor)
            found += more
            if not cursor:
                break
    return found


def one(config: Config, uid: str) -> dict[str, Any]:
    """All attributes of a workitem, and its history. Raises WorkitemRefused."""
    from engine.orders.workitems import listing

    with opened(config) as orders:
        found = listing.one(orders, uid)
    return {**found["attributes"], "history": found["history"]}


def cancel(config: Config, uid: str, reason: str) -> dict[str, Any]:
    """Cancels a workitem that nobody performs, else asks its performer to. Raises WorkitemRefused."""
    from engine.orders.workitems.store import Workitems

    information = Identifier({tags.ReasonForCancellation: reason.encode()} if reason else {}, b"ISO_IR 192")
    with opened(config) as orders:
        workitems = Workitems(orders)
        workitems.request_cancel(uid, information, backend.operator().actor)
        state = workitems.get(uid)[tags.ProcedureStepState]
    return {"uid": uid, "state": state.decode() if isinstance(state, bytes) else ""}
