"""The exit codes of the command line, and the error that leads to each.

| code | name          | meaning                                                                                |
|------|---------------|----------------------------------------------------------------------------------------|
| 0    | OK            | everything was done;            `import`: every DICOM file is in the archive (files that |
|      |               | are not DICOM are listed, not counted as a failure); `find`: also when nothing matched  |
| 1    | FAILED        | something was not done: an instance was refused, a path held no instance, some         |
|      |               | instances could not be sent, `check` has findings                                      |
| 2    | USAGE         | the command line, or the query in it, is wrong                                         |
| 3    | CONFIGURATION | the configuration file, an environment variable or a flag has a wrong value            |
| 4    | UNAVAILABLE   | the archive is in use, missing, full or unreadable; no server answers                  |
| 5    | PEER          | the peer cannot be reached, or refused or aborted the association                      |
| 130  | INTERRUPTED   | ended by Ctrl-C; what was done until then stays done                                   |
| 141  | READER_GONE   | nobody reads standard output any more (`| head`)                                       |
"""

from __future__ import annotations

from engine import errors

OK = 0
FAILED = 1
USAGE = 2
CONFIGURATION = 3
UNAVAILABLE = 4
PEER = 5
INTERRUPTED = 130
READER_GONE = 141

_BY_ERROR: tuple[tuple[type[errors.EngineError], int], ...] = (
    (errors.ConfigError, CONFIGURATION),
    (errors.QueryError, USAGE),
    (errors.AssociationFailed, PEER),
    (errors.RemoteProtocolError, PEER),
    (errors.ArchiveInUse, UNAVAILABLE),
    (errors.ArchiveReadOnly, UNAVAILABLE),
    (errors.ReplicationFailed, UNAVAILABLE),
    (errors.ControlUnavailable, UNAVAILABLE),
    (errors.QuarantineError, USAGE),
    (errors.CommitmentError, USAGE),
    (errors.CorruptRecord, FAILED),
    (errors.StorageError, UNAVAILABLE),
    (errors.IndexError_, UNAVAILABLE),
    (errors.ViewerError, UNAVAILABLE),
)


def of(error: errors.EngineError) -> int:
    """The exit code of a command that ended with this error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)
