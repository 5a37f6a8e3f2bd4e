"""Event: one change of the archive, in the form that is stored in the feed and sent to subscribers.

It is one line of JSON; fields without a value are left out. Any version may add fields and actions: a subscriber must
ignore those that it does not know.

    action             meaning                                          fields in addition to sequence, action, time
    stored             an instance became the current one of its UID    the UIDs, class, transfer syntax, calling AE
                                                                        title, version, bytes
    kept_aside         an instance is kept, another one stays current   the same
    deleted            SOP Instance UIDs are gone                       level, study or series UID, sop_instance_uids,
                                                                        by, reason, version; trash if it can be restored
    restored           SOP Instance UIDs are back from the trash        level, study UID, sop_instance_uids,
                                                                        current_versions, by, reason, version, trash
    version_deleted    one version of a UID is gone                     sop_instance_uid, version, current_version, by,
                                                                        reason
    corrected          attributes of patient, study or series changed   operation, level, names, version, undoes, by,
                                                                        reason
    held, released     a study may not be deleted, or may again         study_instance_uid, version, by, reason
    series_quiet       no new instance for `series_quiet_s`             study and series UID, instances
    study_quiet        no new instance for `study_quiet_s`              study_instance_uid, instances, reason: idle
    study_complete     no new instance for `study_complete_s`, or       study_instance_uid, instances, reason: idle or
                       all that was announced is here                   announced
    study_reopened     an instance comes to a study that was quiet      study_instance_uid, reason: after_quiet or
                       or complete; before its `stored`                 after_complete
    replicated         a replica has everything up to an event          replica, through
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

STORED = "stored"
KEPT_ASIDE = "kept_aside"
DELETED = "deleted"
RESTORED = "restored"
VERSION_DELETED = "version_deleted"
CORRECTED = "corrected"
HELD = "held"
RELEASED = "released"
SERIES_QUIET = "series_quiet"
STUDY_QUIET = "study_quiet"
STUDY_COMPLETE = "study_complete"
STUDY_REOPENED = "study_reopened"
REPLICATED = "replicated"

ACTIONS = (
    STORED, KEPT_ASIDE, DELETED, RESTORED, VERSION_DELETED, CORRECTED, HELD, RELEASED, SERIES_QUIET, STUDY_QUIET,
    STUDY_COMPLETE, STUDY_REOPENED, REPLICATED,
)  # fmt: skip

# Reasons of the events about the state of a study.
IDLE = "idle"
ANNOUNCED = "announced"
AFTER_QUIET = "after_quiet"
AFTER_COMPLETE = "after_complete"


class Event(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One change."""

    sequence: int
    """Its number in this feed, without gaps."""
    action: str
    time: str
    """Time of the change: ISO 8601 in UTC, with microseconds."""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""
    calling_ae_title: str = ""
    version: str = ""
    """For an instance: orders the records of one SOP Instance UID; a higher one is later. A deletion ends the versions
    below its own. A decimal number of up to 20 digits."""
    bytes: int = 0
    """Length of the data set."""
    level: str = ""
    """patient, study, series or instance."""
    sop_instance_uids: tuple[str, ...] = ()
    trash: str = ""
    """The number of the entry in the trash."""
    current_version: str = ""
    current_versions: tuple[str, ...] = ()
    """Of each of `sop_instance_uids`, in their order; "": there is none (any more)."""
    operation: str = ""
    names: tuple[str, ...] = ()
    """Level patient: Patient ID and issuer; study: Study Instance UIDs; series: Study and Series Instance UID."""
    undoes: str = ""
    by: str = ""
    reason: str = ""
    instances: int = 0
    """Number of instances when the event was made."""
    replica: str = ""
    through: int = 0
    """The sequence of the last event whose records the replica has."""


def action_of(line: bytes) -> str:
    """The action of a stored event, without decoding the rest."""
    return line.split(b'"', 6)[5].decode()


encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Event)
decode = _decoder.decode
decode_lines = _decoder.decode_lines
"""Decodes all events of a block."""


def time_text(unix_ns: int) -> str:
    """A time in the form of events; one outside of the calendar becomes the nearest one."""
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{nanoseconds // 1000:06d}Z"


_last_second = (-1, "")


def _second_text(seconds: int) -> str:
    global _last_second
    if _last_second[0] != seconds:
        bounded = min(max(seconds, 0), 253_402_300_799)
        _last_second = seconds, datetime.fromtimestamp(bounded, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return _last_second[1]


def unix_s(time: str) -> float:
    """The time in a text of `time_text`. Raises ValueError."""
    return datetime.fromisoformat(time).timestamp()
