"""The [http] table: where HTTP is served, to whom, and what a client may cost."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, GIB, KIB, MIB, Port, Seconds

FeedAction = Literal[
    "stored", "kept_aside", "deleted", "version_deleted", "corrected", "held", "released", "series_quiet",
    "study_quiet", "study_complete", "replicated",
]  # fmt: skip
RequestLog = Literal["all", "changes", "none"]
Network = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$")]
Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s]+)$")]


class Http(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HTTP: DICOMweb, health and metrics. A reload takes over all but enabled, host and port, for new requests."""

    enabled: Annotated[bool, FIXED] = True
    """Whether HTTP is served at all."""

    host: Annotated[str, FIXED] = "127.0.0.1"
    """Address to listen on. This machine only, until somebody has thought about who may read: 0.0.0.0 for all
    interfaces, and then `allow`."""

    port: Annotated[Port, FIXED] = 8080
    """The usual port of a web server without privileges; 0: any free one."""

    certificate: Path | None = None
    """A file with the certificate and those that lead to its authority (PEM): the port then speaks HTTPS only. A reload
    reads the file again, for new connections; open ones go on."""

    key: Path | None = None
    """The file with the certificate's private key (PEM), without a passphrase; unset: it is in the same file."""

    allow: tuple[Network, ...] = ("127.0.0.0/8", "::1")
    """Addresses and networks whose clients may do everything that HTTP offers; the others get 403. This machine only:
    HTTP clients do not say who they are, so the address is all there is to go by. Behind a trusted proxy the address is
    the one that the proxy names."""

    host_names: tuple[str, ...] = ()
    """Names, beside addresses, localhost, this machine's own name and that of public_root, by which clients may call
    this server; `*`: any. A request for another name gets 421: otherwise a web page of somebody else, whose name is
    made to lead here, could read the archive through a browser that is allowed to."""

    public_root: Annotated[str, Meta(pattern=r"^(https?://[^\s?#]+)?$")] = ""
    """The URL under which clients reach this server, as https://pacs.example.org/filmroom; it begins the URLs in
    answers. Unset: what a trusted proxy says, or else how the request was addressed."""

    trusted_proxies: tuple[Network, ...] = ()
    """Addresses and networks of proxies whose Forwarded and X-Forwarded-* headers are believed. From anybody else they
    are overlooked: who may write them may pretend to be anybody."""

    cors_origins: tuple[Origin, ...] = ()
    """Origins (https://viewer.example.org) whose pages may use this server from a browser; `*`: every page. None: a
    viewer that is served from here needs none."""

    as_stored_clients: tuple[str, ...] = ()
    """Words of User-Agent: a client whose agent has one of them gets instances and frames as they are stored when it
    names no transfer syntax. Everybody else then gets Explicit VR Little Endian, as PS3.18 8.7.3.5.2 says: a
    decoder works for each compressed image. Viewers that decode themselves and forget to say so belong here."""

    request_log: RequestLog = "changes"
    """Which requests are a line of the log: changes: all that change something and all that fail; all: also those that
    read, which at full rate are thousands a second; none: only what fails by our fault."""

    header_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """How long the head of a request may take from its first byte; also how long a TLS handshake may take. A head is
    one packet."""

    idle_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 75.0
    """How long a connection stays open between two requests. Longer than the usual proxy keeps one, so that it is not
    closed under a request that is just being sent."""

    transfer_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 30.0
    """How long a client may send nothing of a body that it has announced, or take nothing of an answer; also the time
    over which the two rates below are measured."""

    upload_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 4 * KIB
    """Bytes a second that a client must send of a request's body on average while we read it; 0: one byte is progress.
    A body of one image then takes two minutes at most."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 32 * KIB
    """Bytes a second that a client must take of an answer on average while something waits for it, as
    limits.delivery_rate_bytes_per_s_min for DICOM: what it has not taken is held for it."""

    request_line_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 32 * KIB
    """Bytes of a request's first line: viewers ask for hundreds of studies by UID in one URL."""

    header_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 16 * KIB
    """Bytes of one header: name and value. Accept lists and tokens have some kilobytes."""

    headers_max: Annotated[int, Meta(ge=16, le=1000)] = 100
    """Headers of one request; browsers and proxies send some thirty."""

    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * GIB)] = 1 * MIB
    """Bytes of a request's body that is read whole, a query or a command. Instances stream in, and
    limits.data_set_bytes_max holds for each."""

    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = 1024
    """Open connections of one worker; when there are more, the one that has been idle longest is closed."""

    requests_max: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Requests that one worker serves at once; further ones get 503 and Retry-After. Each may hold some megabytes."""

    requests_per_client_max: Annotated[int, Meta(ge=1, le=100_000)] = 128
    """Requests of one address that one worker serves at once; further ones get 429 and Retry-After, so that half of
    requests_max is left to the others. A viewer has up to a hundred."""

    requests_per_client_per_s_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Requests a second of one address that one worker serves; further ones get 429 and Retry-After; 0: any number. A
    viewer that scrolls asks for hundreds of frames a second."""

    def __post_init__(self) -> None:
        for network in (*self.allow, *self.trusted_proxies):
            ip_network(network, strict=False)  # raises ValueError with the reason


class Webhook(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine that the change feed is delivered to (`web.webhooks`), while HTTP is enabled."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    """What it is called here. How far it is is kept under this name: another name begins from now."""

    url: Annotated[str, Meta(pattern=r"^https?://[^\s/?#]+[^\s]*$", max_length=4096)]
    """Where events are sent by POST."""

    secret_file: Path | None = None
    """A file with the secret that requests are signed with, the same there and here; unset: they are not signed."""

    actions: tuple[FeedAction, ...] = ()
    """Which events are sent; empty: all."""

    events_max: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Events in one request: some 40 KB."""

    timeout_s: Seconds = 10.0
    """How long an answer may take. A receiver that works on events for longer should take them first."""

    retry_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """Seconds until the next attempt after one that failed; twice as long after each further one."""

    retry_s_max: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """The longest pause between two attempts: ten minutes after it is well again everything flows."""

    attempts_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 300
    """Attempts in a row after which it is parked, until `filmroom webhooks resume`: two days, so that a machine that is
    gone for good is not asked for ever, and a weekend does not count as that."""
