"""engine.services.registry: each abstract syntax has its service, and takes the messages of that and no others."""

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
    NActionRQ,
    NEventReportRSP,
)
from engine.dimse.status import GeneralStatus
from engine.errors import MessageError
from engine.services import registry
from engine.ul.negotiation import AcceptedContext

CT, MR, PRIVATE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "2.25.1"
VERIFICATION, COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
MODELS = [f"1.2.840.10008.5.1.4.1.2.{number}" for number in (1, 2, 3)]
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
        NActionRQ(1, sop_class_uid, "1.2.3", 1),
        NEventReportRSP(1, sop_class_uid, "1.2.3"),
    ]


def context_of(abstract_syntax: str) -> AcceptedContext:
    return AcceptedContext(1, abstract_syntax, "1.2.840.10008.1.2", we_are_scu=True, we_are_scp=True)


def is_taken(message: Message, abstract_syntax: str) -> bool:
    try:
        return registry.is_served(message, registry.service_of(abstract_syntax), context_of(abstract_syntax))
    except MessageError:
        return False


def status_of(message: Message, abstract_syntax: str) -> int:
    with pytest.raises(MessageError) as refused:
        registry.is_served(message, registry.service_of(abstract_syntax), context_of(abstract_syntax))
    return refused.value.status


@pytest.mark.parametrize("abstract_syntax", CLASSES)
def test_each_context_accepts_only_messages_of_its_service(abstract_syntax: str) -> None:
    expected: set[str] = {"CStoreRQ", "CStoreRSP"}
    if abstract_syntax == VERIFICATION:
        expected = {"CEchoRQ"}
    elif abstract_syntax == COMMITMENT:
        expected = {"NActionRQ", "NEventReportRSP"}
    elif abstract_syntax == REPOSITORY:
        expected = {"CFindRQ", "CCancelRQ"}
    elif abstract_syntax.rpartition(".")[0] in MODELS:
        operation = {"1": "CFindRQ", "2": "CMoveRQ", "3": "CGetRQ"}[abstract_syntax[-1]]
        expected = {operation, "CCancelRQ"}
        if operation == "CGetRQ":
            expected.add("CStoreRSP")  # pynetdicom answers a sub-operation there for which it has not got the role
    taken = {type(message).__name__ for message in messages_of(abstract_syntax) if is_taken(message, abstract_syntax)}
    assert taken == expected


def test_a_request_about_another_class_than_its_contexts_is_refused_and_a_response_is_not() -> None:
    assert is_taken(CStoreRQ(1, CT, "1.2.3"), CT)
    for other in (MR, "", "1.2.840.10008.1.1"):
        assert status_of(CStoreRQ(1, other, "1.2.3"), CT) == GeneralStatus.SOP_CLASS_NOT_SUPPORTED
    for repeated in ("", MR):
        assert is_taken(CStoreRSP(1, repeated, "1.2.3"), CT)


def test_an_n_action_on_a_wrong_context_is_refused_with_its_own_status() -> None:
    for requested, abstract_syntax in ((COMMITMENT, CT), (CT, CT), (CT, COMMITMENT), (VERIFICATION, VERIFICATION)):
        assert status_of(NActionRQ(1, requested, "1.2.3", 1), abstract_syntax) == GeneralStatus.NO_SUCH_SOP_CLASS


def test_a_cancel_for_an_operation_that_cannot_be_cancelled_is_ignored() -> None:
    service = registry.service_of(VERIFICATION)
    assert not registry.is_served(CCancelRQ(1), service, context_of(VERIFICATION))


def test_no_abstract_syntax_has_two_services() -> None:
    uids = [uid for service in registry.SERVICES for uid in service.sop_class_uids]
    assert len(uids) == len(set(uids))
    assert {registry.service_of(uid) for uid in (CT, PRIVATE)} == {registry.STORAGE}
