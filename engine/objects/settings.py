"""The [object_store] table: where copies of the archive's segments go, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from engine.setting import FIXED, GIB, MIB, Seconds


class ObjectStore(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bucket that holds a copy of the archive: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob
    Storage, or a folder."""

    url: Annotated[str, Meta(pattern=r"^$|^(s3|gs|az|file)://[^\s?#@]+$", max_length=1024), FIXED] = ""
    """s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, az://ACCOUNT/CONTAINER/FOLDER or file:///FOLDER; empty: none. Several
    archives may share a folder: each has its id in every key."""

    endpoint: Annotated[str, Meta(pattern=r"^$|^https?://[^\s?#@/]+/?$", max_length=1024), FIXED] = ""
    """The address of the server for S3 that is not Amazon's (https://HOST:PORT); empty: Amazon's."""

    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,64}$"), FIXED] = ""
    """The region of the bucket in S3; empty: AWS_REGION, else us-east-1, which servers of one's own take too."""

    credentials_file: Annotated[Path | None, FIXED] = None
    """A file that only its owner can read: of S3 as ~/.aws/credentials, its [default] section; of Google the JSON of a
    service account; of Azure the same form as of S3, with account_key. Unset: the environment (AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY), else the role that the cloud has
    given to this machine."""

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
