"""Every error that the engine raises on purpose, one branch a layer.

Inner layers know no DIMSE status and no HTTP code: `dimse.status` and `web.errors` map these, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class EngineError(Exception):
    """The base of every error that this engine raises on purpose."""


class ConfigError(EngineError):
    """The configuration is wrong; the message names the key and says what would be right."""


# dicom -------------------------------------------------------------------------------------------


class DataSetError(EngineError):
    """Bytes that are no valid data set, identifier or Part 10 file; the message names the offset."""


# ul ----------------------------------------------------------------------------------------------


class LocalProtocolError(EngineError):
    """We asked the association for something that its state does not allow: our own mistake."""


class RemoteProtocolError(EngineError):
    """The peer broke PS3.8; carries the A-ABORT source and reason to answer with (PS3.8 9.3.8)."""

    def __init__(self, message: str, source: int = 2, reason: int = 0) -> None:
        super().__init__(message)
        self.source = source
        """2: service provider (PS3.8 Table 9-26)."""
        self.reason = reason
        """0 not specified, 1 unrecognized PDU, 2 unexpected PDU, 4 unrecognized, 5 unexpected
        parameter, 6 invalid parameter value."""


class AssociationFailed(EngineError):
    """An association that we requested was refused, aborted or lost; the message says by whom and why."""


# dimse -------------------------------------------------------------------------------------------


class MessageError(EngineError):
    """A command set that breaks PS3.7: carries the general status of PS3.7 Annex C to answer with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """e.g. 0x0211 unrecognized operation, 0x0212 mistyped argument."""


# web ---------------------------------------------------------------------------------------------


class RequestError(EngineError):
    """A request that HTTP or PS3.18 does not allow; the message names the parameter or header at fault."""


class MultipartError(RequestError):
    """A multipart body that is not one, ends early, or goes beyond its limits; the message says which."""


class NotAcceptable(EngineError):
    """Nothing that a resource can be given as is among what the request accepts; the message says what there is."""


# storage -----------------------------------------------------------------------------------------


class StorageError(EngineError):
    """The base of everything that the log raises."""


class TornTail(StorageError):
    """An incomplete last record: normal after a crash; recovery cuts it."""

    def __init__(self, message: str, segment_id: int, offset: int) -> None:
        super().__init__(message)
        self.segment_id = segment_id
        self.offset = offset


class CorruptRecord(StorageError):
    """Stored bytes that are not what was written. Never skip one in silence."""

    def __init__(self, message: str, segment_id: int, offset: int) -> None:
        super().__init__(message)
        self.segment_id = segment_id
        self.offset = offset


class SegmentGone(CorruptRecord):
    """The segment file of a position is no more: what lay in it was moved or deleted, and the index says which."""


class StoreUnreachable(StorageError):
    """The place where a segment lies does not answer: its bytes are not damaged, and may be read in a moment."""


class StorageFull(StorageError):
    """The disk or its reserve is used up: new stores are refused, everything else goes on."""


class StorageFailed(StorageError):
    """An I/O error from write or sync: final. The writer stops; a second sync would lie."""


# index and archive -------------------------------------------------------------------------------


class IndexError_(EngineError):
    """The index is missing, of another version, or damaged; it can be rebuilt from the log."""


class ProcessIdTaken(IndexError_):
    """A process of another PID namespace has the index open under the id of this one."""


class IndexOutdated(IndexError_):
    """The index has the format of another version of this engine; the keeper makes it anew."""


class IndexDamaged(IndexError_):
    """Files or rows of the index are not as they were written; a keeper that meets it at its start makes it anew."""


class QueryError(EngineError):
    """An identifier that PS3.4 Annex C does not allow (status A900); the message says which key."""

    def __init__(self, message: str, *offending_elements: int) -> None:
        super().__init__(message)
        self.offending_elements = offending_elements
        """The tags of the keys at fault, for the response (0000,0901)."""


class Refusal(Enum):
    """Why an instance is not kept; `dimse.status` maps each to the C-STORE status of PS3.4 B.2.3."""

    CANNOT_UNDERSTAND = "cannot understand"
    MISMATCH = "data set does not match"
    OUT_OF_RESOURCES = "out of resources"
    NOT_AUTHORIZED = "not authorized"
    OTHER_STUDY = "of another study"
    """Than the one that its sender stores into."""
    TRANSFER_SYNTAX = "transfer syntax not supported"
    SOP_CLASS = "SOP class not supported"


class InstanceRefused(EngineError):
    """A data set that cannot be kept as the instance it claims to be; the message says why."""

    def __init__(self, message: str, refusal: Refusal = Refusal.CANNOT_UNDERSTAND) -> None:
        super().__init__(message)
        self.refusal = refusal


class NotAllowed(EngineError):
    """Who asks may not do that (`engine.access`)."""


class NotStored(EngineError):
    """UIDs that were named are not in the archive; the message names each."""


class RetentionRefused(EngineError):
    """A retention rule is not applied before somebody confirms it; nothing was deleted. The message says why."""


class DeletionRefused(EngineError):
    """Something of what was to be deleted is on legal hold; nothing was deleted."""

    def __init__(self, message: str, study_instance_uids: Sequence[str]) -> None:
        super().__init__(message)
        self.study_instance_uids = list(study_instance_uids)
        """Those on hold."""


class CorrectionRefused(EngineError):
    """A correction, merge, move or undo that cannot be; nothing was changed. The message says why, and names nobody."""


class PatientUnknown(CorrectionRefused):
    """No study of a patient that was named is stored."""

    def __init__(self, patient_id: str, issuer: str | None) -> None:
        super().__init__("no study of this patient is stored")
        self.patient_id = patient_id
        self.issuer = issuer


class InstanceQuarantined(InstanceRefused):
    """A data set that cannot be kept as an instance; its bytes are in the quarantine."""


class QuarantineError(EngineError):
    """What is asked for is not in quarantine, or cannot be taken out of it; the message says why."""


class CommitmentError(EngineError):
    """A storage commitment that is not there, is being reported, or cannot be read; the message says which."""


class JobError(EngineError):
    """There is no such job."""


class JobsFull(JobError):
    """There are too many jobs that have not ended."""


class ArchiveInUse(EngineError):
    """Another process keeps this archive and the wanted work needs it alone."""


class ArchiveReadOnly(EngineError):
    """This archive takes nothing in: it is a replica, or lies where nothing can be written."""


class BackupError(EngineError):
    """A backup that cannot be taken, read or restored; the message says what is wrong with it."""


class ReplicationFailed(EngineError):
    """A replica that cannot be brought up: it is gone, refuses, or has gone another way; the message says which."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final
        """Trying again does not help: somebody has to decide."""


class ControlUnavailable(EngineError):
    """No server answers on the archive's control socket: none is running, or it runs elsewhere."""


class ExportFailed(EngineError):
    """The target of an export cannot be written to; the message says which and why. What is complete stays."""


class TranscodeError(EngineError):
    """A data set that cannot be brought into the wanted transfer syntax; the message says why."""


class FramesUnreadable(EngineError):
    """Pixel data that cannot be taken apart into frames, or has no such frame; the message says why."""


class NoSuchFrame(FramesUnreadable):
    """A frame number beyond the frames that are there."""


class MemoryShort(EngineError):
    """Retrievals hold all the memory that they may hold together, and none came free in time."""


class FeedError(EngineError):
    """The change feed cannot be read as asked; the message says why."""


class CursorRefused(FeedError):
    """A cursor that is none, is of another feed, or is older than what the feed keeps: the subscriber begins anew."""


class FeedDamaged(FeedError):
    """Events are missing from the feed's journal, or cannot be read."""
