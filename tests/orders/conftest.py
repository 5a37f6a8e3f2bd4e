"""A registry in a folder of its own, and values as messages say them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.orders.registry import Orders, Place
from engine.orders.values import (
    Change,
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from engine.orders.work import Supply
from engine.storage.files import Files

HOSPITAL = Issuer("HOSP")
RIS = Source(name="RIS")


def patient(number: str = "P1", name: str = "Doe^Jane", issuer: Issuer = HOSPITAL, **attributes: str) -> PatientUpdate:
    """What a message says of a patient."""
    return PatientUpdate(identifiers=(Identifier(number, issuer),), attributes={"PatientName": name, **attributes})


def order(
    accession: str = "A1",
    who: PatientUpdate | None = None,
    *steps: StepUpdate,
    action: OrderAction = OrderAction.NEW,
    uid: str = "",
    issuer: Issuer = HOSPITAL,
    snapshot: bool = False,
    procedures: tuple[ProcedureUpdate, ...] = (),
) -> OrderUpdate:
    """What a message says of an order with one procedure of `steps`, or with `procedures`."""
    return OrderUpdate(
        action=action,
        patient=who or patient(),
        accession=Identifier(accession, issuer),
        procedures=(ProcedureUpdate(study_instance_uid=uid, steps=steps),) if steps else procedures,
        snapshot=snapshot,
    )


def step(
    step_id: str = "", ae: str | None = "CT1", date: str = "20261201", modality: str = "CT", time: str = "0900"
) -> StepUpdate:
    """What a message says of a step."""
    aes = None if ae is None else tuple(ae.split("\\"))
    return StepUpdate(
        scheduled_procedure_step_id=step_id, modality=modality, station_aes=aes, start_date=date, start_time=time
    )


@dataclass
class RecordedCorrections:
    """What the registry told the archive."""

    agreed: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    merged: list[tuple[str, str]] = field(default_factory=list)
    unmerged: list[tuple[str, str]] = field(default_factory=list)
    moved: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    supplied: list[tuple[str, Supply]] = field(default_factory=list)

    def agree(self, identifier: Identifier, attributes: Mapping[str, str], source: Source) -> Sequence[str]:
        self.agreed.append((str(identifier), attributes))
        return ()

    def merge(
        self, prior: Identifier, survivor: Identifier, source: Source, attributes: Mapping[str, str]
    ) -> Sequence[Change]:
        self.merged.append((str(prior), str(survivor)))
        return ()

    def unmerge(self, prior: Identifier, survivors: Sequence[Identifier], source: Source, reason: str) -> Sequence[str]:
        self.unmerged.append((str(prior), str(survivors[0])))
        return ()

    def move(self, study_instance_uids: Sequence[str], target: Identifier, source: Source) -> Sequence[str]:
        self.moved.append((tuple(study_instance_uids), str(target)))
        return ()

    def supply(self, study_instance_uid: str, supply: Callable[[], Supply], source: Source) -> Sequence[str]:
        self.supplied.append((study_instance_uid, supply()))
        return ()


Open = Callable[[], Orders]


class Unsynced(Files):
    """A disk that is not waited for: what a crash leaves is tested elsewhere."""

    def fdatasync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass


def opening(folder: Path, files: Files) -> Iterator[Open]:
    """Opens the registry of a folder, once more each time."""
    registries: list[Orders] = []

    def open_() -> Orders:
        registry = Orders(Place(folder, bytes(16), files), corrections=RecordedCorrections())
        registries.append(registry)
        return registry

    yield open_
    for registry in registries:
        registry.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the registry of this test."""
    yield from opening(tmp_path, Files())


@pytest.fixture
def orders(opened: Open) -> Orders:
    """An empty registry."""
    return opened()
