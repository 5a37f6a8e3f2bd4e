"""The settings of HL7: what all listeners share, the listeners, and the systems that send."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, MIB, Name, Port, Seconds

_Codec = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,40}$", description="the name of a character set")]


class Hl7(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HL7 version 2 over MLLP, while there is a [[hl7_listener]]."""

    accept_unknown_sources: bool | Literal["loopback"] = "loopback"
    """Whether to take messages of a sender that no [[hl7_source]] describes. loopback: from this machine only,
    to try it at once; true: from everybody who reaches the port; false: from nobody."""

    profile: str = "ihe-2.5.1"
    """The profile for senders without a [[hl7_source]]."""

    keep_days: Annotated[float, Meta(gt=0, le=36500)] = 90.0
    """Days for which the journal keeps messages that have been applied. They have patient data, and a hospital's
    messages of a quarter take some gigabytes."""

    connections_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    """Open connections. A hospital has an interface engine with a dozen."""

    connections_per_address_max: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Open connections of one address, so that one sender cannot keep the others out."""

    message_bytes_max: Annotated[int, Meta(ge=1024, le=1024 * MIB)] = 16 * MIB
    """The longest message; a report with a PDF has some MiB. A longer one is refused with AR."""

    memory_bytes_max: Annotated[int, Meta(ge=1 * MIB)] = 256 * MIB
    """Bytes of unfinished messages of all connections together. Whoever exceeds it is disconnected."""

    idle_timeout_s: Annotated[float, Meta(ge=0, le=86400 * 7)] = 0.0
    """Seconds without a byte after which a connection is closed; 0: never. Senders keep a connection open for days."""

    message_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    """Seconds without a byte inside a message after which its connection is closed. So is one whose message takes
    longer and comes with less than 256 bytes a second."""

    waiting_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 200_000
    """Messages that wait to be applied; with more, new ones are not answered, so that their senders keep them."""


class Hl7Listener(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A port for HL7 messages over MLLP."""

    port: Annotated[Port, FIXED] = 2575
    """Registered for HL7; 0: any free one."""

    host: Annotated[str, FIXED] = "0.0.0.0"
    """Address to listen on. All interfaces, since senders are other machines."""

    tls: Annotated[bool, FIXED] = False
    """Whether to use TLS, with the certificates and the profile of [tls]."""


class Hl7Source(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A system that sends HL7 messages. The first one that fits a message describes its sender."""

    name: Name
    """Its name here: in the journal, the log and the rules of stations."""

    application: str = ""
    """MSH-3 of its messages; "": any."""

    facility: str = ""
    """MSH-4 of its messages; "": any."""

    hosts: tuple[str, ...] = ()
    """Addresses or networks that it sends from; none: any. Messages change patient data: name them, or use TLS."""

    certificates: tuple[str, ...] = ()
    """Names of its certificate over TLS, as cn:NAME, san:NAME or sha256:HEX; none: any that [tls] trusts."""

    profile: str = "ihe-2.5.1"
    """What its fields mean: ihe-2.5.1, ihe-2.3.1, or a file that ends in .toml."""

    charset: _Codec = ""
    """The character set of its messages whatever MSH-18 says, as utf-8 or cp1252; "": MSH-18 counts."""

    default_charset: _Codec = "iso8859_1"
    """The character set of texts that are neither in the declared one nor UTF-8."""

    zone: str = ""
    """Its time zone, as Europe/Berlin, for times without an offset; "": this machine's."""

    authorities: tuple[str, ...] = ()
    """Assigning authorities of patient identifiers that count, the primary one first; none: all. A message without an
    identifier of theirs is answered with AE 204."""

    ack: Literal["stored", "applied"] = "stored"
    """When a message is acknowledged: as soon as it is on stable storage and can be mapped, or when it is applied."""

    snapshot: bool = False
    """Whether what a message does not have is deleted. Off: absent says nothing, and two quotation marks delete."""

    testing: bool = False
    """Whether messages that are marked as tests (MSH-11 T or D) are applied. Off: they are answered with AR 202."""


class Hl7Destination(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A system that gets HL7 messages, by a [[rule]]."""

    name: Name
    """Its name here."""

    host: str
    """Its address."""

    port: Annotated[int, Meta(ge=1, le=65535)] = 2575
    """Registered for HL7."""

    tls: bool = False
    """Whether to use TLS, with the certificates and the profile of [tls]."""

    application: str = ""
    """MSH-5: the receiving application."""

    facility: str = ""
    """MSH-6: the receiving facility."""

    sending_facility: str = ""
    """MSH-4; MSH-3 is our AE title."""

    charset: Literal["utf-8", "iso8859-1", "ascii"] = "utf-8"
    """The character set of messages; what it lacks becomes a question mark."""

    timeout_s: Seconds = 30.0
    """Seconds for an acknowledgement."""
