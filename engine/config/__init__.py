"""The configuration: one frozen `Config` with the settings of all rooms.

It is read once and passed down in parts; no other module reads the configuration file or the environment. A value
comes from the first of these that has one:

    flag  >  environment variable  >  file (TOML)  >  default here

    dicom_port = 11112            --dicom-port      FILMROOM_DICOM_PORT
    [limits]
    idle_timeout_s = 300                            FILMROOM_LIMITS_IDLE_TIMEOUT_S
    [[peer]]                      (in the file only)
    aet = "WORKSTATION"
    host = "10.0.0.7"
    port = 104

Peers that were added on the page are in a file of their own (`managed_peers`).

An unknown key is an error that names the most similar key. Keys with a unit end in it. Relative paths in a file start
at the file's folder, others at the working directory.
"""

from __future__ import annotations

from engine.access.role_settings import Role
from engine.access.settings import Peer, Permission
from engine.archive.attribute_settings import Attribute
from engine.archive.settings import (
    Commitment,
    Compaction,
    Deletion,
    Duplicates,
    Durability,
    Encryption,
    Feed,
    Quarantine,
    Reindex,
    Retention,
    Scrub,
)
from engine.config.composition import Config
from engine.config.managed_peers import load, origins
from engine.config.peers import PeerBook, PeerSettings
from engine.config.reader import (
    DEFAULT_FILE,
    Origin,
    Reading,
    environment_variable,
    find_file,
    parse_peer,
    places,
)
from engine.doctor.settings import Target
from engine.log_settings import Log, LogFormat, LogLevel
from engine.runtime.settings import Limits
from engine.services.settings import Coercion, Queries, QueryOption, Tls
from engine.storage.settings import Storage
from engine.web.settings import Http

__all__ = [
    "Attribute",
    "Coercion",
    "Commitment",
    "Compaction",
    "Encryption",
    "Config",
    "DEFAULT_FILE",
    "Deletion",
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
    "Role",
    "Scrub",
    "Storage",
    "Target",
    "Tls",
    "environment_variable",
    "find_file",
    "load",
    "origins",
    "parse_peer",
    "places",
]
