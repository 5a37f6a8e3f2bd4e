"""The [http], [fhir] and [[webhook]] tables: the HTTP port, its clients and receivers, and bounds on their cost."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, GIB, KIB, MIB, Name, Network, Port, Seconds

FeedAction = Literal[
    "stored", "kept_aside", "deleted", "restored", "version_deleted", "corrected", "held", "released", "series_quiet",
    "study_quiet", "study_complete", "study_reopened", "replicated",
]  # fmt: skip
RequestLog = Literal["all", "changes", "none"]
LOOPBACK: Final = ("127.0.0.0/8", "::1")
_Url = Annotated[
    str, Meta(pattern=r"^https?://[^\s/?#]+[^\s]*$", max_length=4096, description="an address as https://NAME/PATH")
]
Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s]+)$", description="https://NAME or *")]

_Receiver = Annotated[str, Meta(pattern=r"^https?://[^/\s@?#]+$", description="https://NAME or https://NAME:PORT")]


class Http(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HTTP: DICOMweb, health and metrics. A reload applies all but enabled, host and port, to new requests."""

    enabled: Annotated[bool, FIXED] = True
    """Whether HTTP is served at all."""

    host: Annotated[str, FIXED] = "127.0.0.1"
    """Address to listen on. This machine only; before you set 0.0.0.0, all interfaces, decide who may read and set
    `allow`."""

    port: Annotated[Port, FIXED] = 8080
    """The usual port of a web server without privileges; 0: any free one."""

    certificate: Path | None = None
    """A PEM file with the certificate and its intermediate certificates: the port then speaks HTTPS only. Unset, and
    host is not loopback: those of tls.certificates. A reload reads the file again for new connections; open ones
    continue. TLS cannot be switched on or off without a restart."""

    key: Path | None = None
    """A PEM file with the certificate's private key, without a passphrase; unset: it is in the same file."""

    plain: Annotated[bool, FIXED] = False
    """Whether HTTP without TLS may be served beyond loopback if there is no http.certificate: behind a proxy on another
    machine or in another container that speaks HTTPS. Otherwise passwords and images could be read on their way, and
    the server does not start."""

    client_certificates: Literal["off", "wanted", "required"] = "off"
    """Whether HTTPS clients show a certificate that `trust` verifies. wanted: they may, and browsers ask their user;
    required: nobody is served without one. Whose user it stands for says the user's account."""

    trust: tuple[Path, ...] = ()
    """PEM files with the authorities of clients' certificates; unset: those of tls.trust."""

    crls: tuple[Path, ...] = ()
    """PEM files with revocation lists for clients' certificates; unset: those of tls.crls."""

    hsts_s: Annotated[int, Meta(ge=0, le=100_000_000)] = 31_536_000
    """Seconds for which browsers reach this host name by HTTPS only, once they have (HSTS); 0: not said. A year."""

    handshakes_max: Annotated[int, Meta(ge=1, le=100_000)] = 64
    """TLS handshakes in progress in one worker. When there are more, the oldest of the address that has most is ended,
    so that half-open ones cannot keep anybody out."""

    login: Literal["auto", "required", "off"] = "auto"
    """Whether clients must log in or show a token. auto: as soon as the archive has a user (`filmroom user`)
    or an identity provider; required: always; off: never, every client of `allow` may do everything."""

    allow: tuple[Network, ...] | None = None
    """Addresses and networks that may use HTTP; others get 403. Unset: this machine only while no login is needed, any
    address when it is. Behind a trusted proxy it is the address that the proxy reports."""

    host_names: tuple[str, ...] = ()
    """Host names, beside addresses, localhost, this machine's own name and that of public_root, that requests may have;
    `*`: any. A request with another name gets 421: otherwise an attacker's web page, with a name that resolves to this
    server, could read the archive through the browser of an allowed client (DNS rebinding)."""

    public_root: Annotated[str, Meta(pattern=r"^(https?://[^\s?#]+)?$", description="an address as https://NAME")] = ""
    """The URL at which clients reach this server, as https://pacs.example.org/filmroom; URLs in answers begin with it.
    Unset: the URL that a trusted proxy reports, else that of the request."""

    trusted_proxies: tuple[Network, ...] = ()
    """Addresses and networks of proxies whose Forwarded and X-Forwarded-* headers are trusted. They are ignored from
    anybody else, who could pretend to have any address."""

    viewer_directory: Path | None = None
    """The directory of the viewer at /ohif (`filmroom viewer install`). Unset: filmroom/ohif in ~/.local/share, or in
    /usr/local/share or /usr/share, where root installs it for all users."""

    cors_origins: tuple[Origin, ...] = ()
    """Origins (https://viewer.example.org) whose pages may use this server from a browser; `*`: every page. None: a
    viewer that this server itself delivers needs none."""

    as_stored_clients: tuple[str, ...] = ()
    """Words of User-Agent: a client whose agent has one of them, and which names no transfer syntax, gets instances and
    frames as they are stored. Everybody else then gets Explicit VR Little Endian (PS3.18 8.7.3.5.2), which costs the
    decoding of each compressed image. List viewers here that decode themselves and do not say so."""

    supply: bool = False
    """Whether answers of QIDO-RS have what studies lack and their linked orders say, where [worklist] supply is
    "chosen". Metadata and instances are as they are stored and corrected."""

    request_log: RequestLog = "changes"
    """The requests in the log. changes: all that change something and all that fail; all: also those that read, which
    at full rate are thousands a second; none: only failures of this server."""

    header_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """Seconds for the head of a request from its first byte; also for a TLS handshake. A head is one packet."""

    idle_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 75.0
    """Seconds that a connection stays open between two requests. Longer than in most proxies, so that we do not close
    it while the proxy sends a request."""

    transfer_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 30.0
    """Seconds that a client may pause while it sends a body or receives an answer; also the time over which the two
    rates below are measured."""

    upload_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 4 * KIB
    """Bytes a second of a request's body that a client must send on average while we read it; 0: one byte is progress.
    A body of one image then takes two minutes at most."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 32 * KIB
    """Bytes a second of an answer that a client must receive on average while data waits for it, as
    limits.delivery_rate_bytes_per_s_min for DICOM: its data stays in our memory meanwhile."""

    request_line_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 32 * KIB
    """Bytes of a request's first line: viewers query hundreds of studies by UID in one URL."""

    header_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * MIB)] = 16 * KIB
    """Bytes of one header: name and value. Accept lists and tokens have some kilobytes."""

    headers_max: Annotated[int, Meta(ge=16, le=1000)] = 100
    """Headers of one request; browsers and proxies send some thirty."""

    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=1 * GIB)] = 1 * MIB
    """Bytes of a request's body that is read as a whole, a query or a command. Instances are streamed, and
    limits.data_set_bytes_max applies to each."""

    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = 1024
    """Open connections of one worker; when there are more, the longest idle one is closed."""

    requests_max: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Requests that one worker serves at once; further ones get 503 and Retry-After. Each may hold some megabytes."""

    requests_per_client_max: Annotated[int, Meta(ge=1, le=100_000)] = 128
    """Requests of one address that one worker serves at once; further ones get 429 and Retry-After, so that half of
    requests_max is left to the others. A viewer has up to a hundred."""

    requests_per_client_per_s_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Requests a second of one address that one worker serves; further ones get 429 and Retry-After; 0: no limit. A
    viewer that scrolls requests hundreds of frames a second."""

    def __post_init__(self) -> None:
        for network in (*(self.allow or ()), *self.trusted_proxies):
            ip_network(network, strict=False)  # raises ValueError with the reason

    @property
    def open_to(self) -> tuple[Network, ...]:
        """The clients that may do everything while no login is needed."""
        return LOOPBACK if self.allow is None else self.allow


class Fhir(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The [fhir] table: whom subscriptions of FHIR may notify by HTTP. A reload applies all of it."""

    notify: tuple[_Receiver, ...] = ()
    """Where a subscription may send notifications to, as https://ehr.example or https://ehr.example:8443. Unset:
    nowhere, since clients write the addresses, and this server may reach what they cannot. WebSockets need none."""

    secret_file: Path | None = None
    """A file with the secret that signs notifications, as those of a [[webhook]]; unset: they are not signed."""

    retry_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """Seconds from a failed attempt to the next; twice as long after each further one."""

    retry_s_max: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """The longest pause between two attempts."""

    attempts_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 300
    """Failed attempts in a row after which a subscription is off, until its client requests it again: two days."""


class Webhook(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A receiver of the change feed (`web.webhooks`), while HTTP is enabled."""

    name: Name
    """Its name here. Its position in the feed is stored under this name: a new name begins with new events."""

    url: _Url
    """Where events are sent by POST."""

    secret_file: Path | None = None
    """A file with the shared secret that signs the requests; unset: they are not signed."""

    actions: tuple[FeedAction, ...] = ()
    """The events to send; empty: all."""

    events_max: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Events in one request: some 40 KB."""

    timeout_s: Seconds = 10.0
    """Seconds for an answer. A receiver that works longer on events should answer first."""

    retry_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """Seconds from a failed attempt to the next; twice as long after each further one."""

    retry_s_max: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """The longest pause between two attempts: deliveries resume at most ten minutes after the receiver is back."""

    attempts_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 300
    """Failed attempts in a row after which the webhook is parked, until `filmroom webhooks resume`: two days, long
    enough for a weekend, so that a receiver that is gone for good is not tried forever."""
