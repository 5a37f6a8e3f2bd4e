"""One peer that stored instances are sent to, whoever wants that: a C-MOVE, or `filmroom send`.

Does not choose instances, send bytes (`storage_scu`) or answer anybody: it opens associations, as many as the peer may
have, opens lost ones again as long as that gets on, and tells `Results` what became of each instance.

    instances → groups that fit 128 presentation contexts → shares, one an association → `InstanceSender`
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from engine.errors import AssociationFailed
from engine.net.client import Address, Requestor, open_association
from engine.services.coercion import Coercer
from engine.services.contexts import in_groups, propose
from engine.services.storage_scu import InstanceSender
from engine.services.suboperations import Originator, Sent, Source

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.transcoding.transcode import Transcoder
    from engine.config import Config, Peer
    from engine.dimse.assembly import ChunkPool
    from engine.index.format.types import Instance
    from engine.net.trace import TraceFolder
    from engine.runtime.pools import Pools
    from engine.runtime.retrieval_budget import RetrievalBudget


class Resources(Protocol):
    """What of a process sending takes."""

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


class Results(Protocol):
    """Who counts. Each instance is told exactly once: by `note`, or as one of `fail_all` or `crashed`."""

    unreachable: str
    """Why the peer was given up at last; "" while it answers. Nothing more is sent to it then."""

    @property
    def cancelled(self) -> bool:
        """Whether the rest is not wanted any more."""

    @property
    def answered(self) -> int:
        """Instances that the peer has taken."""

    def note(self, results: Sequence[Sent], /) -> None: ...
    def fail_all(self, instances: Iterable[Instance], why: str) -> None: ...
    def crashed(self, instances: Iterable[Instance], error: Exception) -> None:
        """A mistake of ours."""


class Destination:
    """One application entity that instances are sent to."""

    def __init__(
        self,
        resources: Resources,
        peer: Peer,
        results: Results,
        originator: Originator,
        named: str = "",
        *,
        silences_max: int = 1,
    ) -> None:
        """`named`: the peer's title as it came in a message.

        After `silences_max` associations, one after the other, on which the peer answered nothing in time, it is given
        up; fewer cost the instance at which it fell silent.
        """
        self._resources = resources
        self._peer = peer
        self._results = results
        self._originator = originator
        self._address = Address.of(peer, resources.config, named)
        self._silences_max = silences_max
        self._silences = 0
        """Since the peer answered something."""

    async def send(self, instances: list[Instance]) -> None:
        """Sends them all, or tells why not."""
        for group in in_groups(instances, self._peer.transfer_syntaxes):
            await self._send_group(group)

    async def _send_group(self, group: list[Instance]) -> None:
        """Sends what fits the contexts of one association, on as many associations as the peer may have."""
        results, count = self._results, self._peer.store_associations
        if results.cancelled:
            return
        if results.unreachable:
            results.fail_all(group, results.unreachable)
            return
        answered = results.answered
        async with asyncio.TaskGroup() as tasks:
            for share in filter(None, (group[number::count] for number in range(count))):
                tasks.create_task(self._send_share(share))
        if results.answered > answered:
            results.unreachable = ""  # one share was given up, another got on

    async def _send_share(self, share: list[Instance]) -> None:
        """Sends `share` on an association of its own; a lost one is opened again as long as that gets on.

        That is as long as the peer answers something in message_timeout_s, association after association, or in so
        many times that as silences are borne.
        """
        left, results = share, self._results
        loop = asyncio.get_running_loop()
        answered_at, limit_s = loop.time(), self._address.message_timeout_s * self._silences_max
        while left and not results.cancelled:
            try:
                requestor = await self._open(left)
            except AssociationFailed as error:
                results.unreachable = str(error)
                results.fail_all(left, str(error))
                return
            except Exception as error:
                results.crashed(left, error)
                return
            before, answered = len(left), results.answered
            left = await self._send_on(requestor, left)
            if results.answered > answered:
                answered_at = loop.time()
            is_late = loop.time() - answered_at > limit_s
            if left and (len(left) == before or is_late):
                why = "association after association was lost" if is_late else "it was lost before anything was sent"
                results.unreachable = why
                results.fail_all(left, why)
                return

    async def _open(self, instances: list[Instance]) -> Requestor:
        contexts = propose(instances, self._peer.transfer_syntaxes)
        return await open_association(self._address, contexts, self._resources.pool, self._resources.trace)

    async def _send_on(self, requestor: Requestor, share: list[Instance]) -> list[Instance]:
        """Sends until all are through or the association is lost; what has not been tried then."""
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
            preferred=self._peer.transfer_syntaxes,
            coercer=Coercer(self._resources.archive, self._resources.config, self._peer.aet),
        )
        source, answered = Source(lambda: not results.cancelled, share), results.answered
        try:
            async for answers in sender.send_all(source, self._originator, lambda: not results.cancelled):
                source.ended(answers)
                results.note(answers)
            await requestor.release()
        except AssociationFailed as error:
            # What was sent may or may not have arrived: only an answer counts. What was only read ahead can go again.
            results.fail_all(sender.unanswered.values(), str(error))
            read_ahead = [each for each in source.under_way() if each.sop_instance_uid not in sender.unanswered]
            left = read_ahead + source.left()
            self._silences = 0 if results.answered > answered else self._silences
            self._silences += requestor.connection.gave_up
            if self._silences >= self._silences_max and not results.cancelled:
                results.unreachable = f"given up: {error}"
                results.fail_all(left, results.unreachable)
                return []
            return left
        except Exception as error:
            requestor.connection.abort("internal error", 2, 0)
            results.crashed([*source.under_way(), *source.left()], error)
        except BaseException:
            # Whoever wanted it is gone: nobody else would end this association.
            requestor.connection.abort("the retrieval was given up")
            results.note(sender.untold)
            raise
        return []
