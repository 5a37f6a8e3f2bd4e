"""The settings of DIMSE services: TLS, queries, and the coercion of sent instances."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, AETitle, Port

QueryOption = Literal["relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values"]


TlsProfile = Literal["b12", "b13-aead", "legacy"]


class Tls(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """DICOM over TLS (PS3.15 B.12): a port of its own, and associations that we request from a [[peer]] with tls.

    A reload reads the files again for new associations; open ones continue. `filmroom cert` makes certificates for a
    site that has no authority."""

    enabled: Annotated[bool, FIXED] = False
    """Whether to listen on `port`. Associations that we request use the certificates in either case."""

    host: Annotated[str, FIXED] = "0.0.0.0"
    """Address to listen on. All interfaces, since modalities are other machines."""

    port: Annotated[Port, FIXED] = 2762
    """Registered for DICOM over TLS (dicom-tls); 0: any free one."""

    certificates: tuple[Path, ...] = ()
    """PEM files, each with a certificate of ours and its intermediate certificates. With one of an RSA and one of an
    elliptic key every peer finds one that it can use: some know only RSA."""

    keys: tuple[Path, ...] = ()
    """PEM files with the private keys, without a passphrase, in the order of `certificates`; none: each key is in its
    certificate's file."""

    trust: tuple[Path, ...] = ()
    """PEM files with the authorities that sign peers' certificates, or with certificates of peers that signed their
    own."""

    crls: tuple[Path, ...] = ()
    """PEM files with revocation lists; none: revocation is not checked. With one, the list of every authority that
    signs a peer's certificate must be there and must not have expired, else that peer is refused."""

    profile: TlsProfile = "b12"
    """The versions and cipher suites. b12: TLS 1.2 and 1.3 with ECDHE and AES-GCM or ChaCha20 (PS3.15 B.12, BCP 195).
    b13-aead: of PS3.15 B.13 all suites that OpenSSL has, DHE and CCM too; it lacks Camellia, and CCM in TLS 1.3.
    legacy: also RSA key exchange and CBC, for modalities that nothing else works with; a recording of their traffic can
    be read by whoever gets the private key later."""

    client_certificates: Literal["required", "wanted", "off"] = "required"
    """Whether a peer must show a certificate that `trust` verifies. wanted: it may; off: it is not asked, and only its
    title and address say who it is."""

    identity: Literal["optional", "required"] = "optional"
    """Whether peers that come over TLS must prove a user: by a passcode or a token (user identity, PS3.7 D.3.3.7). A
    [[peer]] with identity = "ignored" need not."""

    handshakes_max: Annotated[int, Meta(ge=1, le=100_000)] = 64
    """Handshakes in progress in one worker. When there are more, the oldest of the address that has most is ended, so
    that half-open ones cannot keep anybody out."""

    def __post_init__(self) -> None:
        if self.keys and len(self.keys) != len(self.certificates):
            raise ValueError("tls.keys must have one file for each of tls.certificates, or none")
        if self.enabled and not self.certificates:
            raise ValueError("tls.enabled needs tls.certificates")
        if self.enabled and self.client_certificates != "off" and not self.trust:
            raise ValueError("tls.client_certificates needs tls.trust, to verify them")


class Queries(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of C-FIND, and the limit for slow queries in the log."""

    options: tuple[QueryOption, ...] = ()
    """Options of PS3.4 C.5.1.1 that apply to everybody, negotiated or not; a requestor can always negotiate more.
    relational: unique keys of higher levels may be missing, and keys of all levels combined; date-time: a date and its
    time are one range; fuzzy: names match by sound; timezone: times are in the zone of the key Timezone Offset From
    UTC; empty-values: two quotation marks match attributes without a value; multiple-values: each value of a list must
    match. None by default: each option changes the meaning of an identifier, also for requestors without it."""

    slow_s: Annotated[float, Meta(ge=0, le=86400)] = 1.0
    """Seconds after which the log reports a slow C-FIND, with its keys, access and candidates, never with values; 0:
    never. People notice a second; an indexed query takes milliseconds. Time in which the requestor does not read our
    responses is not counted."""


class Coercion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Changes to sent instances: the first rule that names the receiver applies to it.

    The receiver is the destination of a C-MOVE, or the requestor of a C-GET. Without a rule every instance is sent as
    it was received."""

    aets: tuple[AETitle, ...] = ()
    """The receivers; empty: all that no earlier rule names."""

    corrections: bool = True
    """Whether the changes of `filmroom correct`, `merge`, `move` and `split` are written into sent instances."""

    values: tuple[str, ...] = ()
    """More values to write, each KEYWORD=VALUE; KEYWORD= empties the attribute. Not for UIDs, numbers and sequences."""

    remove: tuple[str, ...] = ()
    """Keywords of attributes to remove."""
