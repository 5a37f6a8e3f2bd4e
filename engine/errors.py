"""Every error that the engine raises on purpose, one branch a layer.

Inner layers know neither DIMSE statuses nor HTTP codes: only `dimse.status` and `web.errors` map errors to these.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class EngineError(Exception):
    """The base of every error that this engine raises on purpose."""

    quoted = ""

    def quoting(self, words: str) -> Self:
        """Itself, with what another system said of it. It may name a patient: the person who asks sees it, no log."""
        self.quoted = words
        return self

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}: {self.quoted}" if self.quoted else message

    @property
    def for_log(self) -> str:
        """What a log says of it: never a value of a data set or a message."""
        return super().__str__() or type(self).__name__

    def without_frames(self) -> Self:
        """Itself, without traceback and causes: their frames hold what was read when it was raised.

        Call it when an error is kept as a value or has been answered: memory then comes back without the garbage
        collector.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


def for_log(error: BaseException) -> str:
    """What a log says of an error: of one that nobody expected only what and where; its text may quote a value."""
    if isinstance(error, EngineError):
        return error.for_log
    if isinstance(error, OSError):
        return str(error) or type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__


class ConfigError(EngineError):
    """The configuration is wrong; the message names the key and the values that are allowed."""

    def __init__(self, message: str, mistakes: Sequence[str] = ()) -> None:
        """`mistakes`: where there are several, each in one line."""
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class CertificateError(EngineError):
    """A certificate, key or revocation list cannot be made, read or used; the message names the file."""


# dicom -------------------------------------------------------------------------------------------


class DataSetError(EngineError):
    """Bytes that are not a valid data set, identifier or Part 10 file; the message names the offset."""


# ul ----------------------------------------------------------------------------------------------


class LocalProtocolError(EngineError):
    """Our own code used an association in a way that its state does not allow."""


class RemoteProtocolError(EngineError):
    """The peer violated PS3.8; carries the source and reason for our A-ABORT (PS3.8 9.3.8)."""

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
    """A command set that violates PS3.7; carries the status of PS3.7 Annex C for our response."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """e.g. 0x0211 unrecognized operation, 0x0212 mistyped argument."""


# hl7 ---------------------------------------------------------------------------------------------


class FrameError(EngineError):
    """Bytes of a connection that are no MLLP, and never will be."""


class FrameTooLong(FrameError):
    """A message that is longer than the limit."""


class MessageUnreadable(EngineError):
    """Bytes that are no HL7 message: not even its header can be read."""


class HL7SendFailed(EngineError):
    """A message was sent, and nobody knows whether it was received; or it could not be sent."""


# mapping -----------------------------------------------------------------------------------------


class ProfileError(EngineError):
    """A profile of mappings that cannot be used; the message names the file and the line."""


# journal -----------------------------------------------------------------------------------------


class JournalError(EngineError):
    """The journal does not have what was asked for."""


# web ---------------------------------------------------------------------------------------------


class RequestError(EngineError):
    """A request that HTTP or PS3.18 does not allow; the message names the parameter or header at fault."""


class MultipartError(RequestError):
    """A multipart body that is malformed, ends early, or exceeds its limits; the message says which."""


class NotAcceptable(EngineError):
    """The request accepts none of the media types in which a resource is available; the message names these."""


# viewer ------------------------------------------------------------------------------------------


class ViewerError(EngineError):
    """The viewer cannot be installed or read; the message says what was tried and why it failed."""


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
    """The segment file of a position no longer exists: its records were moved or deleted, and the index says which."""


class KeyMissing(StorageError):
    """An encrypted record whose key this process does not have: the record may be whole, so decide nothing about it."""


class KeyDestroyed(KeyMissing):
    """A record of a study whose key was destroyed: nobody can read it again, and it counts as deleted."""


class KeyStoreError(StorageError):
    """The keys of an encrypted archive cannot be unlocked or changed."""


class StoreUnreachable(StorageError):
    """The storage of a segment does not answer: its bytes are not damaged, and a later read may succeed."""

    retry_s = 5.0
    """When a later attempt is worth it."""


class SegmentCold(StoreUnreachable):
    """The segment is in an archive class, and has to be recalled before it can be read."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s
        """When it is expected to be readable."""


class StorageFull(StorageError):
    """The disk is full, or only its reserve is free: new stores are refused, everything else continues."""


class StorageFailed(StorageError):
    """An I/O error from write or sync; final. The writer stops: a second sync could report success for lost data."""


class Fenced(StorageFailed):
    """Another node has taken over what this one was writing. It sends no answer and writes no more; no disk is bad."""


# several nodes ------------------------------------------------------------------------------------


class ClusterError(EngineError):
    """What the nodes of an archive agree on in PostgreSQL does not allow it or cannot be used; the message says why."""


class ClusterUnreachable(ClusterError):
    """PostgreSQL does not answer, or what answers must not be believed; a later attempt may succeed."""


class UnknownOutcome(ClusterError):
    """The connection ended during a change: it may have been made, or be made yet. Ask before repeating it."""


class WrongNumber(ClusterError):
    """A group does not have the number that follows in its chain; nothing was added."""

    def __init__(self, message: str, last: int) -> None:
        super().__init__(message)
        self.last = last
        """The number of the last group of the chain."""


class ChainTrimmed(ClusterError):
    """Groups that a follower asks for are no longer in PostgreSQL: it reads the sealed segments instead."""

    def __init__(self, message: str, trimmed: int) -> None:
        super().__init__(message)
        self.trimmed = trimmed
        """The number of the last group that is gone."""


# index and archive -------------------------------------------------------------------------------


class IndexError_(EngineError):
    """The index is missing, of another version, or damaged; it can be rebuilt from the log."""


class ProcessIdTaken(IndexError_):
    """A process of another PID namespace has the index open under the id of this one."""


class IndexOutdated(IndexError_):
    """The index has the format of another version of this engine; the keeper rebuilds it."""


class IndexDamaged(IndexError_):
    """Files or rows of the index are not as they were written; a keeper that finds this at its start rebuilds it."""


class CatalogBehind(EngineError):
    """The index has not applied all groups of another node's log that the operation needs."""

    def __init__(self, message: str, by: int) -> None:
        super().__init__(message)
        self.by = by
        """The number of missing groups."""


class QueryError(EngineError):
    """An identifier that PS3.4 Annex C does not allow (status A900); the message says which key."""

    def __init__(self, message: str, *offending_elements: int) -> None:
        super().__init__(message)
        self.offending_elements = offending_elements
        """The tags of the keys at fault, for the response (0000,0901)."""

    @property
    def for_log(self) -> str:
        """The keys at fault without their values."""
        keys = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in self.offending_elements)
        return f"the value of {keys} is not valid" if keys else "the query is not valid"


class Refusal(Enum):
    """Why an instance is not kept; `dimse.status` maps each to the C-STORE status of PS3.4 B.2.3."""

    CANNOT_UNDERSTAND = "cannot understand"
    MISMATCH = "data set does not match"
    OUT_OF_RESOURCES = "out of resources"
    NOT_AUTHORIZED = "not authorized"
    OTHER_STUDY = "of another study"
    """The instance is not of the study that its sender stores into."""
    TRANSFER_SYNTAX = "transfer syntax not supported"
    SOP_CLASS = "SOP class not supported"


class InstanceRefused(EngineError):
    """A data set that cannot be kept as the instance it claims to be; the message says why."""

    def __init__(self, message: str, refusal: Refusal = Refusal.CANNOT_UNDERSTAND) -> None:
        super().__init__(message)
        self.refusal = refusal


class NotAllowed(EngineError):
    """The requester has no permission for the operation (`engine.access`)."""


class AuditUnavailable(EngineError):
    """The audit log cannot be written: nothing may be disclosed or destroyed, while instances are still stored."""


class AccountsError(EngineError):
    """The accounts database cannot be used, or does not take a value; the message has no secrets."""


class AccountsConflict(AccountsError):
    """The change does not fit the present state of the accounts."""


class NoSuchAccount(AccountsError):
    """There is no such user, key, share or grant."""


class AccountsRefused(AccountsError):
    """A value that the rules do not allow: a name, a password."""


class LoginFailed(EngineError):
    """What was given does not prove an identity. The message does not tell which part of it was wrong."""


class SecondFactorNeeded(LoginFailed):
    """The password is right, and a code is needed beside it."""


class LoginLater(EngineError):
    """Too many attempts; the next one is looked at after some time."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class NotStored(EngineError):
    """Some of the requested UIDs are not in the archive; the message names each."""


class RetentionRefused(EngineError):
    """A retention rule needs a person's confirmation before it applies; nothing was deleted. The message says why."""


class DeletionRefused(EngineError):
    """Some of the studies to delete are on legal hold; nothing was deleted."""

    def __init__(self, message: str, study_instance_uids: Sequence[str]) -> None:
        super().__init__(message)
        self.study_instance_uids = list(study_instance_uids)
        """The studies on hold."""


class NotInTrash(EngineError):
    """The trash has no such entry: it was restored or emptied, or never there."""


class CorrectionRefused(EngineError):
    """An impossible correction, merge, move or undo; nothing was changed. The message says why; no patient data."""


class PatientUnknown(CorrectionRefused):
    """No study of the requested patient is stored."""

    def __init__(self, patient_id: str, issuer: str | None) -> None:
        super().__init__("no study of this patient is stored")
        self.patient_id = patient_id
        self.issuer = issuer


class InstanceQuarantined(InstanceRefused):
    """A data set that cannot be kept as an instance; its bytes are in the quarantine."""


class QuarantineError(EngineError):
    """The requested entry is not in quarantine, or cannot be taken out of it; the message says why."""


class CommitmentError(EngineError):
    """A storage commitment does not exist, is being reported, or cannot be read; the message says which."""


class JobError(EngineError):
    """The requested job does not exist."""


class PushFailed(EngineError):
    """Another server cannot be brought up to date."""


class JobsFull(JobError):
    """Too many jobs have not ended yet."""


class ArchiveInUse(EngineError):
    """The operation needs the archive alone, and another process has it open."""


class LeaseLost(EngineError):
    """The process no longer has the right that it acts on: another one may have it by now."""


class ArchiveReadOnly(EngineError):
    """This archive cannot be changed: it is a replica, or its disk is read-only."""


class BackupError(EngineError):
    """A backup cannot be taken, read or restored; the message says why."""


class StoreRefused(StoreUnreachable):
    """The object store answers, and does not let us in: wrong credentials, no permission, no such bucket."""


class ObjectCold(StoreUnreachable):
    """The object is in an archive class of the store, and has to be recalled before it can be read."""


class ObjectMissing(StorageError):
    """The object store has no object of this key."""


class ObjectExists(StorageError):
    """An object of this key is there already, and was not replaced."""


class ObjectWrong(StorageError):
    """An object is not what was written under its key, or has a format that this version does not know."""


class ReplicationFailed(EngineError):
    """A replica cannot be updated: it is unreachable, refuses, or has diverged; the message says which."""

    def __init__(self, message: str, *, is_final: bool = False, is_fenced: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final
        """Whether a retry is useless: a person has to decide."""
        self.is_fenced = is_fenced
        """Whether the replica was promoted, so that this machine must acknowledge nothing more in its name."""


class ControlUnavailable(EngineError):
    """No server answers on the archive's control socket: none is running, or it runs elsewhere."""


class ExportFailed(EngineError):
    """The target of an export cannot be written to; the message says which and why. Complete files stay."""


class TranscodeError(EngineError):
    """A data set cannot be converted into the requested transfer syntax; the message says why."""


class FramesUnreadable(EngineError):
    """Pixel data cannot be split into frames, or has no such frame; the message says why."""


class NoSuchFrame(FramesUnreadable):
    """A frame number is higher than the number of frames."""


class MemoryShort(EngineError):
    """Retrievals hold all the memory of their budget, and none was freed in time."""


class FeedError(EngineError):
    """The change feed cannot be read as requested; the message says why."""


class FeedMissing(FeedError):
    """No server has written a change feed in this archive; one may begin it later."""


class DeliveryFailed(EngineError):
    """Another system has not accepted what was handed over."""


class DeliveryPointless(DeliveryFailed):
    """What is to be handed over is not to be tried again, until a person asks for it."""


class CursorRefused(FeedError):
    """A cursor is invalid, of another feed, or older than the oldest event: the subscriber must start from scratch."""


class FeedDamaged(FeedError):
    """Events are missing from the feed's journal, or cannot be read."""


class IdentityRefused(EngineError):
    """A token, a code or a log-in by an identity provider is not accepted; the message says why."""


class IdentityUnavailable(EngineError):
    """An identity provider cannot be asked, so that nobody can be let in on its word; the message says why."""


class UpdateRefused(EngineError):
    """What a message says of a patient, order or step was not applied; the message names no patient."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A `RefusalReason` of `orders.values`."""


class OrdersError(EngineError):
    """The registry of patients and orders cannot be opened, read or written."""


class WorkitemRefused(EngineError):
    """A workitem (UPS) was not created, changed, found or subscribed to."""

    def __init__(self, message: str, fault: str, offending_elements: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.fault = fault
        """A `Fault` of `orders.workitems.rules`."""
        self.offending_elements = tuple(offending_elements)


class StepRefused(EngineError):
    """A performed procedure step (MPPS) was not created or changed."""

    def __init__(self, message: str, fault: str, offending_elements: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.fault = fault
        """missing, no-value, value, duplicate, unknown, final, resources, uid."""
        self.offending_elements = tuple(offending_elements)
