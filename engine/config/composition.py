"""The whole configuration: the tables of all rooms, the settings outside of tables, and the rules of a reload.

A `Config` never changes. Its `book` has the settings for each AE title.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from engine.access.role_settings import BUILT_IN_ROLES, Role
from engine.access.settings import Peer
from engine.accounts.settings import AccountSettings
from engine.archive.attribute_settings import Attribute
from engine.archive.settings import (
    Commitment,
    Compaction,
    Deletion,
    Duplicates,
    DuplicatesAnswer,
    Durability,
    Durable,
    Encryption,
    Feed,
    Jobs,
    Quarantine,
    Reindex,
    Retention,
    Scrub,
    SecondCopySettings,
)
from engine.audit_settings import Audit
from engine.cluster.settings import ClusterSettings
from engine.config.peers import PeerBook, PeerSettings
from engine.doctor.settings import Target
from engine.exchange.settings import Route, Rule
from engine.hl7.settings import Hl7, Hl7Destination, Hl7Listener, Hl7Source
from engine.identity.settings import Oidc
from engine.log_settings import Log
from engine.objects.settings import ObjectStore, Tier
from engine.orders.settings import Station, WorkitemTemplate, Worklist
from engine.runtime.settings import Limits
from engine.services.settings import Coercion, Queries, Tls
from engine.setting import FIXED, AETitle, Port, bare, is_fixed
from engine.storage.settings import Storage
from engine.titles import check_title
from engine.web.settings import Fhir, Http, Webhook


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """All settings of one server or command."""

    data: Annotated[Path, FIXED] = Path("filmroom-data")
    """The folder of the archive: segments, index, control socket."""

    aet: Annotated[AETitle, FIXED] = "FILMROOM"
    """Our AE title."""

    host: Annotated[str, FIXED] = "0.0.0.0"
    """Address to listen on. All interfaces, since modalities are other machines."""

    dicom_port: Annotated[Port, FIXED] = 11112
    """Registered for DICOM and, unlike 104, open to a process without privileges; 0: any free one."""

    workers: Annotated[int, Meta(ge=1, le=1024), FIXED] = msgspec.field(default_factory=_cores)
    """Worker processes; default: one a core."""

    durability: Annotated[Durability, FIXED] = "durable"
    """durable: a Success means that the instance was synced to disk. write-behind: it was written, survives kill -9,
    and is synced within write_behind_sync_s; a power cut may lose the instances of that time."""

    durable: Durable = "local"
    """Where an instance is on a disk before it is acknowledged. local: here; peer: also at the replica that
    second_copy.replica names, so that nothing is lost with this machine; object: also in the bucket of [object_store].
    The last two need durability = "durable"."""

    duplicates: Annotated[Duplicates, FIXED] = "keep-first"
    """How to store a known SOP Instance UID with different bytes. keep-first: the first version stays current and the
    new one is kept aside; replace: the new one replaces it; keep-both-versions: the new one becomes current and the
    first is kept aside. A UID should never come back with different content (PS3.5 9.1), so the safest is to change
    nothing that users have seen. The same content in another transfer syntax, with other lengths or padding is never a
    conflict."""

    duplicates_answer: Annotated[DuplicatesAnswer, FIXED] = "warning"
    """The status for an instance that is kept aside: warning (B000) or success (0000). Large and compressed instances
    are compared with the current one after the response, so it is not known yet whether they are the same; success is
    for routers that treat B000 as a failure and send again. In both cases the instance is stored."""

    accept_unknown_peers: bool | Literal["loopback"] = "loopback"
    """Who may use an AE title without a [[peer]] to store, query and retrieve by C-GET. loopback: programs on this
    machine, so that you can try it at once; true: everybody who reaches the port; false: nobody. Such titles are never
    destinations."""

    promiscuous: bool = True
    """Whether instances of unknown and private SOP classes are stored too."""

    called_ae_title_check: bool = False
    """Whether to reject an association whose called AE title is not ours. Off: many modalities are set up wrongly."""

    write_behind_sync_s: Annotated[float, Meta(gt=0, le=60), FIXED] = 1.0
    """The longest time between a Success and its sync in write-behind: a power cut may lose the instances of it."""

    caretaker_pause_s: Annotated[float, Meta(ge=0, le=86400), FIXED] = 15.0
    """Seconds from the ready line to the start of the process that compacts, scrubs and applies retention rules. It
    takes a third of a second of processor time, which clients that waited for the restart need more. It starts at once
    where answers wait for the bucket (durable = "object"), to which it ships."""

    limits: Limits = Limits()
    tls: Tls = Tls()
    http: Http = Http()
    fhir: Fhir = Fhir()
    hl7: Hl7 = Hl7()
    accounts: AccountSettings = AccountSettings()
    storage: Annotated[Storage, FIXED] = Storage()
    log: Annotated[Log, FIXED] = Log()
    audit: Audit = Audit()
    query: Queries = Queries()
    target: Annotated[Target, FIXED] = Target()
    deletion: Deletion = Deletion()
    compaction: Compaction = Compaction()
    encryption: Encryption = Encryption()
    scrub: Scrub = Scrub()
    object_store: ObjectStore = ObjectStore()
    second_copy: SecondCopySettings = SecondCopySettings()
    cluster: ClusterSettings = ClusterSettings()
    reindex: Reindex = Reindex()
    quarantine: Annotated[Quarantine, FIXED] = Quarantine()
    commitment: Commitment = Commitment()
    worklist: Worklist = Worklist()
    jobs: Jobs = Jobs()
    feed: Annotated[Feed, FIXED] = Feed()
    peers: tuple[Peer, ...] = msgspec.field(default=(), name="peer")
    roles: tuple[Role, ...] = msgspec.field(default=(), name="role")
    """Roles beside the built-in ones; written [[role]]."""
    oidc: tuple[Oidc, ...] = ()
    """Providers that vouch for users; written [[oidc]]."""
    retention: tuple[Retention, ...] = ()
    """Rules by which old studies are deleted, in the order in which they are applied; written [[retention]]."""
    tiers: tuple[Tier, ...] = msgspec.field(default=(), name="tier")
    """Rules for studies whose bytes are in the bucket only; written [[tier]]."""
    attributes: Annotated[tuple[Attribute, ...] | None, FIXED] = msgspec.field(default=None, name="attribute")
    """Extra attributes for the index; written [[attribute]]. None: no configuration file was given; keep the archive's
    current set."""
    coercion: tuple[Coercion, ...] = ()
    """Changes to sent instances; the first rule that names a receiver applies to it; written [[coercion]]."""

    hl7_listeners: Annotated[tuple[Hl7Listener, ...], FIXED] = msgspec.field(default=(), name="hl7_listener")
    """Ports for HL7 messages; written [[hl7_listener]]."""

    hl7_sources: tuple[Hl7Source, ...] = msgspec.field(default=(), name="hl7_source")
    """The systems that send HL7 messages; written [[hl7_source]]."""

    webhooks: tuple[Webhook, ...] = msgspec.field(default=(), name="webhook")
    """Receivers of the change feed; written [[webhook]]."""

    routes: tuple[Route, ...] = msgspec.field(default=(), name="route")
    """Rules that send on what has arrived; written [[route]]."""

    rules: tuple[Rule, ...] = msgspec.field(default=(), name="rule")
    """Rules that tell other systems what has happened; written [[rule]]."""

    hl7_destinations: tuple[Hl7Destination, ...] = msgspec.field(default=(), name="hl7_destination")
    """The systems that get HL7 messages by a rule; written [[hl7_destination]]."""

    workitems: tuple[WorkitemTemplate, ...] = msgspec.field(default=(), name="workitem")
    """The workitems that rules make; written [[workitem]]."""

    stations: tuple[Station, ...] = msgspec.field(default=(), name="station")
    """Stations that perform scheduled steps: rules and peculiarities; written [[station]]."""

    def __post_init__(self) -> None:
        check_title(self.aet)
        sources = [source.name for source in self.hl7_sources]
        if len(set(sources)) < len(sources):
            raise ValueError("two [[hl7_source]] have one name")
        names = [hook.name for hook in self.webhooks]
        if len(set(names)) < len(names):
            raise ValueError("two [[webhook]] have one name")
        names = [route.name for route in self.routes]
        if len(set(names)) < len(names):
            raise ValueError("two [[route]] have one name")
        _check_rules(self.rules, self.hl7_destinations, self.workitems)
        _check_sources(self.rules, self.hl7_sources)
        stations = [station.aet for station in self.stations]
        if len(set(stations)) < len(stations):
            raise ValueError("two [[station]] have one aet")
        roles = [role.name for role in self.roles]
        if len(set(roles)) < len(roles):
            raise ValueError("two [[role]] have one name")
        providers = [provider.name for provider in self.oidc]
        if len(set(providers)) < len(providers):
            raise ValueError("two [[oidc]] have one name")
        known_roles = {*roles, *(role.name for role in BUILT_IN_ROLES)}
        for peer in self.peers:
            if peer.role and peer.role not in known_roles:
                raise ValueError(f"the [[peer]] {peer.aet} has the role {peer.role}, which is no [[role]]")
        for provider in self.oidc:
            for role in (*provider.roles.values(), *provider.default_roles):
                if role not in known_roles:
                    raise ValueError(f"the [[oidc]] {provider.name} gives the role {role}, which is no [[role]]")

    @cached_property
    def book(self) -> PeerBook:
        """The settings for each AE title; made at the first look-up."""
        limits = self.limits
        general = PeerSettings(
            durability=self.durability,
            durable=self.durable,
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
        return PeerBook(general, self.peers, self.coercion)

    def peer(self, aet: str) -> Peer | None:
        """The [[peer]] of an AE title; None when there is none."""
        return self.book.of(aet).peer

    def settings_of(self, aet: str) -> PeerSettings:
        """The settings for an AE title: its own, and the general ones where it has none."""
        return self.book.of(aet)

    def coercion_of(self, aet: str) -> Coercion | None:
        """The coercion of instances sent to that AE title; None: none."""
        return self.book.coercion_of(aet)

    def reloaded(self, fresh: Config) -> tuple[Config, list[str]]:
        """This configuration with the settings of `fresh` that a reload applies; and the keys that need a restart."""
        merged = _merge(self, fresh)
        before, after = dict(merged.describe()), dict(fresh.describe())
        return merged, [key for key in after if before.get(key) != after[key]]

    def differences(self, other: Config) -> list[str]:
        """The dotted keys with different values in `other`; "peer.CT1" for a table that only one of both has."""
        before, after = dict(self.describe()), dict(other.describe())
        plain = {key for key, _ in keys()}
        tables = [{key.rpartition(".")[0] for key in values if key not in plain} for values in (before, after)]
        changed: dict[str, None] = {}
        for key in {**before, **after}:
            table = key.rpartition(".")[0]
            if key not in plain and sum(table in names for names in tables) == 1:
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
        for table, key in KEY_OF_LISTS.items():
            for number, each in enumerate(getattr(self, LISTS[table][0]) or (), 1):
                name = getattr(each, key) if key else number
                rows += [
                    (f"{table}.{name}.{field}", getattr(each, field))
                    for field in each.__struct_fields__
                    if field != key
                ]
        return rows

    def to_json(self) -> bytes:
        """For a worker process: `from_json` returns the same configuration."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def from_json(cls, data: bytes) -> Config:
        """The configuration that `to_json` wrote."""
        return msgspec.json.decode(data, type=cls, dec_hook=to_path)


def _check_rules(
    rules: tuple[Rule, ...], destinations: tuple[Hl7Destination, ...], workitems: tuple[WorkitemTemplate, ...]
) -> None:
    tables = {
        "rule": [rule.name for rule in rules],
        "hl7_destination": [destination.name for destination in destinations],
        "workitem": [template.name for template in workitems],
    }
    for table, names in tables.items():
        if len(set(names)) < len(names):
            raise ValueError(f"two [[{table}]] have one name")
    for rule in rules:
        table = {"hl7": "hl7_destination", "forward": "hl7_destination", "workitem": "workitem"}.get(rule.action, "")
        missing = [name for name in rule.to if table and name not in tables[table]]
        if missing:
            verb = "sends to" if table == "hl7_destination" else "makes"
            raise ValueError(f"the [[rule]] {rule.name} {verb} {missing[0]}, which is no [[{table}]]")


def _check_sources(rules: tuple[Rule, ...], sources: tuple[Hl7Source, ...]) -> None:
    known = {source.name for source in sources}
    for rule in rules:
        if missing := sorted(set(rule.sources) - known):
            raise ValueError(f"the [[rule]] {rule.name} forwards what {missing[0]} sends, which is no [[hl7_source]]")


def _merge(old: Any, fresh: Any) -> Any:
    """`fresh`, with the fixed settings of `old`; tables setting by setting."""
    values = {}
    for field in msgspec.structs.fields(type(fresh)):
        before, after = getattr(old, field.name), getattr(fresh, field.name)
        if is_fixed(field.type):
            after = before
        elif isinstance(after, Struct):
            after = _merge(before, after)
        values[field.name] = after
    return type(fresh)(**values)


def _is_table(annotation: Any) -> bool:
    return isinstance(bare(annotation), type) and issubclass(bare(annotation), Struct)


def _table_of_list(annotation: Any) -> type[Struct] | None:
    """The table type of a setting that is a list of tables; None for any other setting."""
    for inner in (bare(annotation), *get_args(bare(annotation))):
        if get_origin(inner) is tuple and _is_table(get_args(inner)[0]):
            table: type[Struct] = get_args(inner)[0]
            return table
    return None


TABLES: dict[str, type[Struct]] = {
    field.name: bare(field.type) for field in msgspec.structs.fields(Config) if _is_table(field.type)
}
"""The tables that occur at most once."""

LISTS: dict[str, tuple[str, type[Struct]]] = {
    field.encode_name: (field.name, table)
    for field in msgspec.structs.fields(Config)
    if (table := _table_of_list(field.type)) is not None
}
"""Tables that may occur several times, in the file only: name in the file → field and type of table."""

KEY_OF_LISTS: dict[str, str] = {
    "peer": "aet",
    "role": "name",
    "retention": "name",
    "tier": "name",
    "oidc": "name",
    "webhook": "name",
    "route": "name",
    "rule": "name",
    "hl7_destination": "name",
    "workitem": "name",
    "station": "aet",
    "hl7_listener": "",
    "hl7_source": "name",
    "coercion": "",
    "attribute": "tag",
}
"""Which setting names one of them, in the order in which they are described; "": its place in the file, from 1."""


@cache
def keys() -> tuple[tuple[str, Any], ...]:
    """Every key but those of peers, rules and attributes: dotted name and type. Kept: msgspec evaluates all
    annotations of a table each time that it is asked for its fields."""
    return tuple(_keys())


def _keys() -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(Config):
        if field.name in TABLES:
            for inner in msgspec.structs.fields(TABLES[field.name]):
                yield f"{field.name}.{inner.name}", inner.type
        elif field.encode_name not in LISTS:
            yield field.name, field.type


def to_path(type_: type, value: object) -> object:
    """Converts paths for msgspec, which does not support them."""
    if type_ is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
        raise ValueError(f"Expected a path, got {value!r}")
    raise NotImplementedError(f"no conversion to {type_}")
