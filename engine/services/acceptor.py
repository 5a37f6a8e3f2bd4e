"""The acceptor's side of one association: negotiates it, and routes each message to the service of its context.

    A-ASSOCIATE-RQ ──► user identity ──► policy ──► accepted: a `Session`, and a handler for each service with contexts
    a command      ──► decoded; checked against its context (`registry.is_served`)
                         request     goes to the context's handler, and its data set as it arrives
                         C-CANCEL    sets a flag that the running operation checks between two steps
                         response    goes to the task that waits for it; its data set, if any, is dropped

The abstract syntax of a context determines its service (`registry`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine import audit, log
from engine.access import Action, Kind, Principal
from engine.audit import Alert, Event, Outcome
from engine.audit import Kind as EventKind
from engine.dimse import messages
from engine.errors import MessageError, for_log
from engine.services import registry
from engine.services.policy import accept_policy, only_stores, refusal
from engine.services.session import Session
from engine.services.user_identity import NOBODY, Identity, Rejection, answer_identity, as_used_by, identity_rules
from engine.titles import readable
from engine.ul.negotiation import (
    AUTHENTICATION_FAILED,
    LOCAL_LIMIT_EXCEEDED,
    Accepted,
    AcceptedContext,
    negotiate,
)
from engine.ul.pdu import AssociateAC, AssociateRJ, AssociateRQ

if TYPE_CHECKING:
    from engine.dimse.assembly import DataSet
    from engine.net.connection import Connection
    from engine.services.service import Handler, ServiceClass
    from engine.services.shared import Services
    from engine.ul.user_information import UserIdentityRQ

logger = log.get("services")


class _Route:
    """The handler for the messages of one presentation context."""

    __slots__ = ("pending_message", "context", "handler", "service")

    def __init__(self, context: AcceptedContext, service: ServiceClass, handler: Handler) -> None:
        self.context = context
        self.service = service
        self.handler: Handler = handler
        self.pending_message: Any = None
        """The message whose data set comes next; None: a data set is read and dropped."""


class Acceptor:
    """The `AssociationUser` of one association that a peer requested."""

    def __init__(
        self, services: Services, connection: Connection, *, refuse: bool, on_end: Callable[[Connection], None]
    ) -> None:
        """`refuse`: the server is stopping: rejects any A-ASSOCIATE-RQ as transient."""
        self.services = services
        self.connection = connection
        self.session: Session | None = None
        """None until an association was accepted."""
        self._refuse = refuse
        self._on_end = on_end
        self._proof: asyncio.Task[None] | None = None
        """Verifies the user identity."""
        self._routes: dict[int, _Route] = {}
        """By presentation context id."""
        self._handlers: tuple[Handler, ...] = ()
        self._log = logger

    @property
    def busy(self) -> bool:
        """Whether an operation is in progress."""
        return self.session is not None and self.session.busy

    # -- association ------------------------------------------------------------------------------

    def associate_requested(self, rq: AssociateRQ) -> AssociateAC | AssociateRJ | None:
        """Answers an A-ASSOCIATE-RQ; None: once its user identity is verified."""
        host = self.connection.peer_host
        self._log = logger.about(host)
        principal = Principal(Kind.PEER, rq.calling_ae_title, host, certificate_names=self.connection.certificate_names)
        decision = self.services.engine.access.allowed(principal, Action.ASSOCIATE)
        if decision.is_alarming:
            self.services.engine.metrics.counters["security_alerts"] += 1
            who = {"calling": readable(principal.name), "host": host}
            self._log.warning("security alert: the title of another peer", **who, reason=decision.reason)
        if not decision:
            detail = f"association rejected: {decision.reason}"
            self.services.engine.audit_trail.alert(principal, Alert.NODE, detail)
        rj = refusal(decision, busy=self._refuse)
        if rj is not None:
            return self._reject(principal, rj, decision.reason)
        item, is_required, trusts_names = identity_rules(self.services.config, principal, rq)
        identities = self.services.user_identities
        identity = identities.judge(item, principal, is_required=is_required, trusts_names=trusts_names)
        if identity is None and item is not None:
            self._proof = self.services.engine.loop.create_task(self._prove(rq, item, principal))
            return None
        return self._decide(rq, principal, identity or NOBODY)

    async def _prove(self, rq: AssociateRQ, item: UserIdentityRQ, principal: Principal) -> None:
        """Answers when the user identity is verified. Meanwhile the peer waits (Sta3), and nobody else does."""
        try:
            identity = await self.services.user_identities.prove(item, principal)
            if self.connection.awaits_answer:
                self.connection.answer(self._decide(rq, principal, identity))
        except Exception as error:
            self._log.error("the user identity could not be verified", error=for_log(error))
            self.connection.abort("internal error", 2, 0)
            raise

    def _decide(
        self, rq: AssociateRQ, principal: Principal, identity: Identity | Rejection
    ) -> AssociateAC | AssociateRJ:
        if isinstance(identity, Rejection):
            self.services.engine.metrics.counters["user_identities_refused"] += 1
            self._audit_login(principal, Outcome.MINOR, identity.reason)
            return self._reject(principal, identity.rj, identity.reason)
        if identity.is_accepted:
            principal = as_used_by(principal, identity)
            decision = self.services.engine.access.allowed(principal, Action.ASSOCIATE)
            if not decision:
                self._audit_login(principal, Outcome.MINOR, decision.reason)
                return self._reject(principal, AUTHENTICATION_FAILED, decision.reason)
        answer = negotiate(rq, accept_policy(self.services.config, self.services.engine.access, principal))
        if not isinstance(answer, Accepted):
            return self._reject(principal, answer)
        why = self._enter(principal, answer)
        if why:
            return self._reject(principal, LOCAL_LIMIT_EXCEEDED, why)
        if principal.user:
            self._audit_login(principal, Outcome.SUCCESS)
        return self._accept(rq, principal, answer_identity(rq, answer, identity))

    def _audit_login(self, principal: Principal, outcome: Outcome, detail: str = "") -> None:
        audit.write(
            Event(kind=EventKind.LOGIN, principal=principal, outcome=outcome, action="user identity", detail=detail)
        )

    def _reject(self, principal: Principal, rj: AssociateRJ, why: str = "") -> AssociateRJ:
        who = {"calling": readable(principal.name), "host": principal.address}
        self.services.engine.metrics.counters["associations_rejected"] += 1
        self._note_rejection(principal, why or str(rj))
        self._log.warning("association rejected", **who, rj=str(rj), why=why)
        return rj

    def _accept(self, rq: AssociateRQ, principal: Principal, accepted: Accepted) -> AssociateAC:
        self.services.engine.metrics.counters["associations"] += 1
        self.services.associations_count += 1
        self.session = session = Session(self.services, self.connection, principal, rq.called_ae_title, accepted)
        self._attach(session)
        if session.settings.peer is not None:
            self.connection.adjust(
                message_timeout_s=session.settings.timeout_s,
                delivery_rate_bytes_per_s_min=session.settings.delivery_rate_bytes_per_s_min,
            )
        called = readable(rq.called_ae_title)
        self.services.engine.metrics.peer(session.caller).associations += 1
        self.services.engine.sightings.associated(
            session.caller,
            principal.address,
            called,
            session.contexts.values(),
            is_known=session.settings.peer is not None,
        )
        who = {"calling": session.caller, "host": principal.address, "called": called}
        user = {"user": principal.user} if principal.user else {}
        self._log.info("association accepted", **who, **user, contexts=len(session.contexts))
        return accepted.ac

    def _note_rejection(self, principal: Principal, reason: str) -> None:
        title = readable(principal.name)
        is_known = self.services.config.peer(principal.name) is not None
        self.services.engine.sightings.rejected(title, principal.address, reason, is_known=is_known)

    def _enter(self, principal: Principal, accepted: Accepted) -> str:
        """Counts the association and returns "", or returns why it exceeds a limit now."""
        if only_stores(accepted) and self.services.engine.admission.rejects():
            return "new instances are refused"
        settings = self.services.config.settings_of(principal.name)
        if self.services.engine.associations.enter(
            principal.name,
            principal.address,
            total_max=self.services.config.limits.associations_max,
            title_max=settings.associations_max,
            address_max=settings.associations_per_address_max,
        ):
            return ""
        self.services.engine.metrics.counters["associations_rejected_for_number"] += 1
        return "too many associations"

    def _attach(self, session: Session) -> None:
        """Makes one handler for each service, even if it has many contexts."""
        handlers: dict[ServiceClass, Handler] = {}
        for context_id, context in session.contexts.items():
            service = registry.service_of(context.abstract_syntax)
            if service not in handlers:
                handlers[service] = service.attach(session)
            self._routes[context_id] = _Route(context, service, handlers[service])
        self._handlers = tuple(handlers.values())

    def associate_accepted(self, ac: AssociateAC) -> None:
        """Never called for an acceptor."""

    def associate_rejected(self, rj: AssociateRJ) -> None:
        """Never called for an acceptor."""

    def release_requested(self) -> bool:
        """Answers at once when no operation is in progress; else `Session.operation_ended` does."""
        if self.session is not None:
            self.session.is_releasing = True
        return not self.busy

    def association_ended(self, reason: str) -> None:
        """Stops all operations."""
        session = self.session
        if self._proof is not None:
            self._proof.cancel()
        if session is not None:
            session.ended(reason)
            for handler in self._handlers:
                handler.ended()
            self.services.engine.associations.leave(session.calling_ae_title, self.connection.peer_host)
            self.services.associations_count -= 1
            who = {"calling": session.caller, "host": self.connection.peer_host}
            self._log.info("association ended", **who, reason=reason)
        else:
            self.services.engine.metrics.counters["connections_without_association"] += 1
        self._on_end(self.connection)

    # -- messages ---------------------------------------------------------------------------------

    def command_received(self, presentation_context_id: int, command: bytes, has_data_set: bool) -> None:
        """Routes a whole command."""
        route = self._routes.get(presentation_context_id)
        if route is None:
            why = f"a message on presentation context {presentation_context_id}, which was not accepted"
            self.connection.abort(why, 2, 5)
            return
        route.pending_message = None
        service = route.service
        try:
            message = messages.decode(command)
            if not registry.is_served(message, service, route.context):
                return
        except MessageError as error:
            self._refuse_command(presentation_context_id, command, error)
            return
        if type(message) in service.requests:
            if has_data_set:
                route.pending_message = message
            route.handler.request(presentation_context_id, message, has_data_set)
            return
        assert self.session is not None
        if isinstance(message, messages.CCancelRQ):
            self.session.cancel(message.message_id_being_responded_to)
        else:
            self.session.responses.received(message)

    def _refuse_command(self, presentation_context_id: int, command: bytes, error: MessageError) -> None:
        """Answers a request that violates PS3.7 with its status; aborts if the command cannot be answered."""
        assert self.session is not None
        self._log.warning("invalid command", calling=self.session.caller, error=for_log(error))
        self.services.engine.metrics.counters["messages_not_understood"] += 1
        response = messages.failure_response(command, error)
        if response is None:
            self.connection.abort(f"invalid command: {error}")
            return
        self.connection.send_message(presentation_context_id, response, None, self.session.fragment)

    def data_set_received(self, presentation_context_id: int, data_set: DataSet, is_last: bool) -> None:
        """Routes a data set, or a part of a large one, to the command before it."""
        route = self._routes.get(presentation_context_id)
        if route is None or route.pending_message is None:
            data_set.release()
        elif is_last:
            message, route.pending_message = route.pending_message, None
            route.handler.receive(presentation_context_id, message, data_set)
        else:
            route.handler.receive_part(presentation_context_id, route.pending_message, data_set)
