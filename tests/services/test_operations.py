"""engine.services.operations: which messages belong on which presentation context."""

from __future__ import annotations

import pytest

from engine.dimse.messages import (
    CCancelRQ,
    CEchoRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    CStoreRQ,
    CStoreRSP,
    Message,
    NEventReportRSP,
)
from engine.services.operations import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT, information_model, objection
from engine.ul.negotiation import AcceptedContext

CT, MR, PRIVATE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "2.25.1"
VERIFICATION, COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
MODELS = {
    f"1.2.840.10008.5.1.4.1.2.{number}": model
    for number, model in ((1, PATIENT_ROOT), (2, STUDY_ROOT), (3, PATIENT_STUDY_ONLY))
}
REPOSITORY = "1.2.840.10008.5.1.4.1.1.201.6"
CLASSES = (CT, PRIVATE, VERIFICATION, COMMITMENT, REPOSITORY, *(f"{model}.{n}" for model in MODELS for n in (1, 2, 3)))


def messages_of(sop_class_uid: str) -> list[Message]:
    return [
        CEchoRQ(1, sop_class_uid),
        CStoreRQ(1, sop_class_uid, "1.2.3"),
        CFindRQ(1, sop_class_uid),
        CMoveRQ(1, sop_class_uid, "DEST"),
        CGetRQ(1, sop_class_uid),
        CCancelRQ(1),
        CStoreRSP(1, sop_class_uid, "1.2.3"),
        NEventReportRSP(1, sop_class_uid, "1.2.3"),
    ]


@pytest.mark.parametrize("abstract_syntax", CLASSES)
def test_each_context_takes_the_messages_of_its_service_and_no_others(abstract_syntax: str) -> None:
    expected: set[str] = {"CStoreRQ", "CStoreRSP"}
    if abstract_syntax == VERIFICATION:
        expected = {"CEchoRQ"}
    elif abstract_syntax == COMMITMENT:
        expected = {"NEventReportRSP"}
    elif abstract_syntax == REPOSITORY:
        expected = {"CFindRQ", "CCancelRQ"}
    elif abstract_syntax.rpartition(".")[0] in MODELS:
        operation = {"1": "CFindRQ", "2": "CMoveRQ", "3": "CGetRQ"}[abstract_syntax[-1]]
        expected = {operation, "CCancelRQ"}
    context = AcceptedContext(1, abstract_syntax, "1.2.840.10008.1.2", we_are_scu=True, we_are_scp=True)
    taken = {type(message).__name__ for message in messages_of(abstract_syntax) if not objection(message, context)}
    assert taken == expected


def test_a_request_about_another_class_than_its_contexts_is_objected_to_and_a_response_is_not() -> None:
    context = AcceptedContext(1, CT, "1.2.840.10008.1.2", we_are_scu=True, we_are_scp=True)
    assert not objection(CStoreRQ(1, CT, "1.2.3"), context)
    assert "another SOP class" in objection(CStoreRQ(1, MR, "1.2.3"), context)
    for repeated in ("", MR):
        assert not objection(CStoreRSP(1, repeated, "1.2.3"), context)


def test_the_information_model_is_known_for_what_is_served_alone() -> None:
    for root, model in MODELS.items():
        for operation in (1, 2, 3):
            assert information_model(f"{root}.{operation}") == model
    assert information_model(REPOSITORY) == STUDY_ROOT
    for other in (CT, VERIFICATION, "2.25.7", "0.1", "1.2.840.10008.5.1.4.1.2.5.3", "", "1.2.840.10008.5.1.4.1.2.x.1"):
        with pytest.raises(KeyError):
            information_model(other)
