"""fhir.resource_id: ids of patients can be read back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RequestError
from engine.fhir.resource_id import LENGTH_MAX, PatientKey, read, spell

# As (0010,0020) may be; a surrogate is none that UTF-8 has.
_VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=64)


@given(_VALUES, _VALUES)
def test_an_id_is_one_of_fhir_and_says_which_patient_it_is(patient_id: str, issuer: str) -> None:
    key = PatientKey(patient_id, issuer)
    spelt = spell(key)
    if spelt:
        assert re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", spelt, re.ASCII)
        assert read(spelt) == key
    else:
        assert not patient_id or len(f"{patient_id}{issuer}".encode()) * 3 + 2 > LENGTH_MAX


@given(st.text(max_size=70))
def test_only_ids_that_were_spelt_can_be_read(text: str) -> None:
    try:
        key = read(text)
    except RequestError:
        return
    assert spell(key) == text


@pytest.mark.parametrize("text", ["", "..", "..1", "P1..", ".4", ".4G", ".41", "a..b..c", "P1..1.2.3", ".ff", ".2E"])
def test_other_spellings_of_an_id_are_none(text: str) -> None:
    with pytest.raises(RequestError):
        read(text)
