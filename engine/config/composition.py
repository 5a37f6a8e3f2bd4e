"""The whole configuration: the tables of `schema`, the settings that stand in none, and what a reload takes over.

A `Config` never changes. What holds for one AE title is looked up in its `book`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine.config.peers import PeerBook, PeerSettings
from engine.config.schema import (
    AETitle,
    Attribute,
    Coercion,
    Commitment,
    Compaction,
    Duplicates,
    DuplicatesAnswer,
    Durability,
    Feed,
    Limits,
    Log,
    Peer,
    Port,
    Quarantine,
    Queries,
    Reindex,
    Retention,
    Scrub,
    Storage,
    Target,
    check_title,
)
from engine.web.settings import Http


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """All settings of one server or command."""

    data: Path = Path("filmroom-data")
    """The folder of the archive: segments, index, control socket."""

    aet: AETitle = "FILMROOM"
    """Our AE title."""

    host: str = "0.0.0.0"
    """Address to listen on. All interfaces, since modalities are other machines."""

    dicom_port: Port = 11112
    """Registered for DICOM and, unlike 104, open to a process without privileges; 0: any free one."""

    workers: Annotated[int, Meta(ge=1, le=1024)] = msgspec.field(default_factory=_cores)
    """Processes that serve; one a core."""

    durability: Durability = "durable"
    """durable: a Success was synced to disk. write-behind: it was written, survives kill -9, and is synced within
    write_behind_sync_s; a power cut may take that long's worth of instances."""

    duplicates: Duplicates = "keep-first"
    """What becomes of a known SOP Instance UID with other bytes: the first stays current and the new one is kept
    aside; the new one replaces it; or the new one is current and the first is kept aside. A UID should never
    come back with other contents (PS3.5 9.1), so the safest is to change nothing that was already seen. The same
    content in another transfer syntax, with other lengths or padding is never such a conflict."""

    duplicates_answer: DuplicatesAnswer = "warning"
    """What the sender of an instance that is kept aside hears: warning (B000) or success (0000). Large and compressed
    instances are compared with the current one after the answer, so nobody knows yet whether they are the same;
    success is for routers that take B000 for a failure and send again. Both ways it is stored."""

    accept_unknown_peers: bool = True
    """Whether AE titles without a [[peer]] may store, query and retrieve by C-GET. Never a destination."""

    promiscuous: bool = True
    """Whether instances of unknown and private SOP classes are stored too."""

    called_ae_title_check: bool = False
    """Whether an association that calls another AE title than ours is rejected. Many modalities are set up wrongly."""

    write_behind_sync_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    """The longest time between a Success and its sync in write-behind: what a power cut may cost."""

    caretaker_pause_s: Annotated[float, Meta(ge=0, le=86400)] = 15.0
    """From ready to the start of the process that compacts, scrubs and applies retention rules: it takes a third of a
    second of processor time, which after a restart those who have waited for the server need more."""

    limits: Limits = Limits()
    http: Http = Http()
    storage: Storage = Storage()
    log: Log = Log()
    query: Queries = Queries()
    target: Target = Target()
    compaction: Compaction = Compaction()
    scrub: Scrub = Scrub()
    reindex: Reindex = Reindex()
    quarantine: Quarantine = Quarantine()
    commitment: Commitment = Commitment()
    feed: Feed = Feed()
    peers: tuple[Peer, ...] = msgspec.field(default=(), name="peer")
    retention: tuple[Retention, ...] = ()
    """Rules by which old studies are deleted, in the order in which they are applied; written [[retention]]."""
    attributes: tuple[Attribute, ...] | None = msgspec.field(default=None, name="attribute")
    """What the index keeps beside what it always keeps; written [[attribute]]. None: there is no file that could say,
    and what the archive has in effect stays so."""
    coercion: tuple[Coercion, ...] = ()
    """What is changed on the way out, the first rule that names a receiver; written [[coercion]]."""

    def __post_init__(self) -> None:
        check_title(self.aet)

    @cached_property
    def book(self) -> PeerBook:
        """What holds for whom; made at the first look-up."""
        limits = self.limits
        everybody = PeerSettings(
            durability=self.durability,
            duplicates=self.duplicates,
            associations_max=limits.associations_per_peer_max,
            associations_per_address_max=limits.associations_per_address_max,
            receive_window=limits.asynchronous_window,
            timeout_s=limits.dimse_timeout_s,
            delivery_rate_bytes_per_s_min=limits.delivery_rate_bytes_per_s_min,
            query_options=self.query.options,
            query_results_max=limits.query_results_max,
            query_timeout_s=limits.query_timeout_s,
        )
        return PeerBook(everybody, self.peers, self.coercion)

    def peer(self, aet: str) -> Peer | None:
        """The [[peer]] of an AE title; None when there is none."""
        return self.book.of(aet).peer

    def settings_of(self, aet: str) -> PeerSettings:
        """What holds for an AE title: its own settings, and everybody's where it has none."""
        return self.book.of(aet)

    def coercion_of(self, aet: str) -> Coercion | None:
        """What is changed in what that AE title is sent; None: nothing."""
        return self.book.coercion_of(aet)

    def reloaded(self, fresh: Config) -> tuple[Config, list[str]]:
        """This configuration with the peers and limits of `fresh`; and the keys that would need a restart."""
        taken = {name: getattr(fresh, name) for name in RELOADABLE}
        merged = msgspec.structs.replace(self, **taken)
        before, after = dict(merged.describe()), dict(fresh.describe())
        return merged, [key for key in after if before.get(key) != after[key]]

    def differences(self, other: Config) -> list[str]:
        """The keys, dotted, that have another value there; "peer.CT1" for a table that only one of both has."""
        before, after = dict(self.describe()), dict(other.describe())
        plain = {key for key, _ in keys()}
        tables = [{key.rpartition(".")[0] for key in values if key not in plain} for values in (before, after)]
        changed: dict[str, None] = {}
        for key in {**before, **after}:
            table = key.rpartition(".")[0]
            if key not in plain and sum(table in one for one in tables) == 1:
                changed[table] = None
            elif before.get(key, self) != after.get(key, self):
                changed[key] = None
        return list(changed)

    def describe(self) -> list[tuple[str, object]]:
        """Every key, dotted, with its value, in the order of this module."""
        rows: list[tuple[str, object]] = []
        for key, _ in keys():
            value: object = self
            for attribute in key.split("."):
                value = getattr(value, attribute)
            rows.append((key, value))
        for peer in self.peers:
            rows += [
                (f"peer.{peer.aet}.{name}", getattr(peer, name)) for name in peer.__struct_fields__ if name != "aet"
            ]
        for rule in self.retention:
            rows += [
                (f"retention.{rule.name}.{name}", getattr(rule, name))
                for name in rule.__struct_fields__
                if name != "name"
            ]
        for number, coercion in enumerate(self.coercion, 1):
            rows += [(f"coercion.{number}.{name}", getattr(coercion, name)) for name in coercion.__struct_fields__]
        for extra in self.attributes or ():
            rows += [
                (f"attribute.{extra.tag}.{name}", getattr(extra, name))
                for name in extra.__struct_fields__
                if name != "tag"
            ]
        return rows

    def to_json(self) -> bytes:
        """For a worker process: `from_json` gives the same configuration back."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def from_json(cls, data: bytes) -> Config:
        """The configuration that `to_json` wrote."""
        return msgspec.json.decode(data, type=cls, dec_hook=to_path)


RELOADABLE = (
    "limits",
    "http",
    "peers",
    "accept_unknown_peers",
    "promiscuous",
    "called_ae_title_check",
    "query",
    "compaction",
    "scrub",
    "reindex",
    "commitment",
    "retention",
    "coercion",
)
"""What SIGHUP and `filmroom reload` take over; the rest is fixed when the processes start."""

TABLES: dict[str, type[Struct]] = {
    "limits": Limits,
    "http": Http,
    "query": Queries,
    "storage": Storage,
    "compaction": Compaction,
    "scrub": Scrub,
    "reindex": Reindex,
    "quarantine": Quarantine,
    "commitment": Commitment,
    "feed": Feed,
    "target": Target,
    "log": Log,
}

LISTS = ("peers", "retention", "attributes", "coercion")
"""Lists of tables: their keys are in the file only."""


def keys() -> Iterator[tuple[str, Any]]:
    """Every key but those of peers, rules and attributes: dotted name and type."""
    for field in msgspec.structs.fields(Config):
        if field.name in TABLES:
            for inner in msgspec.structs.fields(TABLES[field.name]):
                yield f"{field.name}.{inner.name}", inner.type
        elif field.name not in LISTS:
            yield field.name, field.type


def to_path(type_: type, value: object) -> object:
    """Paths for msgspec, which knows none."""
    if type_ is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
        raise ValueError(f"Expected a path, got {value!r}")
    raise NotImplementedError(f"no conversion to {type_}")
