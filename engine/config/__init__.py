"""One frozen `Config`: the settings of all rooms, and how it is read.

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

from engine.access.settings import Peer, Permission
from engine.archive.attribute_settings import Attribute
from engine.archive.settings import (
    Commitment,
    Compaction,
    Duplicates,
    Durability,
    Feed,
    Quarantine,
    Reindex,
    Retention,
    Scrub,
)
from engine.config.composition import Config
from engine.config.peers import PeerBook, PeerSettings
from engine.config.reader import (
    DEFAULT_FILE,
    Origin,
    Reading,
    environment_variable,
    find_file,
    load,
    origins,
    parse_peer,
    places,
)
from engine.doctor.settings import Target
from engine.log_settings import Log, LogFormat, LogLevel
from engine.runtime.settings import Limits
from engine.services.settings import Coercion, Queries, QueryOption
from engine.storage.settings import Storage
from engine.web.settings import Http

__all__ = [
    "Attribute",
    "Coercion",
    "Commitment",
    "Compaction",
    "Config",
    "DEFAULT_FILE",
    "Duplicates",
    "Durability",
    "Feed",
    "Http",
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
    "Target",
    "environment_variable",
    "find_file",
    "load",
    "origins",
    "parse_peer",
    "places",
]
