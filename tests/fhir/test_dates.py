"""fhir.dates: comparisons of a search as ranges of DICOM."""

from __future__ import annotations

import pytest

from engine.errors import RequestError
from engine.fhir.dates import Range, bounds_of, range_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["2026-01-02"], Range("20260102")),
        (["eq2026-01"], Range("20260101-20260131")),
        (["2026"], Range("20260101-20261231")),
        (["ge2026-01-02"], Range("20260102-")),
        (["gt2026-01-02"], Range("20260103-")),
        (["sa2026-02"], Range("20260301-")),
        (["le2026-02"], Range("-20260228")),
        (["lt2024-03-01"], Range("-20240229")),
        (["eb2026"], Range("-20251231")),
        (["ge2026-01-02", "lt2026-01-05"], Range("20260102-20260104")),
        (["ge2026-01-02", "ge2026-01-04"], Range("20260104-")),
        (["gt2026-01-02", "lt2026-01-02"], None),
        (["ge2026-01-02T10:00"], Range("20260102-", "100000.000000-")),
        (["2026-01-02T10:00"], Range("20260102", "100000.000000-100059.999999")),
        (["lt2026-01-02T10:00:30Z"], Range("-20260102", "-100029.999999", "+0000")),
        (
            ["ge2026-01-02T23:30+01:00", "le2026-01-03T01:00Z"],
            Range("20260102-20260103", "233000.000000-020059.999999", "+0100"),
        ),
        (["ge2026-01-02T10:00:00.25"], Range("20260102-", "100000.250000-")),
    ],
)  # fmt: skip
def test_comparisons_are_one_range(values: list[str], expected: Range | None) -> None:
    assert range_of("started", values) == expected


@pytest.mark.parametrize(
    "value",
    ["", "today", "2026-13-01", "2026-02-30", "ne2026-01-01", "ap2026", "2026-01-02T10", "0000-01-01", "9999-12-31",
     "2026-01-02T10:00+25:00", "20260102"],
)  # fmt: skip
def test_what_is_no_date_is_refused_by_the_name_of_the_parameter(value: str) -> None:
    with pytest.raises(RequestError, match="^started: "):
        range_of("started", [value])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["2026-01-02"], ("2026-01-02T00:00:00.000000Z", "2026-01-03T00:00:00.000000Z")),
        (["ge2026-01-02T10:00:00+01:00"], ("2026-01-02T09:00:00.000000Z", None)),
        (["ge2026-01-02", "lt2026-01-02T12:00Z"], ("2026-01-02T00:00:00.000000Z", "2026-01-02T12:00:00.000000Z")),
        (["le2026"], (None, "2027-01-01T00:00:00.000000Z")),
        (["ge2026", "lt2025"], None),
    ],
)
def test_several_values_are_bounds_in_utc(values: list[str], expected: tuple[str | None, str | None] | None) -> None:
    assert bounds_of("date", values) == expected
