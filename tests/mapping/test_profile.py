"""Profiles are checked when they are read, and their mistakes have a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ProfileError
from engine.hl7.message import parse
from engine.mapping import interpreter
from engine.mapping.interpreter import Options
from engine.mapping.profile import base, base_names, compile_profile, load
from tests.hl7.samples import ADT_A08


def test_all_profiles_that_come_with_the_program_are_right() -> None:
    assert base_names() == ["ihe-2.3.1", "ihe-2.5.1"]
    for name in base_names():
        assert "ADT^A40" in base(name).messages


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[patient]\n\nPatientName = "PID-99 as name"\n', 3, "PID has the fields 1 to 40, not 99"),
        ('[patient]\nPatientName = "QQQ-1"\n', 2, "no segment QQQ"),
        ('[patient]\nPatientName = "PID-5.0"\n', 2, "counted from 1"),
        ('[patient]\nPatientName = "PID5"\n', 2, "is no path"),
        ('[patient]\nPatientNam = "PID-5"\n', 2, "cannot set PatientNam"),
        ('[patient]\n# x\nPatientName = "PID-5 as nome"\n', 3, "'nome' is not one of"),
        ('[patient]\nPatientSex = "PID-8 lookup sex"\n', 2, "no [lookup.sex]"),
        ("[patient]\nPatientSex = 8\n", 2, "a rule is a text"),
        ('[messages]\n"ADT^A01" = "visitor"\n', 2, "'visitor' is not one of"),
        ('[messages]\n"ADT^A01" = "visit gone"\n', 2, "'gone' is not one of"),
        ('[states]\n"NW_*" = "NEW"\n', 2, "'NEW' is not one of"),
        ("\n\n[patients]\n", 3, "no table [patients]"),
        ('extends = "ihe-9"\n', 1, "no profile 'ihe-9'"),
        ("[patient\n", 1, ""),
    ],
)
def test_a_mistake_has_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ProfileError) as caught:
        compile_profile(text, "site.toml")
    assert str(caught.value).startswith("site.toml") and f"line {line}" in str(caught.value)
    assert reason in str(caught.value)


def test_a_profile_says_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(
        'extends = "ihe-2.5.1"\n'
        '[messages]\n"ADT^A08" = "patient"\n"ADT^A02" = ""\n"ADT^Z01" = "patient"\n'
        '[lookup.clinic]\nWARD1 = "Surgery"\n"*" = "Elsewhere"\n'
        '[patient]\nEthnicGroup = "PV1-3.1 lookup clinic when PV1-2 = I,O"\nPatientName = "PID-9 | PID-5 as name"\n'
    )
    profile = load(str(file))
    found = interpreter.apply(parse(ADT_A08), profile, Options())
    (patient,) = found.values
    assert patient.attributes["EthnicGroup"] == "Surgery" and patient.attributes["PatientSex"] == "M"
    assert patient.attributes["PatientName"].startswith("Müller")
    for event, taken in (("A02", False), ("Z01", True), ("A03", True)):
        message = parse(ADT_A08.replace(b"ADT^A08", f"ADT^{event}".encode()))
        assert bool(interpreter.apply(message, profile, Options()).values) is taken


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ProfileError, match="nowhere.toml"):
        load("/nowhere.toml")
