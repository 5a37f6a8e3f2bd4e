"""Reach: whether what a request would change is in the scope of its client. Blocks: call it in a thread.

What is out of scope is not found, in the same words as what does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.access import FULL
from engine.archive.admin import corrections
from engine.archive.questions import Level, Query
from engine.dicom import tags
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from engine.access import Action
    from engine.archive.view import View
    from engine.web.request import Request


def studies(view: View, uids: Iterable[str]) -> None:
    """Raises NotFound if one of these studies is not there."""
    if view.scope is not FULL:
        for uid in uids:
            if not view.sees(uid):
                raise NotFound(f"there is no study {uid}")


def entities(view: View, tag: int, uids: Iterable[str]) -> None:
    """Raises NotFound if one of these series or instances is not there. `tag`: of their UIDs."""
    if view.scope is FULL:
        return
    level = Level.SERIES if tag == tags.SeriesInstanceUID else Level.IMAGE
    for uid in uids:
        if not view.identifiers(Query(level, {tag: uid.encode()}, relational=True)):
            raise NotFound(f"there is no {level.name.lower()} {uid}")


def patient(request: Request, action: Action, text: str) -> None:
    """Raises NotFound unless the client may reach every study of a patient, written ID or ID^^^ISSUER."""
    view = request.view(action)
    if view.scope is FULL:
        return
    stored = corrections.studies_of(request.engine.archive, text)
    if not stored or any(not view.sees(uid) for uid in stored):
        raise NotFound("no study of this patient is stored")


def everything(request: Request, action: Action) -> None:
    """Raises NotFound unless the client's scope is the whole archive."""
    if request.scope(action) is not FULL:
        raise NotFound("there is no such entry")
