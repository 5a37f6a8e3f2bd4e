"""The [object_store] table: where copies of the archive's segments go, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, GIB, KIB, MIB, Seconds

Hours = Annotated[
    str,
    Meta(
        pattern=r"^([01]?[0-9]|2[0-3])-([01]?[0-9]|2[0-4]) [0-9]{1,9} ?(KiB|MiB|GiB)$",
        description='hours and bytes a second as "7-19 2 MiB"',
    ),
]
"""An hour of the day, the hour at which it ends, and bytes a second."""
_Address = Meta(
    pattern=r"^$|^(s3|gs|az|file)://[^\s?#@]+$",
    max_length=1024,
    description="an address as s3://BUCKET, gs://BUCKET, az://CONTAINER or file:///FOLDER",
)
_Endpoint = Meta(
    pattern=r"^$|^https?://[^\s?#@/]+/?$", max_length=1024, description="an address as https://NAME without a path"
)


class ObjectStore(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bucket that holds a copy of the archive: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob
    Storage, or a folder."""

    url: Annotated[str, _Address, FIXED] = ""
    """s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, az://ACCOUNT/CONTAINER/FOLDER or file:///FOLDER; empty: none. Several
    archives may share a folder: each has its id in every key."""

    endpoint: Annotated[str, _Endpoint, FIXED] = ""
    """The address of the server for S3 that is not Amazon's (https://HOST:PORT); empty: Amazon's."""

    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,64}$", description="the name of a region"), FIXED] = ""
    """The region of the bucket in S3; empty: AWS_REGION, else us-east-1, which servers of one's own take too."""

    credentials_file: Annotated[Path | None, FIXED] = None
    """A file that only its owner can read: of S3 as ~/.aws/credentials, its [default] section; of Google the JSON of a
    service account; of Azure the same form as of S3, with account_key. Unset: the environment (AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY), else the role that the cloud has
    given to this machine."""

    encryption_key_file: Annotated[Path | None, FIXED] = None
    """A file of 64 hex digits: each object is encrypted with a key derived from it before it leaves this machine
    (AES-256-GCM). Without the file the bucket is of no use to anybody, you included: keep a copy elsewhere. Records of
    an encrypted archive are encrypted in any case."""

    connect_timeout_s: Seconds = 3.0
    """Seconds to wait for a connection. A machine in the same room or cloud answers in milliseconds; an outage is to
    be noticed before a person at a workstation gives up."""

    timeout_s: Seconds = 30.0
    """Seconds in which one request must be answered whole; the longest carries part_bytes."""

    retries: Annotated[int, Meta(ge=0, le=20)] = 2
    """Further attempts at a request that the store did not answer or answered with an error of its own. Few, since
    what is tried again for minutes looks like work and is an outage: it is tried again in any case, with the backlog
    shown."""

    part_bytes: Annotated[int, Meta(ge=5 * MIB, le=1 * GIB)] = 8 * MIB
    """Bytes of one part of an upload; four are on their way at once. 8 MiB costs half the processor time of larger
    ones, and allows 80 GB an object."""

    tail: bool = True
    """Whether the records that were just stored go to the bucket within tail_interval_s. Off: only segments that are
    full, and the loss of this machine loses up to a segment of each worker."""

    tail_interval_s: Annotated[float, Meta(ge=0.05, le=3600)] = 1.0
    """Seconds between two looks at what was stored. Each makes one object a worker that stored something: at one a
    second, 2.6 million a month, for which Amazon asks 13 dollars if a worker never rests."""

    group_bytes: Annotated[int, Meta(ge=64 * KIB, le=256 * MIB)] = 16 * MIB
    """The most bytes of the tail in one object."""

    read_back: Literal["whole", "ends"] = "whole"
    """What is read back of each uploaded segment before it counts as stored: whole, which compares every byte's
    checksum; ends, its size, its first and its last page. A cloud asks some 0.09 dollars a GB for what is read from
    outside of it; a store in the house asks nothing."""

    upload_bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 0
    """Bytes uploaded a second at hours that upload_schedule does not name; 0: no limit. The tail goes first, always."""

    upload_schedule: tuple[Hours, ...] = ()
    """Other rates at some hours of this machine's day: "7-19 2 MiB", "22-6 100 MiB". Office hours belong to those who
    work."""

    cache_bytes: Annotated[int, Meta(ge=64 * MIB, le=1024 * 1024 * GIB)] = 64 * GIB
    """The most bytes on this machine of segments that are in the bucket only. Two weeks of work of a small hospital's
    readers."""

    recall: Literal["off", "bulk", "standard", "expedited"] = "standard"
    """How what lies in an archive class of S3 (Glacier, Deep Archive) is brought back when somebody reads it: standard
    takes 5 to 12 hours, bulk 12 to 48 and costs least, expedited some minutes and costs most. off: not at all."""

    recall_days: Annotated[int, Meta(ge=1, le=3650)] = 7
    """Days for which what was brought back stays readable."""

    egress_usd_per_gib: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """What the provider asks for a GiB that is read from outside of its cloud, for `filmroom tier plan`; 0: a store of
    your own. Large clouds ask some 0.09 dollars."""

    remove_after_hours: Annotated[float, Meta(ge=0, le=87_600)] = 24.0
    """Hours for which the bucket keeps a segment that compaction has removed here. A day: a restore from the bucket
    never meets a segment whose successor it has not seen."""


class Tier(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule for studies whose bytes need not be on this machine: the bucket has them, and they are read from there.

    `filmroom tier plan` shows what would go, `filmroom tier apply` does it. Nothing is deleted."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    """Shown by `filmroom tier`."""

    older_than_days: Annotated[float, Meta(ge=0, le=365_000)]
    """Days since the last instance of the study arrived here."""

    modalities: tuple[str, ...] = ()
    """Only studies whose series all have one of these modalities (0008,0060); empty: any."""

    institutions: tuple[str, ...] = ()
    """Only studies whose series all come from one of these institutions (0008,0080), in upper or lower case; empty:
    any."""

    last_read_days: Annotated[int, Meta(ge=0, le=3600)] = 0
    """Days for which nobody has retrieved, viewed or exported anything of the study; 0: does not matter. It is noted
    from the start of this version on, with [audit] enabled: until that is so many days ago, the rule names no study."""
