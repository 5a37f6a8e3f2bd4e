"""Verification Service Class, SCP (PS3.4 Annex A): answers C-ECHO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.access import Action
from engine.dimse.messages import CEchoRQ, CEchoRSP
from engine.services.operations import Replies
from engine.services.service import ServiceClass
from engine.ul.negotiation import VERIFICATION

if TYPE_CHECKING:
    from engine.services.session import Session


def echo(session: Session, presentation_context_id: int, rq: CEchoRQ) -> None:
    """Answers one C-ECHO."""
    session.services.engine.metrics.counters["echo"] += 1
    session.respond(presentation_context_id, CEchoRSP(rq.message_id, rq.affected_sop_class_uid))


SERVICE = ServiceClass(
    name="Verification",
    sop_class_uids=(VERIFICATION,),
    action=Action.ASSOCIATE,
    requests=frozenset({CEchoRQ}),
    attach=lambda session: Replies(session, echo),
)
