"""The [[peer]] tables: known application entities and their settings."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from engine.archive.settings import Duplicates, Durability, Durable
from engine.services.settings import QueryOption
from engine.setting import GIB, KIB, MIB, UID, AETitle, Network, Port, Seconds
from engine.titles import check_title

CertificateName = Annotated[
    str,
    Meta(
        pattern=r"^(sha256:[0-9A-Fa-f:]{64,95}|san:[^\s]+|cn:.+)$",
        max_length=300,
        description="sha256:FINGERPRINT, san:NAME or cn:NAME",
    ),
]
_Host = Annotated[
    str, Meta(pattern=r"^[^\s/@\x00-\x1f\x7f]*$", max_length=253, description="the name or the address of a host")
]
_Url = Annotated[
    str, Meta(pattern=r"^(https?://[^\s?#@]+)?$", max_length=4096, description="an address as https://NAME/PATH")
]

Permission = Literal["store", "query", "retrieve", "worklist", "workitem", "destination"]


class Peer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One known application entity. A setting that is missing here has the general value."""

    aet: AETitle
    """Its AE title, as calling and as called title (PS3.5 VR AE: 16 characters, no backslash). A title beyond ASCII is
    recognized by its bytes in Latin-1 and in UTF-8, and sent in Latin-1 if that has all its letters."""

    host: _Host = ""
    """Name or address to connect to; this or url is needed for a destination."""

    port: Port = 0
    """TCP port to connect to; needed for a destination."""

    url: _Url = ""
    """The root of its DICOMweb services, as https://pacs.example.org/dicom-web. Jobs then send to it by STOW-RS and
    pull from it by QIDO-RS and WADO-RS. A C-MOVE to it uses host and port if it has them, else STOW-RS."""

    ca_file: Path | None = None
    """A PEM file with the certificate authorities that its certificate is verified against; unset: those of this
    machine."""

    token_file: Path | None = None
    """A file with the bearer token for its url."""

    user: str = ""
    """The user name for its url (HTTP Basic), with password_file."""

    password_file: Path | None = None
    """A file with the password of that user."""

    tls: Literal["off", "required"] = "off"
    """required: it is called over TLS, and served only over TLS. off: it is called without; it may come either way."""

    tls_name: str = ""
    """The name that its certificate must have when we call it; unset: its host. Not checked where certificates has a
    fingerprint."""

    certificates: tuple[CertificateName, ...] = ()
    """How its certificate must identify itself, one of them: sha256:FINGERPRINT of the certificate (`openssl x509
    -fingerprint -sha256`), san:NAME of its subject alternative names, cn:NAME of its subject. Anybody else who uses its
    AE title is rejected, and a security alert is written. Unset: every certificate that tls.trust verifies."""

    identity: Literal["optional", "required", "ignored"] = "optional"
    """Whether it must prove a user over TLS: by the passcode of a user of this archive, or by a token of an identity
    provider (user identity, PS3.7 D.3.3.7). optional: if it sends one, it must be right. ignored: for a device that
    sends one which nobody here knows."""

    trust_user_name: bool = False
    """Whether a user name that it sends without a proof is recorded in the audit as the one who uses it. The name
    grants nothing."""

    networks: tuple[Network, ...] = ()
    """Addresses and networks that it may come from, with TLS or without. Unset: any."""

    may: tuple[Permission, ...] = ("store", "query", "retrieve", "worklist", "workitem", "destination")
    """Its permissions: store instances here, query, retrieve, see worklists and report performed steps (worklist),
    see, create and perform workitems (workitem),
    receive instances that another peer requests. Without host, port and url the default leaves destination out."""

    role: Annotated[str, Meta(max_length=64)] = ""
    """A role that narrows what it may do, and the studies that it sees, retrieves and receives. In the rules of that
    role, sender = "me" stands for its own AE title. Unset: all studies."""

    destinations: tuple[AETitle, ...] | None = None
    """AE titles to which it may have instances sent by C-MOVE, to restrict it: a ward's viewer that shall send to its
    own ward only. Other destinations are unknown to it (A801). Unset: every destination."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] | None = None
    """Bytes of a P-DATA-TF that we announce to it, and the most that we send to it even if it announces more."""

    durability: Durability | None = None
    """The durability of the instances that it stores."""

    durable: Durable | None = None
    """Where the instances that it stores must be on a disk before they are acknowledged."""

    duplicates: Duplicates | None = None
    """How to treat duplicates among the instances that it stores."""

    transfer_syntaxes: tuple[UID, ...] = ()
    """UIDs of the transfer syntaxes that it prefers to receive, best first, before the one an instance is stored in."""

    prefer_compressed: bool = False
    """Whether we accept the compressed transfer syntax when it offers native and compressed ones in one presentation
    context. Off, since many peers offer syntaxes that they cannot write; for a modality that has compressed images and
    would decompress them."""

    supply: bool = False
    """Whether it gets what studies lack and their linked orders say (accession number, request attributes, other
    patient IDs), in answers of C-FIND and in what is sent to it, also without a [[coercion]] rule for it."""

    store_associations: Annotated[int, Meta(ge=1, le=64)] = 1
    """Associations on which one retrieval is sent to it in parallel."""

    asynchronous_window: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Outstanding operations in either direction; 0 or 1: one. Unset: it may have limits.asynchronous_window operations
    outstanding with us, and we have one with it, since many receivers accept a window and then mix up the responses."""

    timeout_s: Seconds | None = None
    """Replaces limits.dimse_timeout_s for this peer, on associations that it opened and on ours."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] | None = None
    """Replaces limits.delivery_rate_bytes_per_s_min for this peer, for a practice behind a slow line."""

    accept_truncated: bool = False
    """Whether a data set from it that ends early (Pixel Data shorter than its length, a sequence that is not closed)
    is stored, with warning B006, instead of being refused (C000): for a modality that is known to truncate instances.
    Such an instance is never reported as committed, `filmroom check` names it, and a complete one replaces it."""

    associations_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Associations that it may have open at once. Replaces limits.associations_per_peer_max for this peer."""

    associations_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Associations that may be open from its network address when it opens one more. Replaces
    limits.associations_per_address_max for this peer: more for a gateway that many senders use."""

    bandwidth_bytes_per_s_max: Annotated[int, Meta(ge=64 * KIB, le=64 * GIB)] | None = None
    """Bytes a second that we read from it, on all its associations together, so that a transfer of old studies in the
    background leaves the modalities their share. Unset: no limit."""

    query_options: tuple[QueryOption, ...] | None = None
    """Options of its queries that it cannot negotiate. Replaces query.options for this peer."""

    query_results_max: Annotated[int, Meta(ge=0)] | None = None
    """Matches that one of its C-FINDs returns at most; 0: all. Replaces limits.query_results_max for this peer."""

    query_timeout_s: Annotated[float, Meta(ge=0, le=86400)] | None = None
    """Seconds that one of its C-FINDs may run; 0: no limit. Replaces limits.query_timeout_s for this peer."""

    def __post_init__(self) -> None:
        check_title(self.aet)
        for network in self.networks:
            ip_network(network, strict=False)  # raises ValueError with the reason
        force_setattr(self, "certificates", tuple(certificate_name(name) for name in self.certificates))
        if self.certificates and self.tls != "required":
            raise ValueError('certificates need tls = "required": without TLS nobody shows one')
        if self.identity == "required" and self.tls != "required":
            raise ValueError('identity = "required" needs tls = "required": a proof is taken over TLS only')
        for title in self.destinations or ():
            check_title(title)

    @property
    def is_bound(self) -> bool:
        """Whether its title is bound to TLS, a certificate or a network."""
        return self.tls == "required" or bool(self.networks)

    @property
    def has_address(self) -> bool:
        """Whether we can connect to it by DICOM."""
        return bool(self.host and self.port)

    @property
    def is_reachable(self) -> bool:
        """Whether we can connect to it at all."""
        return self.has_address or bool(self.url)

    @property
    def send_window(self) -> int:
        """Outstanding operations that we may propose to it."""
        return max(1, self.asynchronous_window or 1)


def certificate_name(name: str) -> str:
    """The name of a certificate as `tls` writes it."""
    kind, _, value = name.partition(":")
    return f"{kind}:{value.replace(':', '') if kind == 'sha256' else value}".lower()
