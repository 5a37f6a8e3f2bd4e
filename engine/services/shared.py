"""The parts that all associations of a process share: its engine, and what only DIMSE needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.access import Action
from engine.services.commitment.commitments import Commitments
from engine.services.user_identity import UserIdentities, token_verifier

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.supplies import Supplies
    from engine.archive.transcoding.transcode import Transcoder
    from engine.config import Config
    from engine.dimse.assembly import ChunkPool
    from engine.net.trace import TraceFolder
    from engine.runtime.engine import Engine
    from engine.runtime.pools import Pools
    from engine.runtime.retrieval_budget import RetrievalBudget
    from engine.runtime.sightings import Sightings
    from engine.services.destination import OpenWebPeer


@dataclass(slots=True)
class Services:
    """The shared parts of one process's associations."""

    engine: Engine
    pool: ChunkPool
    """Memory for received data sets."""
    trace: TraceFolder | None = None
    """Folder for traces of associations that we request."""
    open_web_peer: OpenWebPeer | None = None
    """Opens a peer that takes instances by DICOMweb only, for a C-MOVE to it."""
    associations_count: int = 0
    """Open associations in this process."""
    find_count: int = 0
    """C-FINDs in progress in this process."""
    user_identities: UserIdentities = field(init=False)
    commitments: Commitments = field(init=False)

    def __post_init__(self) -> None:
        engine = self.engine
        engine.flow.ingest_bytes.append(lambda: self.pool.outstanding * self.pool.chunk_bytes)
        identities = engine.identities
        self.user_identities = UserIdentities(
            engine.accounts,
            engine.loop.time,
            token_verifier(identities, engine.accounts),
            lambda: identities.accepts_tokens,
        )
        self.commitments = Commitments(
            engine.archive,
            lambda: engine.config,
            engine.metrics.counters,
            engine.ingestor.commit.fail,
            lambda title: engine.access.scope_of_peer(title, Action.COMMIT),
        )

    # -- `destination.Resources` -------------------------------------------------------------------

    @property
    def archive(self) -> Archive:
        """The archive."""
        return self.engine.archive

    @property
    def config(self) -> Config:
        """The current configuration."""
        return self.engine.config

    @property
    def transcoder(self) -> Transcoder:
        """The codecs."""
        return self.engine.transcoder

    @property
    def retrieval_budget(self) -> RetrievalBudget:
        """The memory budget of retrievals."""
        return self.engine.retrieval_budget

    @property
    def sightings(self) -> Sightings:
        """When each peer was seen last."""
        return self.engine.sightings

    async def supplies(self, ae_title: str) -> Supplies | None:
        """What a receiver gets of linked orders. Raises OrdersError."""
        return await self.engine.supplies() if self.config.settings_of(ae_title).supply else None

    @property
    def pools(self) -> Pools:
        """The thread pools."""
        return self.engine.pools
