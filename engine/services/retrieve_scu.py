"""Query/Retrieve Service Class, C-GET and C-MOVE SCU (PS3.4 C.4.2, C.4.3): requests instances from another archive.

`pull` chooses the instances and repeats requests. Instances of a C-GET are stored like those of any C-STORE
(`storage_scp`), with the peer as calling AE title; instances that were not requested are refused.

    contexts of a C-GET: one for C-GET itself; for each SOP class one for native transfer syntaxes, and as many others
    as there is room for, each with few syntaxes, the most common ones alone: the peer can send everything as stored
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from engine.access import Kind, Principal
from engine.dicom import transfer_syntax
from engine.dimse.messages import CGetRQ, CMoveRQ, CStoreRQ
from engine.dimse.status import Category, RetrieveStatus, category
from engine.errors import AssociationFailed, EngineError, InstanceRefused, Refusal
from engine.net.client import CONTEXTS_MAX, PLAIN, Address, Requestor, open_association
from engine.services.find_scu import Keys, encode_keys
from engine.services.information_models import GET, MOVE, sop_class
from engine.services.session import Session
from engine.services.storage_scp import StorageProvider
from engine.titles import readable
from engine.ul.pdu import PresentationContextRQ, RoleSelection

if TYPE_CHECKING:
    from engine.archive.ingest.request import StoreRequest
    from engine.dimse.assembly import DataSet
    from engine.dimse.messages import Request
    from engine.index.format.types import Outcome
    from engine.net.connection import Connection
    from engine.services.shared import Services
    from engine.ul.pdu import AssociateAC, AssociateRQ

CLASSES_MAX = 40
"""SOP classes of one association: at least three contexts each."""

SYNTAXES_MAX = 20
"""Transfer syntaxes of a context. DCMTK ends an association for more than 50, others for fewer; PS3.8 has no limit."""

STUCK_FACTOR = 10
"""A peer that sends only pending responses and no instances is aborted after so many times its timeout."""

_OTHER_NATIVE = (transfer_syntax.EXPLICIT_VR_BIG_ENDIAN.uid, transfer_syntax.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid)
"""In a separate context: many peers prefer these to compressed ones, and could then send nothing compressed."""

_COMMON = ("4.70", "4.90", "4.50", "4.57", "4.80", "5", "4.91", "4.51", "4.81", "4.102", "4.100", "4.103", "4.201")
_COMPRESSED = tuple(
    dict.fromkeys(
        [f"1.2.840.10008.1.2.{arcs}" for arcs in _COMMON]
        + [syntax.uid for syntax in transfer_syntax.ALL if syntax not in transfer_syntax.UNCOMPRESSED]
    )
)
"""The most common ones first."""


def storage_contexts(classes: Sequence[str], room: int) -> list[tuple[str, tuple[str, ...]]]:
    """The (SOP class, transfer syntaxes) to propose for these SOP classes in `room` contexts."""
    each = min(room // max(len(classes), 1), 2 + len(_COMPRESSED))
    proposals: list[tuple[str, tuple[str, ...]]] = [(uid, PLAIN) for uid in classes[:room]]
    if each > 2:
        each -= 1
        proposals += [(uid, _OTHER_NATIVE) for uid in classes]
    for number in range(each - 1):
        proposals += [(uid, _COMPRESSED[number :: each - 1][:SYNTAXES_MAX]) for uid in classes]
    return proposals


class Arrivals:
    """Receives the results of a retrieval."""

    def is_expected(self, sop_instance_uid: str) -> bool:
        """Whether the instance was requested."""
        raise NotImplementedError

    def on_arrival(self, sop_instance_uid: str, outcome: Outcome | EngineError, length: int) -> None:
        """An instance was stored or refused; `length` of its data set in bytes."""
        raise NotImplementedError


class _GetStorage(StorageProvider):
    """C-STORE on an association that we requested: stores the requested instances, and reports each."""

    def __init__(self, session: Session, arrivals: Arrivals) -> None:
        super().__init__(session)
        self._arrivals = arrivals

    def receive(self, presentation_context_id: int, rq: CStoreRQ, data_set: DataSet) -> None:
        """Refuses an instance that was not requested without reading it."""
        if presentation_context_id in self._streams or self._arrivals.is_expected(rq.affected_sop_instance_uid):
            super().receive(presentation_context_id, rq, data_set)
            return
        data_set.release()
        self._unanswered += 1
        self._answer(presentation_context_id, rq, 0, _not_requested())

    def receive_part(self, presentation_context_id: int, rq: CStoreRQ, part: DataSet) -> None:
        """The same for a part of a large instance."""
        is_expected = self._arrivals.is_expected(rq.affected_sop_instance_uid)
        super().receive_part(presentation_context_id, rq, part)
        if not is_expected:
            self._streams[presentation_context_id].error = _not_requested()

    def _answer(
        self,
        presentation_context_id: int,
        rq: CStoreRQ,
        length: int,
        outcome: Outcome | EngineError,
        request: StoreRequest | None = None,
    ) -> None:
        """Also reports the result."""
        super()._answer(presentation_context_id, rq, length, outcome, request)
        self._arrivals.on_arrival(rq.affected_sop_instance_uid, outcome, length)


def _not_requested() -> InstanceRefused:
    return InstanceRefused("it was not requested", Refusal.NOT_AUTHORIZED)


class GetRequestor(Requestor):
    """An association for C-GET: stores its instances as if the peer had called us."""

    def __init__(
        self, connection: Connection, rq: AssociateRQ, address: Address, services: Services, arrivals: Arrivals
    ) -> None:
        super().__init__(connection, rq, address)
        self._called_ae_title = rq.called_ae_title
        self._calling_ae_title = rq.calling_ae_title
        self._services = services
        self._arrivals = arrivals
        self._stores: dict[int, CStoreRQ] = {}
        self._storage: _GetStorage | None = None

    def associate_accepted(self, ac: AssociateAC) -> None:
        """Handles the peer's A-ASSOCIATE-AC."""
        super().associate_accepted(ac)
        assert self.accepted is not None
        principal = Principal(Kind.PEER, self._called_ae_title, self.connection.peer_host)
        session = Session(self._services, self.connection, principal, self._calling_ae_title, self.accepted)
        self._storage = _GetStorage(session, self._arrivals)
        self._storage.prepare()

    def request_received(
        self, presentation_context_id: int, command: bytes, message: Request, has_data_set: bool
    ) -> None:
        """Remembers a C-STORE of the C-GET until its data set comes."""
        if isinstance(message, CStoreRQ) and has_data_set and self._storage is not None:
            self._stores[presentation_context_id] = message
            self._storage.request(presentation_context_id, message, has_data_set)
        else:
            super().request_received(presentation_context_id, command, message, has_data_set)

    def data_set_received(self, presentation_context_id: int, data_set: DataSet, is_last: bool) -> None:
        """Stores a data set, or a part of it."""
        rq = self._stores.get(presentation_context_id)
        if rq is None or self._storage is None:
            super().data_set_received(presentation_context_id, data_set, is_last)
        elif is_last:
            del self._stores[presentation_context_id]
            self._storage.receive(presentation_context_id, rq, data_set)
        else:
            self._storage.receive_part(presentation_context_id, rq, data_set)

    def association_ended(self, reason: str) -> None:
        """Drops incomplete objects."""
        super().association_ended(reason)
        if self._storage is not None:
            self._storage.ended()


class Retriever:
    """Requests instances of one peer by C-GET or C-MOVE, on one association that is opened when it is needed."""

    def __init__(self, services: Services, address: Address, arrivals: Arrivals, move_destination: str = "") -> None:
        """`move_destination`: an AE title; "" for C-GET."""
        self._services = services
        self._address = address
        self._arrivals = arrivals
        self._destination = move_destination
        self._name = readable(address.called_ae_title)
        self._requestor: Requestor | None = None
        self._classes: frozenset[str] = frozenset()

    async def retrieve(
        self, model: int, level: str, keys: Keys, classes: Iterable[str], progress: Callable[[], object]
    ) -> str:
        """Runs one C-GET or C-MOVE; returns the peer's final answer, "" for success.

        `classes`: SOP classes of the instances. `progress`: returns a different value after each arrival. Raises
        AssociationFailed when no association is possible, or the peer does not know the destination; AssociationLost
        when an association was lost.
        """
        requestor = await self._open(model, frozenset(classes))
        operation = MOVE if self._destination else GET
        operation_uid = sop_class(model, operation)
        assert requestor.accepted is not None
        context = next(
            (each for each in requestor.accepted.contexts.values() if each.abstract_syntax == operation_uid), None
        )
        if context is None:
            await self.close()
            name = "C-MOVE" if self._destination else "C-GET; try --move"
            raise AssociationFailed(f"{readable(self._address.called_ae_title)} does not support {name}")

        def make(message_id: int) -> CGetRQ | CMoveRQ:
            if self._destination:
                return CMoveRQ(message_id, operation_uid, self._destination)
            return CGetRQ(message_id, operation_uid)

        try:
            identifier = encode_keys(keys, context.transfer_syntax)
            message_id, stream = requestor.request_several(context.presentation_context_id, make, identifier)
            try:
                response = await self._wait_for_final(requestor, stream, progress)
            except asyncio.CancelledError:
                requestor.cancel(context.presentation_context_id, message_id)
                raise
            finally:
                requestor.responses.forget(message_id)
        except AssociationFailed as error:
            self._requestor = None
            raise AssociationLost(str(error), is_timeout=requestor.connection.gave_up) from error
        if self._destination and response.status == RetrieveStatus.MOVE_DESTINATION_UNKNOWN:
            raise AssociationFailed(f"{self._name} does not know {readable(self._destination)} (status A801)")
        return _answer_text(response)

    def is_class_refused(self, sop_class_uid: str) -> bool:
        """Whether the peer accepted no context for a SOP class on the open association."""
        requestor = self._requestor
        if self._destination or requestor is None or requestor.accepted is None:
            return False
        return all(each.abstract_syntax != sop_class_uid for each in requestor.accepted.contexts.values())

    def is_role_refused(self, sop_class_uid: str) -> bool:
        """Whether the peer accepted contexts for a SOP class, but on none of them our SCP role."""
        requestor = self._requestor
        if self._destination or requestor is None or requestor.accepted is None:
            return False
        contexts = [each for each in requestor.accepted.contexts.values() if each.abstract_syntax == sop_class_uid]
        return bool(contexts) and not any(each.we_are_scp for each in contexts)

    async def close(self) -> None:
        """Releases the association, if there is one."""
        requestor, self._requestor = self._requestor, None
        if requestor is not None and requestor.connection.is_open:
            await requestor.release()

    def abort(self) -> None:
        """Aborts the association, if there is one."""
        if self._requestor is not None:
            self._requestor.connection.abort("no longer needed")

    # -- inside ---------------------------------------------------------------------------------

    async def _open(self, model: int, classes: frozenset[str]) -> Requestor:
        requestor = self._requestor
        if requestor is not None and requestor.connection.is_open and classes <= self._classes:
            return requestor
        await self.close()
        operation = MOVE if self._destination else GET
        proposals: list[tuple[str, tuple[str, ...]]] = [(sop_class(model, operation), PLAIN)]
        roles: list[RoleSelection] = []
        if not self._destination:
            sop_class_uids = sorted(classes)
            proposals += storage_contexts(sop_class_uids, CONTEXTS_MAX - 1)
            roles = [RoleSelection(uid, scu_role=False, scp_role=True) for uid in sop_class_uids]
        self._requestor = await open_association(
            self._address,
            [PresentationContextRQ(2 * number + 1, *proposal) for number, proposal in enumerate(proposals)],
            self._services.pool,
            self._services.trace,
            roles,
            lambda connection, rq, address: GetRequestor(connection, rq, address, self._services, self._arrivals),
        )
        self._classes = classes
        return self._requestor

    async def _wait_for_final(self, requestor: Requestor, stream: Any, progress: Callable[[], object]) -> Any:
        """Waits for the final response. Aborts after a silence, or after many pending responses without an arrival."""
        limit_s, connection = self._address.message_timeout_s, requestor.connection
        loop = asyncio.get_running_loop()
        bytes_at = progress_at = loop.time()
        remaining: int | None = None
        bytes_now, progress_now = connection.received_bytes, (progress(), remaining)
        while True:
            try:
                response, _ = await stream.next(min(limit_s / 4, 1.0))
            except TimeoutError:
                response = None
            if response is not None:
                if category(response.status) is not Category.PENDING:
                    return response
                remaining = response.number_of_remaining_suboperations if self._destination else None
            now = loop.time()
            bytes_before, bytes_now = bytes_now, connection.received_bytes
            if bytes_now != bytes_before or not connection.is_reading:
                bytes_at = now
            progress_before, progress_now = progress_now, (progress(), remaining)
            if progress_now != progress_before or not connection.is_reading:
                progress_at = now
            why = ""
            if now - bytes_at > limit_s:
                why = f"{self._name} was silent for {limit_s:g} s"
            elif now - progress_at > STUCK_FACTOR * limit_s:
                why = f"{self._name} sent no instance for {STUCK_FACTOR * limit_s:g} s"
            if why:
                connection.give_up(why)
                raise AssociationFailed(why)


class AssociationLost(AssociationFailed):
    """An association was lost in the middle of a retrieval; another one may be possible."""

    def __init__(self, why: str, *, is_timeout: bool = False) -> None:
        """`is_timeout`: we aborted it, because the peer was silent or sent no instances."""
        super().__init__(why)
        self.is_timeout = is_timeout


def _answer_text(response: Any) -> str:
    """A final response in words; "" for success without failures."""
    failed_count = response.number_of_failed_suboperations
    if category(response.status) is Category.SUCCESS and not failed_count:
        return ""
    failures = f", {failed_count} failed" if failed_count else ""
    comment = f": {response.error_comment}" if response.error_comment else ""
    return f"status {response.status:04X}{failures}{comment}"
