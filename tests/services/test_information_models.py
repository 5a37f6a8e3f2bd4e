"""engine.services.information_models: the SOP classes of Query/Retrieve."""

from __future__ import annotations

import pytest

from engine.services.information_models import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT, information_model

CT, VERIFICATION, REPOSITORY = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.201.6"
MODELS = {
    f"1.2.840.10008.5.1.4.1.2.{number}": model
    for number, model in ((1, PATIENT_ROOT), (2, STUDY_ROOT), (3, PATIENT_STUDY_ONLY))
}


def test_only_served_sop_classes_have_an_information_model() -> None:
    for root, model in MODELS.items():
        for operation in (1, 2, 3):
            assert information_model(f"{root}.{operation}") == model
    assert information_model(REPOSITORY) == STUDY_ROOT
    for other in (CT, VERIFICATION, "2.25.7", "0.1", "1.2.840.10008.5.1.4.1.2.5.3", "", "1.2.840.10008.5.1.4.1.2.x.1"):
        with pytest.raises(KeyError):
            information_model(other)
