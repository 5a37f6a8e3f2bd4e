"""The [cluster] table: where the nodes of an archive agree with each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED

_NODE = Meta(
    pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="1 to 64 letters, digits, ., _ and -, or empty"
)
_SECRET = re.compile(r"password\s*=|://[^/@?]*:[^/@?]*@", re.IGNORECASE)


class ClusterSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Several servers that are one archive: each stores, finds and sends. They agree in a PostgreSQL database."""

    database: Annotated[str, Meta(max_length=4096), FIXED] = ""
    """The database, in the words of libpq ("host=db1,db2 dbname=filmroom user=filmroom sslmode=verify-full") or as an
    address (postgresql://filmroom@db1,db2/filmroom). Empty: this server is alone. Of several hosts, the primary with
    the newest timeline is taken. It must be PostgreSQL itself: a pooler (PgBouncer) is refused."""

    password_file: Annotated[Path | None, FIXED] = None
    """A file that only its owner can read, with the password of the database's user. Unset: what libpq finds
    (~/.pgpass, a certificate, the user of a Unix socket)."""

    node: Annotated[str, _NODE, FIXED] = ""
    """The name of this server among the nodes of its archive; needed with database."""

    address: Annotated[str, Meta(max_length=256), FIXED] = ""
    """HOST:PORT at which the other nodes reach this one; shown by `filmroom cluster status`."""

    visibility: Annotated[Literal["cluster", "node"], FIXED] = "cluster"
    """What becomes of queries while PostgreSQL does not answer. cluster: they are refused (A700, 503), since an answer
    might lack what another node has stored; node: they are answered with what this node knows, and the log, a metric
    and a header of HTTP say so."""

    timeout_s: Annotated[float, Meta(ge=0.5, le=60), FIXED] = 2.0
    """Seconds for each answer of PostgreSQL; then the connection is given up. Answers take a millisecond; senders wait
    behind each of them."""

    lease_s: Annotated[float, Meta(ge=2, le=300), FIXED] = 10.0
    """Seconds without a sign of life after which the other nodes may take over what a node has begun. Each node gives
    three signs in that time. Ten seconds are longer than a fail-over of PostgreSQL by Patroni takes to be noticed, and
    shorter than senders wait."""

    wait_s: Annotated[float, Meta(ge=0.05, le=60), FIXED] = 2.0
    """The longest that a query waits until this node knows what the others have stored before it. It is some
    milliseconds usually; after two seconds something is wrong, and a person who waits should hear of it."""

    def __post_init__(self) -> None:
        if _SECRET.search(self.database):
            raise ValueError("[cluster] database holds a password: write it into the file that password_file names")
        if self.database and not self.node:
            raise ValueError("[cluster] has a database and no node: name this server")
