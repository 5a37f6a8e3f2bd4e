"""fhir.datatypes: names, moments, identifiers."""

from __future__ import annotations

import pytest

from engine.fhir.datatypes import day, display_name, human_names, identifier, moment, system_of, text


@pytest.mark.parametrize(
    ("value", "time", "zone", "expected"),
    [
        ("20260102", "101112.5", "+0100", "2026-01-02T10:11:12.5+01:00"),
        ("20260102", "1011", "-0330", "2026-01-02T10:11:00-03:30"),
        ("20260102", "101112", "", "2026-01-02"),
        ("20260102", "10", "+0100", "2026-01-02"),
        ("20260102", "256199", "+0100", "2026-01-02"),
        ("20260102", "101160", "+0100", "2026-01-02"),
        ("2026.01.02", "10:11:12", "+0000", "2026-01-02T10:11:12+00:00"),
        ("20260231", "101112", "+0100", ""),
        ("", "101112", "+0100", ""),
        ("yesterday", "", "", ""),
    ],
)
def test_a_moment_is_as_exact_as_fhir_allows(value: str, time: str, zone: str, expected: str) -> None:
    assert moment(value, time, zone) == expected


def test_each_group_of_a_name_is_a_name() -> None:
    names = human_names("Yamada^Tarou^Jun^Dr.^PhD=山田^太郎=やまだ^たろう")
    assert names[0] == {
        "text": "Dr. Tarou Jun Yamada PhD",
        "family": "Yamada",
        "given": ["Tarou", "Jun"],
        "prefix": ["Dr."],
        "suffix": ["PhD"],
    }
    assert [name["family"] for name in names[1:]] == ["山田", "やまだ"]
    assert [name["extension"][0]["valueCode"] for name in names[1:]] == ["IDE", "SYL"]
    assert [name["family"] for name in human_names("=山田")] == ["山田"]
    assert human_names("") == human_names("^^^") == []
    assert display_name("Doe^Jane") == "Jane Doe"


def test_an_issuer_that_is_no_uri_is_an_assigner_and_no_system() -> None:
    assert system_of("1.2.40.5") == "urn:oid:1.2.40.5"
    assert system_of("https://hospital.example/ids") == "https://hospital.example/ids"
    assert system_of("HOSPITAL A") == system_of("") == ""
    named = identifier("P1", system_of("HOSPITAL A"), "MR", "HOSPITAL A")
    assert "system" not in named and named["assigner"] == {"display": "HOSPITAL A"}
    assert identifier("", "urn:oid:1.2") == {}


def test_control_characters_leave_text() -> None:
    assert text(" a\x00b\x1bc\n ") == "abc"
    assert day("19700203") == "1970-02-03" and day("19701303") == ""
