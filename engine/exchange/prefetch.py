"""Fetches priors of a patient from other archives, when an order or a study comes: creates a job that pulls them.

    order, study ─► the patient, and the modalities ─► a query at the peer ─► its newest matching studies ─► a job

The peer says what it has; which of that is here already, the job sees. A study that only the peer has sent is no reason
to ask it: priors do not fetch their own priors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

from engine import log
from engine.archive.feed.event import decode
from engine.archive.jobs import job as states
from engine.archive.jobs.job import RULE, Job, Work
from engine.archive.jobs.job_files import new_id
from engine.dicom import tags
from engine.errors import DeliveryFailed
from engine.exchange.dicomweb import connected
from engine.exchange.matching import matching
from engine.orders import ordering, patients
from engine.orders.names import id_key
from engine.outbox.follower import Sink
from engine.outbox.source import Content, Unit
from engine.services.find_scu import Finder

if TYPE_CHECKING:
    from engine.config import Peer
    from engine.exchange.settings import Rule
    from engine.orders.rows import AnnouncementRow
    from engine.runtime.engine import Engine

logger = log.get("exchange.prefetch")

_RETURNED: Final = (
    tags.StudyInstanceUID, tags.StudyDate, tags.PatientID, tags.IssuerOfPatientID, tags.ModalitiesInStudy,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """Why priors are wanted, and of whom."""

    patient_id: str
    issuer: str = ""
    modalities: frozenset[str] = frozenset()
    studies: frozenset[str] = frozenset()
    """Those that are no priors."""


@dataclass(frozen=True, slots=True)
class Prior:
    """A study that a peer has."""

    uid: str
    date: str
    patient_id: str
    issuer: str
    modalities: frozenset[str]


class Prefetching(Sink[Content], Generic[Content]):
    """What one rule fetches from one peer."""

    def __init__(self, engine: Engine, rule: Rule, aet: str, occasion: Callable[[Content], Occasion | None]) -> None:
        """`occasion`: of whom an event is; None: of nobody. Called in a thread."""
        self._engine = engine
        self._rule = rule
        self._aet = aet
        self._occasion = occasion
        self._files = engine.archive.job_files()

    async def deliver(self, unit: Unit[Content], reset: str) -> None:
        """Creates the job for an event. Raises DeliveryFailed, AssociationFailed, JobsFull, StorageFull."""
        pools = self._engine.pools
        occasion = await pools.slow.run(partial(self._occasion, unit.content))
        if occasion is None or not occasion.patient_id or set("*?\\") & set(occasion.patient_id):
            return
        peer = self._engine.config.peer(self._aet)
        if peer is None or not peer.is_reachable:
            raise DeliveryFailed(f"there is no [[peer]] {self._aet} with an address")
        present = await self._ask(peer, occasion)
        chosen = priors(present, occasion, self._rule, date.today())
        if chosen:
            await pools.slow.run(partial(self._create, chosen))

    def _create(self, studies: tuple[str, ...]) -> None:
        rule = self._rule
        job = Job(
            id=new_id(),
            kind=states.PULL,
            peer=self._aet,
            work=Work(studies=studies),
            by=f"{RULE}:{rule.name}",
            reason=f"priors, rule {rule.name}",
            created_ns=time.time_ns(),
        )
        self._files.create(job)
        self._engine.metrics.counters["jobs_prefetching"] += 1
        logger.info("priors are fetched", rule=rule.name, peer=self._aet, job=job.id, count=len(studies))

    async def _ask(self, peer: Peer, occasion: Occasion) -> list[Prior]:
        """The studies that the peer has of the patient. Raises AssociationFailed."""
        keys = {**dict.fromkeys(_RETURNED, ""), tags.PatientID: occasion.patient_id}
        if peer.url:
            parameters = {
                "PatientID": occasion.patient_id,
                "includefield": ",".join(map(tags.keyword_of, _RETURNED)),
            }
            async with connected(peer, self._engine.config) as client:
                return [_prior(partial(_value, row)) for row in await client.rows("/studies", parameters)]
        finder = Finder(peer, self._engine.config)
        try:
            return [_prior(match.text) for match in (await finder.find("STUDY", keys)).matches]
        finally:
            await finder.close()


def _prior(text: Callable[[int], str]) -> Prior:
    values = [text(tag).strip() for tag in _RETURNED]
    return Prior(values[0], values[1], values[2], values[3], frozenset(filter(None, values[4].split("\\"))))


def _value(row: dict[str, Any], tag: int) -> str:
    element = row.get(f"{tag:08X}")
    values = element.get("Value") if isinstance(element, dict) else None
    return "\\".join(str(value) for value in values) if isinstance(values, list) else ""


def priors(present: Iterable[Prior], occasion: Occasion, rule: Rule, today: date) -> tuple[str, ...]:
    """The newest of a peer's studies that count as priors. What a peer answers beside the question is left out."""
    oldest = (today - timedelta(days=rule.priors_days)).strftime("%Y%m%d")
    matching_studies = {
        study.uid: study
        for study in present
        if study.uid
        and study.uid not in occasion.studies
        and study.patient_id == occasion.patient_id.strip()
        and (not occasion.issuer or not study.issuer or study.issuer == occasion.issuer)
        and study.date >= oldest
        and (not rule.priors_same_modality or not occasion.modalities or occasion.modalities & study.modalities)
    }
    newest = sorted(matching_studies.values(), key=lambda study: (study.date, study.uid), reverse=True)
    return tuple(study.uid for study in newest[: rule.priors_max])


# occasions -------------------------------------------------------------------------------------------


def of_study(engine: Engine, rule: Rule, aet: str, lines: list[bytes]) -> Occasion | None:
    """The patient of a study that has come; None if the rule is not about it, or only the peer has sent it."""
    uid = decode(lines[0]).study_instance_uid
    if not matching(engine, rule, [uid], aet):
        return None
    asked = {"PatientID": "", "IssuerOfPatientID": "", "ModalitiesInStudy": ""}
    match = next(engine.archive.find("study", asked, StudyInstanceUID=uid), None)
    if match is None:
        return None
    patient_id, issuer, modalities = (
        match.attributes.get(tag, b"").decode("utf-8", "replace").strip(" \0")
        for tag in (tags.PatientID, tags.IssuerOfPatientID, tags.ModalitiesInStudy)
    )
    return Occasion(
        patient_id=patient_id, issuer=issuer, modalities=frozenset(modalities.split("\\")), studies=frozenset((uid,))
    )


def of_order(engine: Engine, row: AnnouncementRow) -> Occasion | None:
    """The patient of a new order; None if it is not there any more."""
    orders = engine.orders()
    with orders.read() as reading:
        order = reading.get(reading.database.orders, id_key(int(row.subject)))
        current = patients.current(reading, order.patient) if order is not None else None
        if order is None or current is None or not current[1].identifiers:
            return None
        identifier = current[1].identifiers[0]
        modalities = {step.modality for _, step in ordering.steps_of(reading, int(row.subject))}
    return Occasion(
        patient_id=identifier.value,
        issuer=identifier.issuer.name,
        modalities=frozenset(filter(None, modalities)),
        studies=frozenset(procedure.study_instance_uid for procedure in order.procedures),
    )
