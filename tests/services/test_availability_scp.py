"""IAN over a socket, with pynetdicom as the other archive: what is accepted, what is refused with which status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import InstanceAvailabilityNotification  # type: ignore[attr-defined]

from engine.config import Config
from engine.exchange.settings import Rule
from tests.services.serving import LIMITS, Serving, serve_in_thread


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    data: Path = tmp_path_factory.mktemp("ian") / "data"
    rules = (Rule(name="theirs", after="available", action="pull", to=("OLD",)),)
    with serve_in_thread(data, Config(data=data, limits=LIMITS, rules=rules), lambda _: None) as served:
        yield served


def notification(study: str, availability: str = "ONLINE") -> Dataset:
    instance = Dataset()
    instance.RetrieveAETitle, instance.InstanceAvailability = "OLD", availability
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{study}.1.1"
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = f"{study}.1", [instance]
    data_set = Dataset()
    data_set.ReferencedPerformedProcedureStepSequence = []
    data_set.StudyInstanceUID, data_set.ReferencedSeriesSequence = study, [series]
    return data_set


def answer(serving: Serving, data_set: Dataset, uid: str | None = "1.2.3") -> int:
    ae = AE("OLD")
    ae.add_requested_context(InstanceAvailabilityNotification)
    association = ae.associate("127.0.0.1", serving.port)
    assert association.is_established
    try:
        status, _ = association.send_n_create(data_set, InstanceAvailabilityNotification, uid)
        return int(status.Status)
    finally:
        association.release()


def announced(serving: Serving) -> list[tuple[str, str]]:
    return [(row.subject, row.by) for _, row in serving.services.engine.orders().announcements(0, 100)]


def test_what_can_be_retrieved_elsewhere_is_announced_to_the_rules(serving: Serving) -> None:
    assert answer(serving, notification("1.2.5")) == 0
    assert answer(serving, notification("1.2.6", "UNAVAILABLE")) == 0
    assert answer(serving, notification("1.2.7", "NEARLINE")) == 0
    assert announced(serving) == [("1.2.5", "OLD"), ("1.2.7", "OLD")]


def without_study(data_set: Dataset) -> None:
    del data_set.StudyInstanceUID


def without_series(data_set: Dataset) -> None:
    data_set.ReferencedSeriesSequence = []


def with_a_wrong_uid(data_set: Dataset) -> None:
    data_set.ReferencedSeriesSequence[0].SeriesInstanceUID = "x"


def somewhere(data_set: Dataset) -> None:
    data_set.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].InstanceAvailability = "SOMEWHERE"


def with_an_empty_class(data_set: Dataset) -> None:
    data_set.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = ""


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (without_study, 0x0120),
        (without_series, 0x0121),
        (with_a_wrong_uid, 0x0106),
        (somewhere, 0x0106),
        (with_an_empty_class, 0x0121),
    ],
)
def test_a_wrong_notification_is_refused_with_its_status(
    serving: Serving, spoil: Callable[[Dataset], None], status: int
) -> None:
    before = announced(serving)
    data_set = notification("1.2.8")
    spoil(data_set)
    assert answer(serving, data_set) == status
    assert announced(serving) == before
