"""The tables and functions in PostgreSQL (`schema.sql`), with their version.

    0 (none) ──create──► 1

They are made in one transaction, by one node at a time. A version also names the oldest one whose software may still
use it, so that nodes of two versions work side by side while they are upgraded one after another.
"""

from __future__ import annotations

from importlib.resources import files

from engine.cluster import driver
from engine.cluster.database import Database
from engine.errors import ClusterError, ClusterUnreachable

VERSION = 1
OLDEST_READER = 1
CREATION_S = 60.0
_LOCK = 0x46696C6D726F6F6D
"""The number of the advisory lock, "Filmroom": it lasts as long as the transaction."""


def version(database: Database) -> int:
    """The version of the tables; 0 without tables. Raises ClusterUnreachable, ClusterError."""
    if not database.ask("select to_regclass('filmroom.version') is not null")[0][0]:
        return 0
    return int(database.ask("select number from filmroom.version")[0][0])


def check(database: Database) -> None:
    """Raises ClusterError unless this software may use the tables; ClusterUnreachable."""
    if not version(database):
        raise ClusterError("the database has no tables of Filmroom: run `filmroom cluster init`")
    number, oldest_reader = database.ask("select number, oldest_reader from filmroom.version")[0]
    if oldest_reader > VERSION:
        raise ClusterError(f"the database has tables of version {number}; this software knows versions to {VERSION}")


def create(database: Database) -> bool:
    """Makes the tables; False if they are there. Raises ClusterUnreachable, ClusterError."""
    if version(database):
        check(database)
        return False
    statements = files("engine.cluster").joinpath("schema.sql").read_bytes()
    connection = database.open(CREATION_S)
    try:
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            rows = connection.execute("select to_regclass('filmroom.version') is not null").fetchall()
            if rows[0][0]:
                return False
            connection.execute(statements)
            connection.execute("insert into filmroom.version values (true, %s, %s)", [VERSION, OLDEST_READER])
    except driver.psycopg().Error as error:
        is_over = connection.closed or connection.broken
        said = f"the tables of Filmroom cannot be made: {driver.first_line(error)}"
        raise (ClusterUnreachable(said) if is_over else ClusterError(said)) from error
    finally:
        connection.close()
    return True
