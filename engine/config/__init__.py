"""One frozen `Config`: every setting and limit with its unit, its default and the reason for it.

Read once and passed down in pieces; no other module looks at the configuration file or at the environment.
Where a value comes from, the first that has one:

    flag  >  environment variable  >  file (TOML)  >  default here

    dicom_port = 11112            --dicom-port      FILMROOM_DICOM_PORT
    [limits]
    idle_timeout_s = 300                            FILMROOM_LIMITS_IDLE_TIMEOUT_S
    [[peer]]                      (in the file only)
    aet = "WORKSTATION"
    host = "10.0.0.7"
    port = 104

A key that does not exist is an error that names the nearest one that does. Keys with a unit end in it. Relative
paths in a file start at the file's folder, others at the working directory.
"""

from __future__ import annotations

from engine.config.composition import Config
from engine.config.peers import PeerBook, PeerSettings
from engine.config.reader import (
    DEFAULT_FILE,
    Reading,
    environment_variable,
    find_file,
    load,
    origins,
    parse_peer,
    places,
)
from engine.config.schema import (
    Attribute,
    Coercion,
    Compaction,
    Duplicates,
    Durability,
    Limits,
    Log,
    LogFormat,
    LogLevel,
    Origin,
    Peer,
    Permission,
    Quarantine,
    Queries,
    QueryOption,
    Reindex,
    Retention,
    Scrub,
    Storage,
)

__all__ = [
    "DEFAULT_FILE",
    "Attribute",
    "Coercion",
    "Compaction",
    "Config",
    "Duplicates",
    "Durability",
    "Limits",
    "Log",
    "LogFormat",
    "LogLevel",
    "Origin",
    "Peer",
    "PeerBook",
    "PeerSettings",
    "Permission",
    "Quarantine",
    "Queries",
    "QueryOption",
    "Reading",
    "Reindex",
    "Retention",
    "Scrub",
    "Storage",
    "environment_variable",
    "find_file",
    "load",
    "origins",
    "parse_peer",
    "places",
]
