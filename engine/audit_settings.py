"""The [audit] table: whether and how long the audit log is kept, and the collector that it is sent to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, MIB, Port, Seconds

Transport = Literal["tls", "udp"]


class Audit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The audit log: who did what with which patient's data."""

    enabled: Annotated[bool, FIXED] = True
    """Whether it is kept. Without it nobody can show who has seen or deleted something (HIPAA 164.312(b))."""

    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 2192
    """Days that events are kept: six years, as HIPAA asks of documentation (164.316(b)(2)). Files with older ones are
    removed, and a signed statement names their last record."""

    source: Annotated[str, Meta(min_length=1, max_length=100)] = "filmroom"
    """The Audit Source ID in messages to the collector: the name of this archive among the sources of the hospital."""

    enterprise_site: Annotated[str, Meta(max_length=100)] = ""
    """The Audit Enterprise Site ID in these messages."""

    collector: Annotated[str, Meta(max_length=253)] = ""
    """Name or address of the syslog server that gets every event as a DICOM audit message (PS3.15 A.5). Unset: none."""

    collector_port: Port = 0
    """Its port; 0: 6514 for tls, 514 for udp."""

    transport: Transport = "tls"
    """tls: RFC 5425. udp: RFC 5426, which loses messages and shows them to the network; only for old collectors."""

    ca_file: Path | None = None
    """A PEM file with the authorities that the collector's certificate is verified against; unset: those of this
    machine."""

    certificate: Path | None = None
    """A PEM file with the certificate that we show to the collector."""

    key: Path | None = None
    """The key of that certificate."""

    resend_count: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    """Events that are sent again after each new connection. RFC 5425 has no acknowledgement: what was on its way when a
    connection broke may be lost, and an event that comes twice is better than none."""

    late_alert_s: Seconds = 3600.0
    """After how long an event that the collector has not got is an alert."""

    signing_key: Annotated[Path | None, FIXED] = None
    """The Ed25519 key that signs checkpoints, in PEM; unset: DATA/audit/signing-key.pem, made at the first start. Only
    the supervisor reads it. Put it on another medium to make a stolen disk useless to a forger."""

    reserve_bytes: Annotated[int, Meta(ge=0, le=1024 * MIB), FIXED] = 4 * MIB
    """Disk space that is freed when the disk is full, so that a deletion, which makes room, can be recorded."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("audit.certificate and audit.key belong together")
