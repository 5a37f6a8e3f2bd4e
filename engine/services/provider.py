"""The acceptor's side of one association: negotiates, routes each message to its service, keeps what they share.

    C-ECHO  answered here        C-STORE  storage_scp        C-FIND  find_scp        C-MOVE, C-GET  retrieve_scp
                                                             and repository_query
    C-CANCEL  sets a flag that the running operation looks at between two steps
    C-STORE-RSP  (during C-GET)  goes to whoever waits for it, and so does N-EVENT-REPORT-RSP
    N-ACTION  commitment_scp; its N-EVENT-REPORT-RQ may go out on the same association

Store answers come by callback on the hot path; the other services run as one task an operation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine import log
from engine.config.titles import readable
from engine.dicom.uids import RepositoryQuery
from engine.dimse import messages
from engine.dimse.assembly import ChunkPool, DataSet, fragment_bytes
from engine.dimse.status import GeneralStatus
from engine.errors import EngineError, MessageError
from engine.net.connection import Connection
from engine.net.responses import Responses
from engine.services import commitment_scp, find_scp, repository_query, retrieve_scp
from engine.services.admission import Admission
from engine.services.budget import RetrievalBudget
from engine.services.commitments import Commitments, Turn
from engine.services.operations import objection
from engine.services.policy import accept_policy, only_stores, refusal
from engine.services.roster import Roster
from engine.services.storage_scp import StorageProvider
from engine.services.traffic import Traffic
from engine.ul.negotiation import LOCAL_LIMIT_EXCEEDED, Accepted, AcceptedContext, negotiate
from engine.ul.pdu import AssociateAC, AssociateRJ, AssociateRQ

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.ingestor import Ingestor
    from engine.archive.transcoding.transcode import Transcoder
    from engine.config import Config, Peer
    from engine.metrics import Metrics
    from engine.net.trace import TraceFolder

logger = log.get("services")

SENT_PDU_BYTES_MAX = 128 << 10
"""What we put into one P-DATA-TF at most, however much the peer takes; larger ones measured no faster."""

IDENTIFIER_BYTES_MAX = 1 << 20
"""A C-FIND, C-MOVE or C-GET identifier: ten thousand UIDs in a list take 650 KB."""

ACTION_BYTES_MAX = 4 << 20
"""Action information of an N-ACTION: a reference takes some 130 bytes, so thirty thousand instances."""

_DROPPED = object()
"""Stands for a request that has been answered already: its data set is read and dropped."""


@dataclass(slots=True)
class Services:
    """What all associations of a worker share."""

    loop: asyncio.AbstractEventLoop
    archive: Archive
    ingestor: Ingestor
    config: Config
    metrics: Metrics
    pool: ChunkPool
    transcoder: Transcoder
    trace: TraceFolder | None = None
    """Where requested associations are traced too."""
    roster: Roster = field(default_factory=Roster.alone)
    """Open associations by calling AE title, on all workers."""
    associations_count: int = 0
    """Open ones on this worker."""
    finding_count: int = 0
    """C-FINDs under way on this worker."""
    admission: Admission = field(init=False)
    traffic: Traffic = field(init=False)
    retrieval_budget: RetrievalBudget = field(init=False)
    commitments: Commitments = field(init=False)

    def __post_init__(self) -> None:
        files, segments = self.archive.files, str(self.archive.layout.segments)
        self.admission = Admission(
            lambda: self.config,
            self.metrics,
            free_bytes=lambda: files.free_bytes(segments),
            sync_latency_s=self.ingestor.commit.sync_latency_s,
            waiting_count=lambda: self.ingestor.depth,
            now=self.loop.time,
        )
        self.traffic = Traffic(
            lambda: self.config,
            self.metrics,
            chunks_bytes=lambda: self.pool.outstanding * self.pool.chunk_bytes,
            share=self.roster.share,
            call_later=self.loop.call_later,
        )
        self.retrieval_budget = RetrievalBudget(lambda: self.config, self.metrics)
        self.commitments = Commitments(
            self.archive, lambda: self.config, self.metrics.counters, self.ingestor.commit.fail
        )


class ServiceProvider:
    """One association's `AssociationUser`; see the module's head."""

    def __init__(
        self, services: Services, connection: Connection, *, refuse: bool, on_end: Callable[[Connection], None]
    ) -> None:
        """`refuse`: the server is full or stopping: any A-ASSOCIATE-RQ is rejected as transient."""
        self.services = services
        self.connection = connection
        self.contexts: Mapping[int, AcceptedContext] = {}
        self.accepted: Accepted | None = None
        self.calling_ae_title = ""
        self.called_ae_title = ""
        self.peer: Peer | None = None
        self.fragment = 0
        self.responses = Responses()
        self.reports = Turn()
        """Of the N-EVENT-REPORTs that go out on this association."""
        self.operations_count = 0
        """Operations that have been asked for and not finally answered."""
        self._refuse = refuse
        self._on_end = on_end
        self._awaiting: dict[int, Any] = {}
        self._parts: dict[int, bytes] = {}
        """Of identifiers that come in parts."""
        self._running: set[int] = set()
        """Message ids of the operations that run as tasks."""
        self._cancelled: set[int] = set()
        self._log = logger
        self._tasks: set[asyncio.Task[None]] = set()
        self._storage = StorageProvider(self)
        self._releasing = False

    # -- what the connection tells --------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self.operations_count > 0

    @property
    def caller(self) -> str:
        """The calling AE title, for people."""
        return readable(self.calling_ae_title)

    @property
    def releasing(self) -> bool:
        """Whether the peer has asked for an orderly end."""
        return self._releasing

    def associate_requested(self, rq: AssociateRQ) -> AssociateAC | AssociateRJ:
        """Answers an A-ASSOCIATE-RQ."""
        config = self.services.config
        self._log = logger.about(self.connection.peer_host)
        self.calling_ae_title = rq.calling_ae_title
        self.called_ae_title = rq.called_ae_title
        self.peer = config.peer(self.calling_ae_title)
        answer: AssociateAC | AssociateRJ | Accepted | None = refusal(config, self.calling_ae_title, busy=self._refuse)
        if answer is None:
            answer = negotiate(rq, accept_policy(config, self.calling_ae_title))
        why = ""
        if isinstance(answer, Accepted):
            why = self._no_room(config, answer)
            answer = LOCAL_LIMIT_EXCEEDED if why else answer
        if not isinstance(answer, Accepted):
            self.services.metrics.counters["associations_rejected"] += 1
            self._log.warning("association rejected", **self._who(), rj=str(answer), why=why)
            return answer
        self.services.metrics.counters["associations"] += 1
        self.services.associations_count += 1
        self.accepted = answer
        self.contexts = answer.contexts
        self.fragment = self._fragment(answer.peer_maximum_length)
        if self.peer is not None:
            self.connection.adjust(
                message_timeout_s=config.timeout_s_of(self.calling_ae_title),
                delivery_rate_bytes_per_s_min=config.delivery_rate_bytes_per_s_min_of(self.calling_ae_title),
            )
        self.services.metrics.peer(readable(self.calling_ae_title)).associations += 1
        self._storage.prepare()
        called = readable(self.called_ae_title)
        self._log.info("association accepted", **self._who(), called=called, contexts=len(self.contexts))
        return answer.ac

    def _no_room(self, config: Config, accepted: Accepted) -> str:
        """Why this association is one too many at the moment; "" when it is not, and then it is counted."""
        if only_stores(accepted) and self.services.admission.rejects():
            return "new instances are refused"
        if self.services.roster.enter(
            self.calling_ae_title,
            self.connection.peer_host,
            total_max=config.limits.associations_max,
            title_max=config.associations_max_of(self.calling_ae_title),
            address_max=config.address_associations_max_of(self.calling_ae_title),
        ):
            return ""
        self.services.metrics.counters["associations_rejected_for_number"] += 1
        return "too many associations"

    def _who(self) -> dict[str, object]:
        return {"calling": self.caller, "host": self.connection.peer_host}

    def _fragment(self, peer_maximum_length: int) -> int:
        ours = self.peer.pdu_length_max if self.peer and self.peer.pdu_length_max else SENT_PDU_BYTES_MAX
        return fragment_bytes(peer_maximum_length, ours)

    def associate_accepted(self, ac: AssociateAC) -> None:
        """Never happens to an acceptor."""

    def associate_rejected(self, rj: AssociateRJ) -> None:
        """Never happens to an acceptor."""

    def command_received(self, presentation_context_id: int, command: bytes, has_data_set: bool) -> None:
        """Routes a whole command; one with a data set waits for it."""
        if presentation_context_id not in self.contexts:
            self.connection.abort(f"a message on presentation context {presentation_context_id}, not accepted", 2, 5)
            return
        try:
            message = messages.decode(command)
        except MessageError as error:
            self._not_understood(presentation_context_id, command, has_data_set, error)
            return
        why = objection(message, self.contexts[presentation_context_id])
        if why:
            self._out_of_place(presentation_context_id, command, message, has_data_set, why)
            return
        if has_data_set:
            self._awaiting[presentation_context_id] = message
            if isinstance(message, messages.CStoreRQ):
                self.operations_count += 1
                self.services.traffic.wake()
            return
        match message:
            case messages.CStoreRSP() | messages.NEventReportRSP():
                self.responses.received(message)
            case messages.NActionRQ():
                self._start(commitment_scp.act, presentation_context_id, message, b"")
            case messages.CEchoRQ():
                self.services.metrics.counters["echo"] += 1
                response = messages.CEchoRSP(message.message_id, message.affected_sop_class_uid)
                self.respond(presentation_context_id, response)
            case messages.CCancelRQ():
                if message.message_id_being_responded_to in self._running:
                    self._cancelled.add(message.message_id_being_responded_to)
            case _:
                # A request whose data set is missing (C-STORE, C-FIND, …), or a response that nobody asked for.
                self.connection.abort(f"{type(message).__name__} without its data set or out of place", 0, 0)

    def _out_of_place(
        self, context_id: int, command: bytes, message: messages.Message, has_data_set: bool, why: str
    ) -> None:
        """A message that its presentation context is not for (PS3.7 9.1, Annex C.5.6)."""
        if not isinstance(message, messages.CCancelRQ):  # that one is not answered, and nothing runs there
            error = MessageError(why, GeneralStatus.SOP_CLASS_NOT_SUPPORTED)
            self._not_understood(context_id, command, has_data_set, error)

    def _not_understood(self, context_id: int, command: bytes, has_data_set: bool, error: MessageError) -> None:
        """Answers a request that breaks PS3.7 with its status; what cannot be answered ends the association."""
        self._log.warning("command not understood", calling=self.caller, error=str(error))
        self.services.metrics.counters["messages_not_understood"] += 1
        response = messages.failure_response(command, error)
        if response is None:
            self.connection.abort(f"command not understood: {error}")
            return
        if has_data_set:
            self._awaiting[context_id] = _DROPPED
        self.connection.send_message(context_id, response, None, self.fragment)

    def data_set_received(self, presentation_context_id: int, data_set: DataSet, is_last: bool) -> None:
        """Routes a data set, or a part of a large one, to the command before it."""
        message = self._awaiting.get(presentation_context_id)
        if isinstance(message, messages.CStoreRQ):
            if is_last:
                del self._awaiting[presentation_context_id]
                self._storage.receive(presentation_context_id, message, data_set)
            else:
                self._storage.receive_part(presentation_context_id, message, data_set)
            return
        if message is _DROPPED:
            data_set.release()
            if is_last:
                del self._awaiting[presentation_context_id]
            return
        bytes_max = ACTION_BYTES_MAX if isinstance(message, messages.NActionRQ) else IDENTIFIER_BYTES_MAX
        if data_set.offset + data_set.length > bytes_max:
            data_set.release()
            self.connection.abort(f"an identifier of more than {bytes_max} bytes", 0, 0)
            return
        identifier = self._parts.pop(presentation_context_id, b"") + data_set.to_bytes()
        data_set.release()
        if not is_last:
            self._parts[presentation_context_id] = identifier
            return
        self._awaiting.pop(presentation_context_id, None)
        match message:
            case messages.NActionRQ():
                self._start(commitment_scp.act, presentation_context_id, message, identifier)
            case messages.NEventReportRSP():
                self.responses.received(message)  # an Event Reply has nothing for us
            case messages.CFindRQ():
                is_repository = self.contexts[presentation_context_id].abstract_syntax == RepositoryQuery
                serve = repository_query.find if is_repository else find_scp.find
                self._start(serve, presentation_context_id, message, identifier)
            case messages.CMoveRQ():
                self._start(retrieve_scp.move, presentation_context_id, message, identifier)
            case messages.CGetRQ():
                self._start(retrieve_scp.get, presentation_context_id, message, identifier)
            case _:
                self.connection.abort(f"{type(message).__name__} is not served", 0, 0)

    def release_requested(self) -> bool:
        """At once when nothing is under way; else `operation_ended` answers."""
        self._releasing = True
        return not self.busy

    def association_ended(self, reason: str) -> None:
        """Stops whatever is under way."""
        for task in self._tasks:
            task.cancel()
        self.responses.fail(reason)
        self._storage.ended()
        if self.accepted is not None:
            self.services.roster.leave(self.calling_ae_title, self.connection.peer_host)
            self.services.associations_count -= 1
            self._log.info("association ended", **self._who(), reason=reason)
        else:
            self.services.metrics.counters["connections_without_association"] += 1
        self._on_end(self.connection)

    # -- what services use ----------------------------------------------------------------------

    def respond(self, presentation_context_id: int, message: Any, identifier: bytes | None = None) -> None:
        """Sends a response message."""
        self.connection.send_message(presentation_context_id, message.encode(), identifier, self.fragment)

    def cancelled(self, message_id: int) -> bool:
        """Whether C-CANCEL has come for that request."""
        return message_id in self._cancelled

    def operation_ended(self) -> None:
        """Each operation calls this once, after its final response."""
        self.operations_count -= 1
        if self._releasing and not self.busy:
            self.connection.respond_release()

    def _start(
        self,
        serve: Callable[[ServiceProvider, int, Any, bytes], Coroutine[Any, Any, None]],
        presentation_context_id: int,
        message: Any,
        identifier: bytes,
    ) -> None:
        outstanding_max = self.services.config.receive_window_of(self.calling_ae_title)
        if len(self._running) >= outstanding_max or message.message_id in self._running:
            self._decline(presentation_context_id, message, outstanding_max)
            return
        self.operations_count += 1
        self._running.add(message.message_id)

        async def run() -> None:
            try:
                await serve(self, presentation_context_id, message, identifier)
            except (ConnectionError, EngineError) as error:
                self._log.warning("operation failed", calling=self.caller, error=str(error))
                self.connection.abort(f"operation failed: {error}", 2, 0)
            except Exception as error:
                self._log.error("operation crashed", calling=self.caller, error=repr(error))
                self.connection.abort("internal error", 2, 0)
                raise
            finally:
                self._running.discard(message.message_id)
                self._cancelled.discard(message.message_id)
                self.operation_ended()

        task = self.services.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _decline(self, presentation_context_id: int, message: Any, outstanding_max: int) -> None:
        """A C-FIND, C-MOVE, C-GET or N-ACTION more than may be outstanding, or a second one of a message id."""
        self.services.metrics.counters["operations_refused"] += 1
        comment = f"out of resources: {outstanding_max} operations at a time, of own message ids"
        self._log.warning("operation refused", calling=self.caller, why=comment)
        match message:
            case messages.CFindRQ():
                find_scp.refuse(self, presentation_context_id, message, comment)
            case messages.NActionRQ():
                commitment_scp.refuse(self, presentation_context_id, message, comment)
            case _:
                retrieve_scp.refuse(self, presentation_context_id, message, comment)
