"""fhir.release: which release a client gets, by Accept and _format."""

from __future__ import annotations

import pytest

from engine.errors import NotAcceptable
from engine.fhir.release import Release, release_of

J = "application/fhir+json"


@pytest.mark.parametrize(
    ("accept", "form", "release"),
    [
        ("", "", Release.R4),
        ("*/*", "", Release.R4),
        (f"{J}; fhirVersion=5.0", "", Release.R5),
        (f'{J};fhirVersion="5.0.0"', "", Release.R5),
        (f"{J}; fhirVersion=4.0.1", "", Release.R4),
        (f"{J};fhirVersion=4.0;q=0.1, {J};fhirVersion=5.0", "", Release.R5),
        (f"{J};fhirVersion=5.0, {J};fhirVersion=4.0", "", Release.R5),
        (f"{J};fhirVersion=3.0, {J};fhirVersion=4.0", "", Release.R4),
        ("application/fhir+xml, application/fhir+json;q=0.5", "", Release.R4),
        (f"{J};fhirVersion=5.0;q=0, */*;q=0.1", "", Release.R4),
        (f"{J};q=high", "", Release.R4),
        ("text/html", "json", Release.R4),
        (f"{J};fhirVersion=4.0", f"{J};fhirVersion=5.0", Release.R5),
        ("", "application/fhir json;fhirVersion=5.0", Release.R5),  # a plus sign that was not encoded
    ],
)
def test_a_client_gets_the_release_that_it_asks_for(accept: str, form: str, release: Release) -> None:
    assert release_of(accept, form) is release


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("text/html", ""), (f"{J}; fhirVersion=3.0", ""), (f"{J}; fhirVersion=x", ""), ("*/*;q=0", ""),
        (f"{J};q=0", ""), (J, "xml"), ("application/fhir+xml", ""), (",", ""), (";", ""), ("a" * 5000, ""),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused(accept: str, form: str) -> None:
    with pytest.raises(NotAcceptable):
        release_of(accept, form)
