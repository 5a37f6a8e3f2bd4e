"""The engine: the parts that every front end of one process shares.

    archive, ingestor     the stored instances, and the one way to store new ones
    accounts              users, their sessions and rights
    identities            providers that vouch for users
    access                permissions: every front asks once per operation
    admission             whether new instances are accepted now
    flow                  back-pressure: which connections are read
    retrieval_budget      memory for data sets that are sent
    ingest_budget         memory for received data sets, of fronts without a pool of their own
    associations          the number of open associations on all workers
    pools, transcoder     threads and processes for blocking work
    renderer, thumbnails  pictures of stored instances
    audit_trail           who stored, saw and sent what
    barrier               what other nodes of the archive have acknowledged is known here
    orders                patients, orders and scheduled steps of the hospital
    sightings             when each peer was seen last, and what it took
    config, metrics       the current configuration, and the counters

An engine knows no protocol. A front gets the engine when it is made and calls it; the engine never calls a front.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

from engine import audit
from engine.access import Access, Policy
from engine.accounts.accounts import Accounts
from engine.archive.archive import QuarantineLimits, StorageOptions
from engine.archive.hospital import has_orders, open_orders
from engine.archive.ingest.live import Ingestor
from engine.archive.rendering.renderer import Renderer
from engine.archive.rendering.thumbnails import Thumbnails
from engine.archive.supplies import Supplies
from engine.archive.transcoding.transcode import Transcoder
from engine.config import second_copies
from engine.identity.providers import Providers
from engine.metrics import Metrics
from engine.orders.stations import Stations
from engine.runtime.admission import Admission
from engine.runtime.associations_count import AssociationsCount
from engine.runtime.audit_trail import AuditTrail
from engine.runtime.barrier import Barrier
from engine.runtime.flow_control import FlowControl
from engine.runtime.ingest_budget import IngestBudget
from engine.runtime.pools import Pools
from engine.runtime.retrieval_budget import RetrievalBudget
from engine.runtime.sightings import Sightings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.archive.archive import Archive
    from engine.config import Config
    from engine.errors import EngineError
    from engine.orders.registry import Orders


@dataclass(slots=True)
class Engine:
    """The shared parts of one process's front ends."""

    loop: asyncio.AbstractEventLoop
    archive: Archive
    ingestor: Ingestor
    config: Config
    """The current configuration: a reload replaces it."""
    metrics: Metrics
    transcoder: Transcoder
    renderer: Renderer = field(default_factory=Renderer)
    associations: AssociationsCount = field(default_factory=AssociationsCount.alone)
    pools: Pools = field(default_factory=Pools)
    sightings: Sightings = field(default_factory=Sightings)
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each key of the configuration gets its value from, as far as that is known here."""
    opened_accounts: InitVar[Accounts | None] = None
    accounts: Accounts = field(init=False)
    identities: Providers = field(init=False)
    access: Access = field(init=False)
    audit_trail: AuditTrail = field(init=False)
    thumbnails: Thumbnails = field(init=False)
    admission: Admission = field(init=False)
    flow: FlowControl = field(init=False)
    retrieval_budget: RetrievalBudget = field(init=False)
    ingest_budget: IngestBudget = field(init=False)
    stations: Stations = field(init=False)
    barrier: Barrier | None = field(init=False, default=None)
    """None: the archive has one node."""
    _orders: Orders | None = field(init=False, default=None)
    _opening_orders: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self, opened_accounts: Accounts | None) -> None:
        self.accounts = opened_accounts or Accounts(None, lambda: self.config)
        self.identities = Providers(lambda: self.config)
        self.access = Policy(lambda: self.config, self.accounts.directory)
        self.audit_trail = AuditTrail(self.archive, self.pools)
        self.thumbnails = Thumbnails(self.archive, self.renderer)
        self.admission = Admission(
            lambda: self.config,
            self.metrics,
            free_bytes=self.archive.free_bytes,
            sync_latency_s=self.ingestor.commit.sync_latency_s,
            waiting_count=lambda: self.ingestor.depth,
            now=self.loop.time,
        )
        self.flow = FlowControl(
            lambda: self.config, self.metrics, share=self.associations.share, call_later=self.loop.call_later
        )
        self.retrieval_budget = RetrievalBudget(lambda: self.config, self.metrics)
        self.ingest_budget = IngestBudget(lambda: self.config)
        self.flow.ingest_bytes.append(lambda: self.ingest_budget.taken_bytes)
        self.stations = Stations(lambda: self.config)
        if (membership := self.archive.membership) is not None:
            self.barrier = Barrier(
                self.loop,
                self.pools.cluster,
                self.archive.catch_up,
                self.metrics.counters,
                refuses=membership.settings.visibility == "cluster",
            )

    @property
    def secret(self) -> bytes:
        """A secret that all processes share, for what clients carry and must not read or forge."""
        return self.accounts.secret or self.archive.secret

    @classmethod
    def open(
        cls,
        archive: Archive,
        config: Config,
        *,
        writer: str,
        on_failure: Callable[[EngineError], None],
        prewrite_bytes: int | None = None,
        associations: AssociationsCount | None = None,
    ) -> Engine:
        """An engine that writes into `archive` under the name `writer`. Call it on the engine's loop.

        `on_failure` is called with the error of a failed write or sync, which is final for the process.
        """
        storage, metrics, loop = config.storage, Metrics(), asyncio.get_running_loop()
        quarantine = config.quarantine
        options = StorageOptions(
            segment_bytes=storage.segment_bytes,
            disk_reserve_bytes=config.limits.disk_reserve_bytes,
            prewrite_bytes=storage.prewrite_bytes if prewrite_bytes is None else prewrite_bytes,
            versions_max=storage.versions_max,
        )
        ingestor = archive.live_port(
            loop,
            writer,
            options,
            on_failure,
            quarantine=QuarantineLimits(quarantine.bytes_max, quarantine.count_max) if quarantine.unparseable else None,
            counters=metrics.counters,
            second_copy=lambda: engine.config.second_copy,
        )
        transcoder = Transcoder(directory=config.data, reserve_bytes=config.limits.disk_reserve_bytes)
        engine = cls(
            loop,
            archive,
            ingestor,
            config,
            metrics,
            transcoder,
            associations=associations or AssociationsCount.alone(),
            opened_accounts=Accounts.open(config.data, lambda: engine.config, read_only=archive.is_read_only),
        )
        engine._begin_second_copies()
        return engine

    async def caught_up(self) -> None:
        """Returns when this process may answer questions about the archive: at once where it has one node. Raises
        ClusterUnreachable or CatalogBehind."""
        if self.barrier is not None:
            await self.barrier.wait()

    def orders(self) -> Orders:
        """The registry of patients and orders, opened at the first call: in a thread. Raises OrdersError."""
        with self._opening_orders:
            if self._orders is None:
                self._orders = open_orders(self.archive, self.stations)
            return self._orders

    @property
    def opened_orders(self) -> Orders | None:
        """The registry, if it has been opened."""
        return self._orders

    async def supplies(self) -> Supplies | None:
        """What linked orders supply; None: there are no orders. Raises OrdersError."""
        if not has_orders(self.archive):
            return None
        orders = self._orders
        if orders is None:
            orders = await self.pools.orders.run(self.orders)
        return Supplies(self.archive, orders)

    def close_orders(self) -> None:
        """Closes the registry, if it is open."""
        with self._opening_orders:
            if self._orders is not None:
                self._orders.close()
                self._orders = None

    def configure(self, config: Config) -> None:
        """Replaces the configuration."""
        self.config = config
        self.ingestor.keep_free(config.limits.disk_reserve_bytes)
        self._begin_second_copies()

    def _begin_second_copies(self) -> None:
        """Connects to who copies before the first instance comes, so that the state is known."""
        if self.ingestor.copies is not None:
            for place in second_copies.places(self.config):
                self.ingestor.copies.at(place)

    def stats(self) -> dict[str, object]:
        """The counters and the state of the process, as plain data."""
        return {
            **self.metrics.snapshot(),
            "waiting": self.flow.waiting_count,
            "admission": self.admission.snapshot(),
            "audit": audit.snapshot(),
            "retrieval_budget": self.retrieval_budget.snapshot(),
            "pools": self.pools.snapshot(),
            "codecs": {"transcoding": self.transcoder.unfinished, "rendering": self.renderer.waiting_count},
            "metadata_cache": self.archive.metadata.snapshot(),
            "queue_depth": self.ingestor.depth,
            "second_copies": self.ingestor.copies.snapshot() if self.ingestor.copies is not None else {},
            "group_size": self.ingestor.commit.group_sizes.snapshot(),
            "sync_latency_s": self.ingestor.commit.sync_latency_s.snapshot(),
        }

    def close(self) -> None:
        """Stores the instances that wait. The archive stays open. Call this after all fronts have been closed."""
        self.ingestor.close()
        self.transcoder.close()
        self.renderer.close()
        self.pools.close()
        self.accounts.close()
        self.close_orders()
