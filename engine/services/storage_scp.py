"""Storage Service Class, SCP (PS3.4 Annex B): passes data sets to the archive and answers when it has committed them.

It neither parses data sets nor waits: results come by callback, in any order, so several C-STOREs of one association
may be outstanding (asynchronous operations, PS3.7 D.3.3.3). When more are outstanding than the limits allow, reading
pauses, which is all the back-pressure that a sender understands.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from engine import audit, guards, log
from engine.access import NOTHING, Action
from engine.archive.ingest.request import POLICIES, StoreRequest
from engine.archive.ingest.stream import StreamIngest
from engine.dicom.elements import SCAN_LIMITS, ScanLimits
from engine.dimse.assembly import DataSet, p_data_tf
from engine.dimse.messages import CStoreRQ, CStoreRSP
from engine.dimse.status import Service, StoreStatus, status_of
from engine.errors import EngineError, InstanceRefused, Refusal, StorageError, StorageFull, for_log
from engine.index.format.types import Outcome
from engine.runtime.admission import full_comment
from engine.runtime.audit_trail import Act, Arrivals
from engine.runtime.store_recorder import StoreRecorder
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from engine.archive.ingest.request import Durable
    from engine.config import Config
    from engine.services.session import Session

logger = log.get("services.storage_scp")

TRUNCATED_COMMENT = "stored, but the data set ends early"
KEPT_ASIDE_COMMENT = "kept aside: another instance of this UID is current"


class StorageProvider:
    """C-STORE on one association."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._services = session.services
        self._connection = session.connection
        self._allowed = False
        self._scope = NOTHING
        self._config: Config | None = None
        """The configuration by which these two were decided."""
        self._durable = True
        self._durable_at: Durable = "local"
        self._policy = 0
        self._limits = SCAN_LIMITS
        self._accept_truncated = False
        self._window = 1
        self._is_paused = False
        self._unanswered = 0
        """Received data sets without a response: `_answer` will be called for each."""
        self._streams: dict[int, _Stream] = {}
        self._chunks_max = 0
        self._audited: Arrivals | None = None
        """What was stored of each study, for the audit log; None: it is off."""

    def prepare(self) -> None:
        """Reads the permissions and settings of the calling AE title. Call this after negotiation."""
        session, limits = self._session, self._services.config.limits
        settings = session.settings
        self._allowed = bool(session.allowed(Action.STORE))
        self._scope = session.scope(Action.STORE)
        self._config = self._services.config
        self._durable = settings.durability == "durable"
        self._durable_at = settings.durable
        self._policy = POLICIES[settings.duplicates]
        self._limits = ScanLimits(limits.nesting_depth_max, limits.element_count_max)
        self._accept_truncated = settings.accept_truncated
        self._window = max(settings.receive_window, 1)
        self._chunks_max = max(1, limits.ingest_bytes_max // self._services.pool.chunk_bytes)
        about = logger.about(self._connection.peer_host)
        self._recorder = StoreRecorder(self._services.engine, about, self._session.caller)
        if self._allowed:
            self._services.engine.flow.began(self._connection, session.calling_ae_title)
        if self._allowed and audit.is_on():
            self._audited = Arrivals(self._services.engine.audit_trail, Act(session.principal, "C-STORE"))
            self._audited.start(self._services.engine.loop)

    def request(self, presentation_context_id: int, rq: CStoreRQ, has_data_set: bool) -> None:
        """Handles a C-STORE-RQ: the association is busy until its response."""
        if not has_data_set:
            self._connection.abort("CStoreRQ without its data set", 0, 0)
            return
        self._session.operation_began()
        self._services.engine.flow.wake()

    def receive(self, presentation_context_id: int, rq: CStoreRQ, data_set: DataSet) -> None:
        """Stores a whole data set, or the last part of a large one."""
        start_s = perf_counter()
        self._check_permission()
        self._unanswered += 1
        length = data_set.offset + data_set.length
        stream = self._streams.pop(presentation_context_id, None)
        request = stream.request if stream is not None else self._request(presentation_context_id, rq)

        def done(outcome: Outcome | EngineError) -> None:
            self._services.engine.metrics.store_latency_s.observe(perf_counter() - start_s)
            self._answer(presentation_context_id, rq, length, outcome, request)

        if stream is not None:
            stream.last(data_set, done)
            return
        if not self._allowed:
            data_set.release()
            self._refuse(presentation_context_id, rq)
            return
        self._services.engine.flow.received(self._connection, data_set.length)
        refusal = self._services.engine.admission.refusal() or self._too_long(length)
        if refusal is not None:
            data_set.release()
            self._answer(presentation_context_id, rq, 0, refusal)
            return
        self._services.engine.ingestor.store(data_set, request, done)
        self._pause_if_full()

    def receive_part(self, presentation_context_id: int, rq: CStoreRQ, part: DataSet) -> None:
        """Stores a part of an object above the stream threshold; reading pauses until it is written."""
        stream = self._streams.get(presentation_context_id)
        if stream is None:
            self._check_permission()
            stream = _Stream(self._services.engine.loop, self._connection, self._request(presentation_context_id, rq))
            self._streams[presentation_context_id] = stream
            refusal = self._services.engine.admission.refusal()
            if not self._allowed:
                stream.error = InstanceRefused("not allowed to store", Refusal.NOT_AUTHORIZED)
            elif refusal is not None:
                # Further parts are read and dropped.
                stream.error = refusal
            else:
                stream.begin(self._services.engine.ingestor.begin_stream)
        stream.error = stream.error or self._too_long(part.offset + part.length)
        self._services.engine.flow.received(self._connection, part.length)
        stream.part(part)

    def ended(self) -> None:
        """The association has ended: drops incomplete objects."""
        self._services.engine.flow.ended(self._connection)
        for stream in self._streams.values():
            stream.abort()
        self._streams.clear()
        if self._audited is not None:
            self._audited.end()

    # -- inside ---------------------------------------------------------------------------------

    def _check_permission(self) -> None:
        """Withdraws on an open association what the rules do not allow any more. New rights need a new association.

        It costs a comparison an instance: the rules change with the configuration, and with the accounts of a user.
        """
        config = self._services.config
        if config is self._config and not self._session.principal.user:
            return
        self._config = config
        self._allowed = self._allowed and bool(self._session.allowed(Action.STORE))
        self._scope = self._session.scope(Action.STORE)

    def _request(self, presentation_context_id: int, rq: CStoreRQ) -> StoreRequest:
        return StoreRequest(
            self._session.contexts[presentation_context_id].transfer_syntax,
            self._session.calling_ae_title,
            rq.affected_sop_class_uid,
            rq.affected_sop_instance_uid,
            self._durable,
            self._policy,
            self._limits,
            self._accept_truncated,
            scope=self._scope,
            durable_at=self._durable_at,
        )

    def _too_long(self, length: int) -> InstanceRefused | None:
        if length <= self._services.config.limits.data_set_bytes_max:
            return None
        return InstanceRefused("out of resources: the data set is too long", Refusal.OUT_OF_RESOURCES)

    def _pause_if_full(self) -> None:
        """Pauses reading when the window of this association is full, or all associations hold too much memory.

        It pauses only while a response is outstanding, because a response resumes reading.
        """
        if not self._is_paused and (
            self._unanswered > self._window or (self._unanswered and self._services.pool.outstanding > self._chunks_max)
        ):
            self._is_paused = True
            self._connection.pause_reading()

    def _answer(
        self,
        presentation_context_id: int,
        rq: CStoreRQ,
        length: int,
        outcome: Outcome | EngineError,
        request: StoreRequest | None = None,
    ) -> None:
        self._unanswered -= 1
        code: int = StoreStatus.SUCCESS
        comment = ""
        if isinstance(outcome, EngineError):
            code = status_of(outcome, Service.STORE)
            comment = full_comment(outcome) if isinstance(outcome, StorageFull) else str(outcome)
            self._recorder.refused(outcome, rq.affected_sop_instance_uid, code)
        else:
            self._recorder.stored(outcome, rq.affected_sop_instance_uid, length)
            if self._audited is not None and request is not None:
                counts = self._audited.counts
                key = (request.study, rq.affected_sop_class_uid, outcome is not Outcome.DUPLICATE)
                counts[key] = counts.get(key, 0) + 1
            if outcome is not Outcome.STORED:
                code, comment = self._warning(outcome)
        rsp = CStoreRSP(
            rq.message_id, rq.affected_sop_class_uid, rq.affected_sop_instance_uid, code, error_comment=comment[:64]
        ).encode()
        self._connection.trace_command(presentation_context_id, rsp)
        self._connection.send(p_data_tf(presentation_context_id, True, rsp, self._session.fragment))
        if self._is_paused:
            self._is_paused = False
            self._connection.resume_reading()
        self._session.operation_ended()

    def _warning(self, outcome: Outcome) -> tuple[int, str]:
        if outcome is Outcome.TRUNCATED:
            return StoreStatus.ELEMENTS_DISCARDED, TRUNCATED_COMMENT
        if outcome is Outcome.KEPT_ASIDE and self._services.config.duplicates_answer == "warning":
            return StoreStatus.COERCION_OF_DATA_ELEMENTS, KEPT_ASIDE_COMMENT
        return StoreStatus.SUCCESS, ""

    def _refuse(self, presentation_context_id: int, rq: CStoreRQ) -> None:
        self._answer(presentation_context_id, rq, 0, InstanceRefused("not allowed to store", Refusal.NOT_AUTHORIZED))


class _Stream:
    """Receives one large object: writes its parts in order, one at a time, while reading pauses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: object, request: StoreRequest) -> None:
        self.request = request
        self._loop = loop
        self._connection = connection
        self._ingest: StreamIngest | None = None
        self._previous: asyncio.Task[None] | None = None
        self.error: EngineError | None = None

    def begin(self, begin_stream: Callable[[StoreRequest], StreamIngest]) -> None:
        """Begins to store the object; an error is answered with the last part."""
        try:
            self._ingest = begin_stream(self.request)
        except EngineError as error:
            self.error = error

    def part(self, part: DataSet) -> None:
        """Writes one part, or drops it after an error."""
        if self.error is not None or self._ingest is None:
            part.release()
            return
        self._connection.pause_reading()  # type: ignore[attr-defined]
        self._previous = self._loop.create_task(self._write(self._previous, part))

    async def _write(self, previous: asyncio.Task[None] | None, part: DataSet) -> None:
        try:
            if previous is not None:
                await previous
            if self.error is None:
                assert self._ingest is not None
                await self._ingest.write(part)
        except EngineError as error:
            self.error = error
        except Exception as error:
            logger.error("storing a large object crashed", error=for_log(error))
            self.error = StorageError(f"the store failed: {error!r}")
        finally:
            part.release()
            self._connection.resume_reading()  # type: ignore[attr-defined]

    def last(self, data_set: DataSet, done: object) -> None:
        """Finishes the object and answers."""
        guards.watch(self._loop.create_task(self._finish(data_set, done)), "large object")

    async def _finish(self, data_set: DataSet, done: object) -> None:
        outcome: Outcome | EngineError
        try:
            if self._previous is not None:
                await self._previous
            if self.error is not None or self._ingest is None:
                outcome = self.error or InstanceRefused("nothing was stored")
            else:
                outcome = await self._ingest.finish(data_set)
        except EngineError as error:
            outcome = error
        except Exception as error:
            logger.error("storing a large object crashed", error=for_log(error))
            outcome = StorageError(f"the store failed: {error!r}")
        data_set.release()
        try:
            if isinstance(outcome, EngineError):
                await self._give_up()
        finally:
            done(outcome)  # type: ignore[operator]

    async def _give_up(self) -> None:
        ingest, self._ingest = self._ingest, None
        if ingest is not None:
            try:
                await ingest.abort()
            except EngineError as error:
                # Recovery removes the incomplete object.
                logger.error("an incomplete large object stays on the disk", error=for_log(error))

    def abort(self) -> None:
        """Drops the incomplete object; its sender has gone."""

        async def give_up() -> None:
            if self._previous is not None:
                await self._previous
            await self._give_up()

        guards.watch(self._loop.create_task(give_up()), "large object")


def _attach(session: Session) -> StorageProvider:
    storage = StorageProvider(session)
    storage.prepare()
    return storage


SERVICE = ServiceClass(
    name="Storage",
    sop_class_uids=(),  # all accepted classes that no other service serves: see `registry`
    action=Action.STORE,
    requests=frozenset({CStoreRQ}),
    responses=frozenset({CStoreRSP}),
    attach=_attach,
)
