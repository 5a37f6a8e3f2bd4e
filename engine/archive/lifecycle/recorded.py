"""Events of what changes or destroys stored studies, for the audit log: one for each study, with its patient.

What destroys is recorded durably before it happens, and refused with AuditUnavailable when that is impossible. If it
then fails, a second event says so. What only changes the archive's knowledge, as holds and corrections do, is recorded
when it has happened: the log of the archive has it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from engine import audit
from engine.archive.study_facts import study_facts
from engine.audit import Event, Kind, Outcome, Patient
from engine.index.format.types import Level

if TYPE_CHECKING:
    from engine.access.principal import Principal
    from engine.index.catalog import Catalog
    from engine.index.format.types import InstanceIdentifiers


@contextmanager
def destroying(
    index: Catalog,
    kind: Kind,
    instances: Sequence[InstanceIdentifiers],
    level: Level,
    *,
    actor: Principal,
    reason: str,
) -> Iterator[None]:
    """Records that these instances will be deleted, or put into the trash. Raises AuditUnavailable."""
    events: list[Event] = []
    if audit.is_on():
        counts: dict[str, int] = {}
        series: dict[str, dict[str, None]] = {}
        for instance in instances:
            study = instance.study_instance_uid
            counts[study] = counts.get(study, 0) + 1
            if level > Level.STUDY:
                series.setdefault(study, {})[instance.series_instance_uid] = None
        events = [
            _event(index, kind, study, actor, reason, count=count, series=tuple(series.get(study, ())), level=level)
            for study, count in counts.items()
        ]
    audit.begin_now(*events)
    try:
        yield
    except BaseException as error:
        for event in events:
            audit.write(replace(event, outcome=Outcome.SERIOUS, detail=f"it failed: {error}"))
        raise


def changed(
    index: Catalog, kind: Kind, studies: Iterable[str], *, actor: Principal, reason: str, detail: str = ""
) -> None:
    """Records that something was done with these studies."""
    if audit.is_on():
        for study in studies:
            audit.write(_event(index, kind, study, actor, reason, detail=detail))


def patient_changed(
    kind: Kind, patient_id: str, issuer: str, studies: int, *, actor: Principal, reason: str, detail: str
) -> None:
    """Records that something was done with a patient: with all of his studies, also those that come."""
    detail = f"{detail} ({studies} studies)"
    patient = Patient(patient_id, issuer) if patient_id else None
    audit.write(Event(kind=kind, principal=actor, patient=patient, reason=reason, detail=detail))


def _event(
    index: Catalog,
    kind: Kind,
    study: str,
    actor: Principal,
    reason: str,
    *,
    count: int = 0,
    series: tuple[str, ...] = (),
    level: Level = Level.STUDY,
    detail: str = "",
) -> Event:
    facts = study_facts(index, study)
    return Event(
        kind=kind,
        principal=actor,
        patient=facts.patient,
        accession=facts.accession,
        study=study,
        series=series,
        count=count,
        reason=reason,
        detail=detail or ("" if level <= Level.STUDY else f"single instances or series, at level {level.name.lower()}"),
    )
