"""Sends stored instances to one peer, for a C-MOVE or for `filmroom send`.

It opens as many associations as the peer may have, reopens lost ones as long as the peer makes progress, and reports
the result of each instance to `Results`. `storage_scu` sends the bytes.

    instances → groups that fit 128 presentation contexts → shares, one an association → `InstanceSender`
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from engine.errors import AssociationFailed, AuditUnavailable
from engine.net.client import Address, Requestor, open_association
from engine.services.coercion import Coercer
from engine.services.contexts import in_groups, propose
from engine.services.storage_scu import InstanceSender
from engine.services.suboperations import InstanceQueue, Originator, SendResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from engine.archive.archive import Archive
    from engine.archive.supplies import Supplies
    from engine.archive.transcoding.transcode import Transcoder
    from engine.config import Config, Peer
    from engine.dimse.assembly import ChunkPool
    from engine.index.format.types import Instance
    from engine.net.trace import TraceFolder
    from engine.runtime.pools import Pools
    from engine.runtime.retrieval_budget import RetrievalBudget
    from engine.runtime.sightings import Sightings


class Resources(Protocol):
    """The parts of a process that sending needs."""

    @property
    def archive(self) -> Archive: ...
    @property
    def config(self) -> Config: ...
    @property
    def transcoder(self) -> Transcoder: ...
    @property
    def pool(self) -> ChunkPool: ...
    @property
    def trace(self) -> TraceFolder | None: ...
    @property
    def retrieval_budget(self) -> RetrievalBudget: ...
    @property
    def pools(self) -> Pools: ...
    @property
    def sightings(self) -> Sightings: ...
    async def supplies(self, ae_title: str) -> Supplies | None: ...


class Results(Protocol):
    """Receives the results. Each instance is reported exactly once, by `note`, `fail_all` or `crashed`."""

    unreachable: str
    """Why nothing more is sent to the peer; "" while it answers."""

    @property
    def cancelled(self) -> bool:
        """Whether to stop sending."""

    @property
    def sent_count(self) -> int:
        """Instances that the peer has accepted."""

    async def cleared(self) -> None:
        """Waits until an instance may be sent. A sender that has opened its way to the peer, and has not sent a byte of
        an instance, calls it. Raises AuditUnavailable."""

    def note(self, results: Sequence[SendResult], /) -> None: ...
    def fail_all(self, instances: Iterable[Instance], why: str) -> None: ...
    def crashed(self, instances: Iterable[Instance], error: Exception) -> None:
        """Our own code failed."""


class Sender(Protocol):
    """Sends instances to one peer."""

    async def send(self, instances: list[Instance], /) -> None:
        """Sends all instances, and reports a result for each. Raises AuditUnavailable, before anything was sent."""


OpenWebPeer: TypeAlias = "Callable[[Resources, Peer, Results], AbstractAsyncContextManager[Sender]]"
"""Opens a peer that has a url and no DICOM address. Entering the context raises ConfigError."""


class Destination:
    """Sends instances to one application entity."""

    def __init__(
        self,
        resources: Resources,
        peer: Peer,
        results: Results,
        originator: Originator,
        title: str = "",
        *,
        timeouts_max: int = 1,
    ) -> None:
        """`title`: the form of the peer's title in a received message.

        After `timeouts_max` consecutive associations on which the peer did not answer in time, nothing more is sent to
        it; each earlier timeout fails only the instance that was not answered.
        """
        self._resources = resources
        self._peer = peer
        self._results = results
        self._originator = originator
        self._address = Address.of(peer, resources.config, title)
        self._timeouts_max = timeouts_max
        self._timeouts = 0
        """Consecutive associations that ended in a timeout."""

    async def send(self, instances: list[Instance]) -> None:
        """Sends all instances, and reports a result for each. Raises AuditUnavailable, before anything was sent."""
        for group in in_groups(instances, self._peer.transfer_syntaxes):
            await self._send_group(group)

    async def _send_group(self, group: list[Instance]) -> None:
        """Sends a group that fits the contexts of one association, on as many associations as the peer may have."""
        results, count = self._results, self._peer.store_associations
        if results.cancelled:
            return
        if results.unreachable:
            results.fail_all(group, results.unreachable)
            return
        sent_before = results.sent_count
        try:
            async with asyncio.TaskGroup() as tasks:
                for share in filter(None, (group[number::count] for number in range(count))):
                    tasks.create_task(self._send_share(share))
        except* AuditUnavailable as errors:
            raise errors.exceptions[0] from None
        if results.sent_count > sent_before:
            results.unreachable = ""  # one share failed, but another made progress

    async def _send_share(self, share: list[Instance]) -> None:
        """Sends `share` on its own association; reopens a lost one as long as the peer makes progress.

        That is, as long as the peer answers something within message_timeout_s times `timeouts_max`.
        """
        remaining, results = share, self._results
        loop = asyncio.get_running_loop()
        progress_at, limit_s = loop.time(), self._address.message_timeout_s * self._timeouts_max
        while remaining and not results.cancelled:
            try:
                supplies = await self._resources.supplies(self._peer.aet)
                requestor = await self._open(remaining)
            except AssociationFailed as error:
                results.unreachable = str(error)
                results.fail_all(remaining, str(error))
                return
            except Exception as error:
                results.crashed(remaining, error)
                return
            count_before, sent_before = len(remaining), results.sent_count
            remaining = await self._send_on(requestor, remaining, supplies)
            if results.sent_count > sent_before:
                progress_at = loop.time()
            is_late = loop.time() - progress_at > limit_s
            if remaining and (len(remaining) == count_before or is_late):
                why = "several associations in a row were lost" if is_late else "it was lost before anything was sent"
                results.unreachable = why
                results.fail_all(remaining, why)
                return

    async def _open(self, instances: list[Instance]) -> Requestor:
        contexts = propose(instances, self._peer.transfer_syntaxes)
        address, sightings = self._address, self._resources.sightings
        place = f"{address.host}:{address.port}"
        try:
            requestor = await open_association(address, contexts, self._resources.pool, self._resources.trace)
        except AssociationFailed as error:
            sightings.unreachable(self._peer.aet, place, str(error))
            raise
        accepted = requestor.accepted
        sightings.reached(self._peer.aet, place, accepted.contexts.values() if accepted is not None else ())
        return requestor

    async def _send_on(
        self, requestor: Requestor, share: list[Instance], supplies: Supplies | None
    ) -> list[Instance]:
        """Sends until all are done or the association is lost; returns the instances that were not tried."""
        results, accepted = self._results, requestor.accepted
        assert accepted is not None
        sender = InstanceSender(
            self._resources.archive,
            self._resources.transcoder,
            requestor.connection,
            requestor.responses,
            accepted.contexts.values(),
            budget=self._resources.retrieval_budget,
            reads=self._resources.pools.reads,
            fragment=requestor.fragment,
            window=max(accepted.operations_invoked_max or self._peer.send_window, 1),
            response_timeout_s=self._address.message_timeout_s,
            cleared=results.cleared,
            preferred=self._peer.transfer_syntaxes,
            coercer=Coercer(self._resources.archive, self._resources.config, self._peer.aet, supplies),
        )
        queue, sent_before = InstanceQueue(lambda: not results.cancelled, share), results.sent_count
        try:
            async for send_results in sender.send_all(queue, self._originator, lambda: not results.cancelled):
                queue.remove(send_results)
                results.note(send_results)
            await requestor.release()
        except AssociationFailed as error:
            # Without a response an instance counts as failed, though it may have arrived. Those that were only read
            # ahead can be sent again.
            results.fail_all(sender.unanswered.values(), str(error))
            read_ahead = [each for each in queue.in_progress() if each.sop_instance_uid not in sender.unanswered]
            remaining = read_ahead + queue.remaining()
            self._timeouts = 0 if results.sent_count > sent_before else self._timeouts
            self._timeouts += requestor.connection.gave_up
            if self._timeouts >= self._timeouts_max and not results.cancelled:
                results.unreachable = f"given up: {error}"
                results.fail_all(remaining, results.unreachable)
                return []
            return remaining
        except AuditUnavailable:
            requestor.connection.abort("the audit log cannot be written", 2, 0)
            raise
        except Exception as error:
            requestor.connection.abort("internal error", 2, 0)
            results.crashed([*queue.in_progress(), *queue.remaining()], error)
        except BaseException:
            # This task was cancelled, and nothing else would end this association.
            requestor.connection.abort("the retrieval was cancelled")
            results.note(sender.unreported)
            raise
        return []
