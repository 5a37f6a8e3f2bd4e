"""engine.dimse.status: categories against pynetdicom's tables, and the table from error to status."""

from __future__ import annotations

import pytest
from pynetdicom import status as oracle

from engine import errors
from engine.dimse.status import (
    ERROR_STATUS,
    Category,
    FindStatus,
    GeneralStatus,
    RetrieveStatus,
    Service,
    StoreStatus,
    category,
    status_of,
)

TABLES = (
    oracle.GENERAL_STATUS,
    oracle.STORAGE_SERVICE_CLASS_STATUS,
    oracle.QR_FIND_SERVICE_CLASS_STATUS,
    oracle.QR_MOVE_SERVICE_CLASS_STATUS,
    oracle.QR_GET_SERVICE_CLASS_STATUS,
)

REFUSALS = {
    errors.Refusal.CANNOT_UNDERSTAND: 0xC000,
    errors.Refusal.MISMATCH: 0xA900,
    errors.Refusal.OUT_OF_RESOURCES: 0xA700,
    errors.Refusal.NOT_AUTHORIZED: 0x0124,
    errors.Refusal.OTHER_STUDY: 0xA900,
    errors.Refusal.TRANSFER_SYNTAX: 0xC000,
    errors.Refusal.SOP_CLASS: 0x0122,
}


@pytest.mark.parametrize("table", TABLES, ids=range(len(TABLES)))
def test_a_status_has_the_category_that_its_service_gives_it(table: dict[int, tuple[str, str]]) -> None:
    for code, (expected, _) in table.items():
        assert category(code) is Category(expected.lower()), f"{code:04X}H"


@pytest.mark.parametrize(
    ("statuses", "table"),
    [
        (StoreStatus, oracle.STORAGE_SERVICE_CLASS_STATUS),
        (FindStatus, oracle.QR_FIND_SERVICE_CLASS_STATUS),
        (RetrieveStatus, oracle.QR_MOVE_SERVICE_CLASS_STATUS),
        (GeneralStatus, {**oracle.GENERAL_STATUS, 0x0000: ("Success", ""), 0xFF00: ("Pending", "")}),
    ],
)
def test_our_statuses_are_in_the_services_table(
    statuses: type[GeneralStatus], table: dict[int, tuple[str, str]]
) -> None:
    assert {int(status) for status in statuses} <= set(table)


@pytest.mark.parametrize(
    ("error", "service", "status"),
    [
        (errors.StorageFull("full"), Service.STORE, 0xA700),
        (errors.StorageFailed("EIO"), Service.STORE, 0xA700),
        (errors.DataSetError("?"), Service.STORE, 0xC000),
        *((errors.InstanceRefused("?", refusal), Service.STORE, status) for refusal, status in REFUSALS.items()),
        (errors.EngineError("?"), Service.STORE, 0x0110),
        (errors.QueryError("?"), Service.FIND, 0xA900),
        (errors.DataSetError("?"), Service.FIND, 0xC000),
        (errors.OrdersError("?"), Service.FIND, 0xC000),
        (MemoryError(), Service.FIND, 0xA700),
        (errors.QueryError("?"), Service.MOVE, 0xA900),
        (errors.CorruptRecord("?", 1, 2), Service.GET, 0xA702),
        (errors.StoreUnreachable("?"), Service.STORE, 0xA700),
        (errors.StoreUnreachable("?"), Service.MOVE, 0xA702),
        (errors.SegmentCold("?", 60), Service.GET, 0xA702),
        (errors.StoreUnreachable("?"), Service.FIND, 0xA700),
        (errors.SegmentCold("?", 60), Service.OTHER, 0x0213),
        (errors.Fenced("?"), Service.STORE, 0xA700),
        (errors.Fenced("?"), Service.OTHER, 0x0213),
        (errors.CatalogBehind("?", 1), Service.FIND, 0xA700),
        (errors.CatalogBehind("?", 1), Service.MOVE, 0xA701),
        (errors.ClusterUnreachable("?"), Service.STORE, 0xA700),
        (errors.ClusterUnreachable("?"), Service.FIND, 0xA700),
        (errors.UnknownOutcome("?"), Service.GET, 0xA701),
        (errors.UnknownOutcome("?"), Service.OTHER, 0x0213),
        (errors.LeaseLost("?"), Service.STORE, 0xA700),
        (errors.IndexError_("?"), Service.GET, 0xA701),
        (errors.MessageError("?", 0x0210), Service.FIND, 0x0210),
        (ValueError("?"), Service.OTHER, 0x0110),
    ],
)
def test_an_error_is_answered_with_its_status(error: Exception, service: Service, status: int) -> None:
    assert status_of(error, service) == status


def test_every_refusal_has_its_status() -> None:
    assert set(REFUSALS) == set(errors.Refusal)


def test_every_error_is_answered_with_a_failure() -> None:
    for service in Service:
        assert service in ERROR_STATUS
        for kind in (errors.EngineError, *ERROR_STATUS[service]):
            error = kind.__new__(kind)
            assert category(status_of(error, service)) is Category.FAILURE
