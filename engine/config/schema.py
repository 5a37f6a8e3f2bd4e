"""What can be configured: every setting and limit with its unit, its default and the reason for it.

The docstring under a field is its documentation; bounds are in its type. Nothing is read here: that is `reader`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Durability = Literal["durable", "write-behind"]
Duplicates = Literal["keep-first", "replace", "keep-both-versions"]
Permission = Literal["store", "query", "retrieve", "destination"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
Origin = Literal["flag", "environment", "file", "default"]

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
AETitle = Annotated[str, Meta(pattern=r"^(?! )[\x20-\x5b\x5d-\x7e]{1,16}(?<! )$")]
UID = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)+$", max_length=64)]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a peer may cost us. Each bounds memory or time; none depends on what peers send."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] = 128 * KIB
    """Bytes of a P-DATA-TF that we announce (PS3.8 D.1). DCMTK and pynetdicom propose 16 KiB: eight times the
    headers an instance and a third less speed; an instance of 0.5 MB takes four PDUs of 128 KiB."""

    pdu_length_accept_max: Annotated[int, Meta(ge=4 * KIB, le=1 * GIB)] = 16 * MIB
    """Bytes of a P-DATA-TF that we still take from a peer that ignores what we announced; longer ones end the
    association. Fragments are taken as they come, so this bounds patience rather than memory."""

    associate_pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] = 1 * MIB
    """Bytes of an A-ASSOCIATE-RQ or -AC, which is kept whole. 128 presentation contexts with 30 transfer
    syntaxes each are a quarter of this."""

    presentation_contexts_max: Annotated[int, Meta(ge=1, le=128)] = 128
    """Presentation contexts that we accept on one association; the odd numbers 1 to 255 allow 128 (PS3.8 9.3.2.2)."""

    associations_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Associations open at once on the whole server; more are rejected as transient, local limit exceeded
    (PS3.8 Table 9-21)."""

    associations_per_peer_max: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Associations open at once from one calling AE title, so that one broken sender leaves room for others."""

    artim_timeout_s: Seconds = 10.0
    """The ARTIM timer (PS3.8 9.1.5): how long a connection may take to say A-ASSOCIATE-RQ, or to close."""

    connect_timeout_s: Seconds = 10.0
    """How long a destination may take to accept the connection and the association."""

    idle_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    """How long an association may be silent between messages (pynetdicom: 60 s); 0: for ever. Viewers keep theirs
    open for minutes."""

    dimse_timeout_s: Seconds = 30.0
    """How long a peer may pause inside a PDU or message, stop reading, or take to answer one of ours."""

    drain_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """How long associations may go on after SIGTERM before they are aborted. systemd kills after 90 s."""

    asynchronous_window: Annotated[int, Meta(ge=1, le=65535)] = 16
    """Operations that a requestor may have outstanding with us (PS3.7 D.3.3.3). Some 8 CT
    instances make a good commit group; 16 let one gather while the one before is being synced."""

    ingest_bytes_max: Annotated[int, Meta(ge=8 * MIB, le=64 * GIB)] = 64 * MIB
    """Bytes of data sets that one worker holds in memory on their way in; above it, peers are made to wait."""

    query_results_max: Annotated[int, Meta(ge=0)] = 100_000
    """Matches that one C-FIND answers, then it ends with a warning in the log; 0: all. Matches are read in pages,
    so this protects the asker and the time of everybody, not our memory."""

    stream_threshold_bytes: Annotated[int, Meta(ge=64 * KIB, le=1 * GIB)] = 8 * MIB
    """A data set longer than this streams into a segment of its own and is never whole in memory. All CT, MR and
    single-frame X-ray instances are shorter, and one append of up to 8 MiB does not hold up its neighbours."""

    data_set_bytes_max: Annotated[int, Meta(ge=1 * MIB)] = 64 * GIB
    """A longer data set is refused (A700). Whole-slide and multi-frame instances reach some 10 GiB."""

    disk_reserve_bytes: Annotated[int, Meta(ge=0)] = 1 * GIB
    """Free space below which new stores are refused (A700), so that index, seals and checkpoints never lack any."""


class Storage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The append-only log."""

    segment_bytes: Annotated[int, Meta(ge=1 * MIB, le=1024 * GIB)] = 1 * GIB
    """Where a segment ends and the next begins: 2 000 CT instances; large enough that seals are rare, small enough
    to move, copy or compact one in seconds."""

    prewrite_bytes: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 512 * MIB
    """How much of a segment that is prepared ahead is written with zeros, so that a durable burst of that length (a
    study of 1 000 CT instances) needs no block allocation and no journal commit: measured a third faster. Costs each
    such byte's disk write twice; 0: off."""

    verify_reads: bool = True
    """Whether each instance is compared with its checksum on its way out; some hundredths of a millisecond a CT."""


class Target(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hardware that this site means to have: `filmroom doctor` measures against it.

    The defaults are what a hospital's server needs that takes in 500 CT or MR instances of half a megabyte a second,
    durably, and serves workstations meanwhile: an NVMe drive with power-loss protection, or a mirror of two."""

    sync_p99_ms_max: Annotated[float, Meta(gt=0, le=10_000)] = 5.0
    """Milliseconds of an fdatasync of 4 KiB, at the 99th percentile. A lone sender waits for one an instance; drives
    with power-loss protection take some 0.1 ms, consumer drives 1 to 10, hard disks 10 to 30."""

    write_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 300.0
    """Megabytes a second, appended with one fdatasync every eight instances: 500 instances/s are 265."""

    read_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 500.0
    """Megabytes a second read past the page cache: ten workstations that pull a study each over 1 Gbit/s take 1 000,
    and some of what they ask for is in memory."""


class Log(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the server says of itself."""

    format: LogFormat = "auto"
    """json: a line of JSON an event. console: for people. auto: console on a terminal, else json."""

    level: LogLevel = "info"
    """The least severe level that is written. At info there are a few lines an association, none an instance."""

    patient_data: bool = False
    """Whether names, identifiers and dates of patients are written as they are; otherwise as ***."""

    wire_trace: Path | None = None
    """A folder that gets a file for each association with its PDUs and messages, decoded, a line of JSON each; unset:
    off. It costs tens of microseconds a PDU; data sets and identifiers are not in it."""


class Peer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One application entity that we know. What is not set here is as for everybody."""

    aet: AETitle
    """Its AE title, as it calls and is called (PS3.5 VR AE: 16 characters, no backslash)."""

    host: str = ""
    """Name or address to connect to; needed for a destination."""

    port: Port = 0
    """TCP port to connect to; needed for a destination."""

    may: tuple[Permission, ...] = ("store", "query", "retrieve", "destination")
    """What it may do: send us instances, ask us, have instances sent, be sent instances that another asks for.
    Without host and port the default leaves destination out."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] | None = None
    """Bytes of a P-DATA-TF that we announce to it, and the most that we send it whatever it announces."""

    durability: Durability | None = None
    """For what it stores."""

    duplicates: Duplicates | None = None
    """For what it stores."""

    transfer_syntaxes: tuple[UID, ...] = ()
    """UIDs of the transfer syntaxes to prefer towards it, best first, before the one an instance is stored in."""

    store_associations: Annotated[int, Meta(ge=1, le=64)] = 1
    """Associations on which one retrieval is sent to it in parallel."""

    asynchronous_window: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Operations outstanding in either direction; 0 or 1: off. Unset: it may have limits.asynchronous_window with us,
    and we have one with it, since many receivers accept a window and then mix up the answers."""

    timeout_s: Seconds | None = None
    """For it instead of limits.dimse_timeout_s."""

    @property
    def has_address(self) -> bool:
        """Whether we can connect to it."""
        return bool(self.host and self.port)

    @property
    def send_window(self) -> int:
        """Operations that we may propose to have outstanding with it."""
        return max(1, self.asynchronous_window or 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of one server or command."""

    data: Path = Path("filmroom-data")
    """The folder of the archive: segments, index, control socket."""

    aet: AETitle = "FILMROOM"
    """Our AE title."""

    host: str = "0.0.0.0"
    """Address to listen on. All interfaces, since modalities are other machines."""

    dicom_port: Port = 11112
    """Registered for DICOM and, unlike 104, open to a process without privileges; 0: any free one."""

    http_port: Port = 8080
    """Reserved for DICOMweb."""

    workers: Annotated[int, Meta(ge=1, le=1024)] = msgspec.field(default_factory=_cores)
    """Processes that serve; one a core."""

    durability: Durability = "durable"
    """durable: a Success was synced to disk. write-behind: it was written, survives kill -9, and is synced within
    write_behind_sync_s; a power cut may take that long's worth of instances."""

    duplicates: Duplicates = "keep-first"
    """What becomes of a known SOP Instance UID with other bytes: the first stays current and the new one is kept
    aside; the new one replaces it; or the new one is current and the first is kept aside. A UID should never
    come back with other contents (PS3.5 9.1), so the safest is to change nothing that was already seen."""

    accept_unknown_peers: bool = True
    """Whether AE titles without a [[peer]] may store, query and retrieve by C-GET. Never a destination."""

    promiscuous: bool = True
    """Whether instances of unknown and private SOP classes are stored too."""

    called_ae_title_check: bool = False
    """Whether an association that calls another AE title than ours is rejected. Many modalities are set up wrongly."""

    write_behind_sync_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    """The longest time between a Success and its sync in write-behind: what a power cut may cost."""

    limits: Limits = Limits()
    storage: Storage = Storage()
    log: Log = Log()
    target: Target = Target()
    peers: tuple[Peer, ...] = msgspec.field(default=(), name="peer")

    def peer(self, aet: str) -> Peer | None:
        """The [[peer]] of an AE title; None when there is none."""
        for peer in self.peers:
            if peer.aet == aet:
                return peer
        return None

    def may(self, aet: str, permission: Permission) -> bool:
        """Whether the application entity of that title may do that."""
        peer = self.peer(aet)
        if peer is not None:
            return permission in peer.may
        return self.accept_unknown_peers and permission != "destination"

    def durability_of(self, aet: str) -> Durability:
        """When a C-STORE of that calling AE title is answered."""
        peer = self.peer(aet)
        return (peer.durability if peer else None) or self.durability

    def duplicates_of(self, aet: str) -> Duplicates:
        """What becomes of a duplicate from that calling AE title."""
        peer = self.peer(aet)
        return (peer.duplicates if peer else None) or self.duplicates

    def receive_window_of(self, aet: str) -> int:
        """Operations that that calling AE title may have outstanding with us."""
        peer = self.peer(aet)
        if peer is None or peer.asynchronous_window is None:
            return self.limits.asynchronous_window
        return max(1, peer.asynchronous_window)

    def reloaded(self, fresh: Config) -> tuple[Config, list[str]]:
        """This configuration with the peers and limits of `fresh`; and the keys that would need a restart."""
        taken = {name: getattr(fresh, name) for name in RELOADABLE}
        merged = msgspec.structs.replace(self, **taken)
        before, after = dict(merged.describe()), dict(fresh.describe())
        return merged, [key for key in after if before.get(key) != after[key]]

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
                (f"peer.{peer.aet}.{field.name}", getattr(peer, field.name))
                for field in msgspec.structs.fields(peer)
                if field.name != "aet"
            ]
        return rows

    def to_json(self) -> bytes:
        """For a worker process: `from_json` gives the same configuration back."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def from_json(cls, data: bytes) -> Config:
        """The configuration that `to_json` wrote."""
        return msgspec.json.decode(data, type=cls, dec_hook=to_path)


RELOADABLE = ("limits", "peers", "accept_unknown_peers", "promiscuous", "called_ae_title_check")
"""What SIGHUP and `filmroom reload` take over; the rest is fixed when the processes start."""

TABLES: dict[str, type[Struct]] = {"limits": Limits, "storage": Storage, "target": Target, "log": Log}


def keys() -> Iterator[tuple[str, Any]]:
    """Every key but those of peers: dotted name and type."""
    for field in msgspec.structs.fields(Config):
        if field.name in TABLES:
            for inner in msgspec.structs.fields(TABLES[field.name]):
                yield f"{field.name}.{inner.name}", inner.type
        elif field.name != "peers":
            yield field.name, field.type


def to_path(type_: type, value: object) -> object:
    """Paths for msgspec, which knows none."""
    if type_ is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
        raise ValueError(f"Expected a path, got {value!r}")
    raise NotImplementedError(f"no conversion to {type_}")
