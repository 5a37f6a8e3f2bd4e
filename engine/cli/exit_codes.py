"""The exit codes of the command line, their meanings, and the error that leads to each."""

from __future__ import annotations

from engine import errors

OK = 0
FAILED = 1
USAGE = 2
CONFIGURATION = 3
UNAVAILABLE = 4
PEER = 5
TAMPERED = 6
INTERRUPTED = 130
READER_GONE = 141

MEANINGS = {
    OK: "Everything was done. import: every DICOM file is in the archive; files that are not DICOM are listed, and do "
    "not count as a failure. find: also when nothing matched.",
    FAILED: "Something was not done: an instance was refused, a path held no instance, some instances could not be "
    "sent, check has findings.",
    USAGE: "The command line, or the query in it, is wrong.",
    CONFIGURATION: "The configuration file, an environment variable or an option has a wrong value.",
    UNAVAILABLE: "The archive is in use, missing, full or unreadable, or no server answers.",
    PEER: "The peer cannot be reached, or refused or aborted the association.",
    TAMPERED: "audit verify: the audit log is not as it was written.",
    INTERRUPTED: "Ended by Ctrl-C. What was done until then stays done.",
    READER_GONE: "Nobody reads standard output any more (| head).",
}

_BY_ERROR: tuple[tuple[type[errors.EngineError], int], ...] = (
    (errors.ConfigError, CONFIGURATION),
    (errors.QueryError, USAGE),
    (errors.AssociationFailed, PEER),
    (errors.RemoteProtocolError, PEER),
    (errors.AuditUnavailable, UNAVAILABLE),
    (errors.ArchiveInUse, UNAVAILABLE),
    (errors.ArchiveReadOnly, UNAVAILABLE),
    (errors.ReplicationFailed, UNAVAILABLE),
    (errors.ControlUnavailable, UNAVAILABLE),
    (errors.QuarantineError, USAGE),
    (errors.CommitmentError, USAGE),
    (errors.AccountsRefused, USAGE),
    (errors.NoSuchAccount, USAGE),
    (errors.AccountsConflict, FAILED),
    (errors.AccountsError, UNAVAILABLE),
    (errors.CorruptRecord, FAILED),
    (errors.StorageError, UNAVAILABLE),
    (errors.IndexError_, UNAVAILABLE),
    (errors.ViewerError, UNAVAILABLE),
    (errors.OrdersError, UNAVAILABLE),
    (errors.ClusterUnreachable, UNAVAILABLE),
)


def of(error: errors.EngineError) -> int:
    """The exit code of a command that ended with this error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)
