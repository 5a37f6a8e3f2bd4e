"""What all associations of a worker share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.access import Access, PeerRules
from engine.services.admission import Admission
from engine.services.budget import RetrievalBudget
from engine.services.commitment.commitments import Commitments
from engine.services.roster import Roster
from engine.services.traffic import Traffic

if TYPE_CHECKING:
    import asyncio

    from engine.archive.archive import Archive
    from engine.archive.ingest.live import Ingestor
    from engine.archive.transcoding.transcode import Transcoder
    from engine.config import Config
    from engine.dimse.assembly import ChunkPool
    from engine.metrics import Metrics
    from engine.net.trace import TraceFolder


@dataclass(slots=True)
class Services:
    """See the module's head."""

    loop: asyncio.AbstractEventLoop
    archive: Archive
    ingestor: Ingestor
    config: Config
    """The one in force: a reload puts another one here."""
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
    access: Access = field(init=False)
    """Who may do what."""
    admission: Admission = field(init=False)
    traffic: Traffic = field(init=False)
    retrieval_budget: RetrievalBudget = field(init=False)
    commitments: Commitments = field(init=False)

    def __post_init__(self) -> None:
        files, segments = self.archive.files, str(self.archive.layout.segments)
        self.access = PeerRules(lambda: self.config)
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
