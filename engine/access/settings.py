"""The [[peer]] tables: application entities that we know, and what holds for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.archive.settings import Duplicates, Durability
from engine.services.settings import QueryOption
from engine.setting import GIB, KIB, MIB, UID, AETitle, Port, Seconds
from engine.titles import check_title

Permission = Literal["store", "query", "retrieve", "destination"]


class Peer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One application entity that we know. What is not set here is as for everybody."""

    aet: AETitle
    """Its AE title, as it calls and is called (PS3.5 VR AE: 16 characters, no backslash). Beyond ASCII it is known by
    its bytes in Latin-1 and in UTF-8, and called in Latin-1 if that has all its letters."""

    host: str = ""
    """Name or address to connect to; this or url is needed for a destination."""

    port: Port = 0
    """TCP port to connect to; needed for a destination."""

    url: Annotated[str, Meta(pattern=r"^(https?://[^\s?#@]+)?$", max_length=4096)] = ""
    """Where its DICOMweb services are, as https://pacs.example.org/dicom-web: it is then sent to by STOW-RS and pulled
    from by QIDO-RS and WADO-RS, by us and on request of HTTP clients. C-MOVE to it takes host and port."""

    ca_file: Path | None = None
    """A file with the authorities that its certificate is checked against (PEM); unset: those of this machine."""

    token_file: Path | None = None
    """A file with the bearer token for its url."""

    user: str = ""
    """The user name for its url (HTTP Basic), with password_file."""

    password_file: Path | None = None
    """A file with the password of that user."""

    may: tuple[Permission, ...] = ("store", "query", "retrieve", "destination")
    """What it may do: send us instances, ask us, have instances sent, be sent instances that another asks for.
    Without host and port the default leaves destination out."""

    destinations: tuple[AETitle, ...] | None = None
    """AE titles to which it may have instances sent by C-MOVE, for one that must not choose freely: a ward's viewer
    that shall send to its own ward only. The others are unknown destinations to it (A801). Unset: every destination."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] | None = None
    """Bytes of a P-DATA-TF that we announce to it, and the most that we send it whatever it announces."""

    durability: Durability | None = None
    """For what it stores."""

    duplicates: Duplicates | None = None
    """For what it stores."""

    transfer_syntaxes: tuple[UID, ...] = ()
    """UIDs of the transfer syntaxes to prefer towards it, best first, before the one an instance is stored in."""

    prefer_compressed: bool = False
    """Whether its compressed form is taken where it offers native and compressed transfer syntaxes in one presentation
    context. Off, since many offer what they cannot do; for a modality that holds compressed images and would
    decompress them."""

    store_associations: Annotated[int, Meta(ge=1, le=64)] = 1
    """Associations on which one retrieval is sent to it in parallel."""

    asynchronous_window: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Operations outstanding in either direction, more or fewer than others have; 0 or 1: one. Unset: it may have
    limits.asynchronous_window with us, and we have one with it, since many receivers accept a window and then mix up
    the answers."""

    timeout_s: Seconds | None = None
    """For it instead of limits.dimse_timeout_s, whoever opened the association."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] | None = None
    """For it instead of limits.delivery_rate_bytes_per_s_min: a practice behind a slow line."""

    accept_truncated: bool = False
    """Whether a data set from it that ends early (Pixel Data shorter than its length, a sequence that is not closed)
    is stored, with warning B006, instead of being refused (C000): for a modality that is known to cut what it sends.
    Such an instance is never reported as committed, `filmroom check` names it, and a whole one takes its place."""

    associations_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Associations that it may have open at once, for it instead of limits.associations_per_peer_max."""

    associations_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Associations that its network address may have open at once for one more of it to be let in, instead of
    limits.associations_per_address_max: more for a gateway that many send through."""

    bandwidth_bytes_per_s_max: Annotated[int, Meta(ge=64 * KIB, le=64 * GIB)] | None = None
    """Bytes a second that we take from it, all its associations together: a transfer of old studies in the background
    leaves the modalities their share. Unset: as many as it sends."""

    query_options: tuple[QueryOption, ...] | None = None
    """Options of its queries that it cannot negotiate, instead of query.options."""

    query_results_max: Annotated[int, Meta(ge=0)] | None = None
    """Matches that a C-FIND of it answers, instead of limits.query_results_max; 0: all."""

    query_timeout_s: Annotated[float, Meta(ge=0, le=86400)] | None = None
    """Seconds that a C-FIND of it may work, instead of limits.query_timeout_s; 0: as long as it takes."""

    def __post_init__(self) -> None:
        check_title(self.aet)
        for title in self.destinations or ():
            check_title(title)

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
        """Operations that we may propose to have outstanding with it."""
        return max(1, self.asynchronous_window or 1)
