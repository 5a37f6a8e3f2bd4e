"""Retention: finds the studies that each configured rule would delete now, and deletes them.

A study is deleted as a whole, and only if every instance, versions kept aside included, meets every condition of the
rule. Rules apply in their order; a study that two rules name counts for the first. A study on legal hold is listed as
held and stays.

    age        since each instance was received; or since the Study Date: a study without one stays
    modality   of every series (0008,0060)
    AE title   that called when each instance was sent

Reads the index study by study and holds no read transaction in between: an archive of millions takes a minute of a
process that has nothing else to do. `server.caretaker` decides when rules run; `deletion` deletes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from engine import log
from engine.access.principal import Principal
from engine.archive.lifecycle import retention_clock
from engine.archive.lifecycle.deletion import kept_aside_with
from engine.dicom import tags
from engine.errors import DeletionRefused
from engine.index.format.types import Instance, Level, Query, Root
from engine.titles import names

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Retention

logger = log.get("archive.retention")

DAY_NS = 86_400 * 10**9

_COLUMNS = (tags.StudyInstanceUID, tags.StudyDate, tags.ModalitiesInStudy)


@dataclass(frozen=True, slots=True)
class DueStudy:
    """A study that a rule would delete."""

    rule: str
    study_instance_uid: str
    study_date: str
    modalities: tuple[str, ...]
    last_received_ns: int
    """Arrival of its latest instance."""
    instances: int
    bytes: int
    """Bytes of their data sets."""
    is_held: bool
    """On legal hold: it stays."""


@dataclass(slots=True)
class RuleResult:
    """The result of applying a rule."""

    studies: int = 0
    instances: int = 0
    bytes: int = 0
    held: int = 0
    """Studies that stay because they are on legal hold."""


def due(archive: Archive, rules: Sequence[Retention], now_ns: int) -> Iterator[DueStudy]:
    """The studies that are due at `now_ns`, rule by rule. Raises IndexError_."""
    series_uids: set[str] = set()
    for rule in rules:
        for study, _ in _due_by(archive, rule, now_ns):
            if study.study_instance_uid not in series_uids:
                series_uids.add(study.study_instance_uid)
                yield study


def apply(
    archive: Archive,
    rule: Retention,
    now_ns: int,
    *,
    actor: Principal,
    is_stopping: Callable[[], bool] = lambda: False,
    on_study: Callable[[DueStudy], None] = lambda item: None,
    is_confirmed: bool = False,
) -> RuleResult:
    """Deletes the studies of a rule, one by one.

    Raises RetentionRefused, before it deletes anything, if the clock or the number of studies is implausible and the
    caller has not confirmed it (see `retention_clock`); StorageFull, StorageFailed or IndexError_.
    """
    if not is_confirmed:
        retention_clock.check_clock(archive.parts, rule.gap_days_max, now_ns)
        due_count = sum(not item.is_held for item, _ in _due_by(archive, rule, now_ns) if not is_stopping())
        retention_clock.check_share(archive.parts, rule, due_count)
    retention_clock.note(archive.parts, now_ns, is_confirmed=is_confirmed)
    result = RuleResult()
    for item, instances in _due_by(archive, rule, now_ns):
        if is_stopping():
            break
        if item.is_held:
            result.held += 1
            continue
        try:
            # Delete just these instances: later arrivals were not checked against the conditions.
            deletion = archive.delete_instances(
                instances, level=Level.STUDY, actor=actor, reason=f"retention rule {rule.name}"
            )
        except DeletionRefused:
            result.held += 1
            continue
        result.studies += 1
        result.instances += deletion.instances
        result.bytes += deletion.bytes
        on_study(item)
    if result.studies or result.held:
        logger.info("retention applied", rule=rule.name, studies=result.studies, held=result.held)
    return result


def _due_by(archive: Archive, rule: Retention, now_ns: int) -> Iterator[tuple[DueStudy, list[Instance]]]:
    held_uids = {hold.study_instance_uid.decode("utf-8", "replace") for hold in archive.parts.index.holds()}
    limit_ns = now_ns - round(rule.older_than_days * DAY_NS)
    limit_date = _date(now_ns, rule.older_than_days)
    for match in archive.find(_query(rule, limit_date)):
        study_uid = match.attributes.get(tags.StudyInstanceUID, b"")
        study_date = match.attributes.get(tags.StudyDate, b"").decode("ascii", "replace").strip(" \0")
        modalities = match.values(tags.ModalitiesInStudy)
        if rule.modalities and not (modalities and set(modalities) <= set(rule.modalities)):
            continue
        if rule.age_by == "study-date" and not _is_before(study_date, limit_date):
            continue
        keys = {tags.StudyInstanceUID: study_uid}
        instances = archive.instances(Query(Level.STUDY, keys, Root.STUDY, b"ISO_IR 192"))
        uids = [instance.sop_instance_uid.encode() for instance in instances]
        everything = [*instances, *kept_aside_with(archive.parts, uids)]
        if not instances or not all(_meets(rule, instance, limit_ns) for instance in everything):
            continue
        uid = study_uid.decode("utf-8", "replace")
        yield (
            DueStudy(
                rule.name,
                uid,
                study_date,
                modalities,
                max(instance.received_ns for instance in everything),
                len(instances),
                sum(instance.position.payload_length for instance in instances),
                uid in held_uids,
            ),
            instances,
        )


def _query(rule: Retention, limit_date: str) -> Query:
    """A query for all studies that may be due; `_meets` checks the other conditions."""
    keys: dict[int, bytes] = dict.fromkeys(_COLUMNS, b"")
    if rule.age_by == "study-date":
        keys[tags.StudyDate] = b"-" + limit_date.encode()
    return Query(Level.STUDY, keys, Root.STUDY)


def _meets(rule: Retention, instance: Instance, limit_ns: int) -> bool:
    if rule.aets and not names(rule.aets, instance.calling_ae_title):
        return False
    return rule.age_by != "received" or instance.received_ns <= limit_ns


def _date(now_ns: int, days: float) -> str:
    """The last Study Date that is old enough, in local time as study dates are."""
    return (datetime.fromtimestamp(now_ns / 1e9).astimezone() - timedelta(days=days)).strftime("%Y%m%d")


def _is_before(date: str, limit: str) -> bool:
    """Whether a DA value is a date, and not after the limit."""
    return len(date) == 8 and date.isdigit() and date <= limit
