"""engine.ul.negotiation: what is accepted, and what the answer says, for both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.ul import negotiation, pdu
from engine.ul.negotiation import (
    Accepted,
    AcceptedContext,
    AcceptPolicy,
    accepted_contexts,
    negotiate,
)
from engine.ul.pdu import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    AsynchronousOperationsWindow,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserInformation,
)

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
WORKLIST = "1.2.840.10008.5.1.4.31"
PRIVATE = "1.3.12.2.1107.5.9.1"

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
UNKNOWN_SYNTAX = "1.2.3.4.5"

OPTIONS = {FIND: b"\1\1\1\1\0\1\1", MOVE: b"\1\0", GET: b"\1\0"}
POLICY = AcceptPolicy(
    is_storage={CT, MR}.__contains__,
    storage_transfer_syntaxes=frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, JPEG, JPEG_LS}),
    services=dict.fromkeys((VERIFICATION, FIND, MOVE, GET), negotiation.PLAIN_TRANSFER_SYNTAXES),
    options=OPTIONS,
    implementation_class_uid="1.2.826.0.1.3680043.10.1599.1",
    implementation_version_name="FILMROOM_0_1",
)


def request(
    *contexts: tuple[str, tuple[str, ...]], information: UserInformation | None = None, **changes: object
) -> AssociateRQ:
    """A request as it comes off a wire, with context ids 1, 3, 5…"""
    rq = AssociateRQ(
        "FILMROOM",
        "STORESCU",
        tuple(
            PresentationContextRQ(2 * index + 1, abstract_syntax, transfer_syntaxes)
            for index, (abstract_syntax, transfer_syntaxes) in enumerate(contexts)
        ),
        information or UserInformation(),
    )
    data = pdu.encode(replace(rq, **changes))
    received = pdu.decode(data[0], data[6:])
    assert isinstance(received, AssociateRQ)
    return received


def accept(rq: AssociateRQ, policy: AcceptPolicy = POLICY) -> Accepted:
    answer = negotiate(rq, policy)
    assert isinstance(answer, Accepted)
    data = pdu.encode(answer.ac)
    assert pdu.decode(data[0], data[6:]) == answer.ac, "what we answer can be sent as it is"
    return answer


def results(answer: Accepted) -> list[int]:
    return [context.result for context in answer.ac.presentation_contexts]


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "policy", "expected"),
    [
        ({"protocol_version": 2}, POLICY, AssociateRJ(1, 2, 2)),
        ({"application_context_name": "1.2.3"}, POLICY, AssociateRJ(1, 1, 2)),
        ({}, replace(POLICY, called_ae_titles=frozenset({"OTHER"})), AssociateRJ(1, 1, 7)),
        ({}, replace(POLICY, calling_ae_titles=frozenset({"OTHER"})), AssociateRJ(1, 1, 3)),
    ],
)
def test_a_request_is_refused_as_table_9_21_says(
    changes: dict[str, object], policy: AcceptPolicy, expected: AssociateRJ
) -> None:
    assert negotiate(request((VERIFICATION, (IMPLICIT,)), **changes), policy) == expected


def test_a_full_server_refuses_whatever_is_asked() -> None:
    rq = request((VERIFICATION, (IMPLICIT,)))
    assert negotiate(rq, POLICY, refusal=negotiation.LOCAL_LIMIT_EXCEEDED) == AssociateRJ(2, 3, 2)
    assert negotiate(rq, POLICY, refusal=negotiation.TEMPORARY_CONGESTION) == AssociateRJ(2, 3, 1)


def test_only_bit_0_of_the_protocol_version_counts() -> None:
    accept(request((VERIFICATION, (IMPLICIT,)), protocol_version=0x8003))


def test_known_titles_are_accepted() -> None:
    policy = replace(POLICY, called_ae_titles=frozenset({"FILMROOM"}), calling_ae_titles=frozenset({"STORESCU"}))
    accept(request((VERIFICATION, (IMPLICIT,))), policy)


# Presentation contexts ---------------------------------------------------------------------------


def test_every_context_is_answered_in_order() -> None:
    answer = accept(
        request(
            (VERIFICATION, (IMPLICIT,)),
            (WORKLIST, (IMPLICIT,)),
            (CT, (UNKNOWN_SYNTAX,)),
            (CT, ()),
            ("", (IMPLICIT,)),
            (CT, (EXPLICIT,)),
        )
    )
    assert results(answer) == [0, 3, 4, 4, 3, 0]
    assert [context.presentation_context_id for context in answer.ac.presentation_contexts] == [1, 3, 5, 7, 9, 11]
    assert answer.contexts == {
        1: AcceptedContext(1, VERIFICATION, IMPLICIT, we_are_scu=False, we_are_scp=True),
        11: AcceptedContext(11, CT, EXPLICIT, we_are_scu=False, we_are_scp=True),
    }


@pytest.mark.parametrize(
    ("proposed", "chosen", "compressed_first", "to_get"),
    [
        ((IMPLICIT,), IMPLICIT, IMPLICIT, IMPLICIT),
        ((IMPLICIT, EXPLICIT), EXPLICIT, EXPLICIT, EXPLICIT),
        ((IMPLICIT, BIG_ENDIAN), BIG_ENDIAN, BIG_ENDIAN, IMPLICIT),
        ((BIG_ENDIAN, EXPLICIT, IMPLICIT), EXPLICIT, EXPLICIT, EXPLICIT),
        ((IMPLICIT, DEFLATED, EXPLICIT), EXPLICIT, EXPLICIT, EXPLICIT),
        ((DEFLATED, IMPLICIT), IMPLICIT, IMPLICIT, IMPLICIT),
        ((DEFLATED, JPEG), DEFLATED, JPEG, DEFLATED),
        ((IMPLICIT, EXPLICIT, JPEG_LS, JPEG), EXPLICIT, JPEG_LS, EXPLICIT),
        ((EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG, JPEG_LS), EXPLICIT, JPEG, EXPLICIT),
        ((JPEG_LS, IMPLICIT), IMPLICIT, JPEG_LS, IMPLICIT),
        ((JPEG, BIG_ENDIAN), BIG_ENDIAN, JPEG, BIG_ENDIAN),
        ((JPEG, JPEG_LS), JPEG, JPEG, JPEG),
        ((UNKNOWN_SYNTAX, IMPLICIT), IMPLICIT, IMPLICIT, IMPLICIT),
        ((UNKNOWN_SYNTAX, JPEG), JPEG, JPEG, JPEG),
    ],
)
def test_storage_accepts_native_syntaxes_and_compressed_ones_only_if_needed(
    proposed: tuple[str, ...], chosen: str, compressed_first: str, to_get: str
) -> None:
    rq = request((CT, proposed))
    assert accept(rq).contexts[1].transfer_syntax == chosen
    prefers = replace(POLICY, prefer_compressed=True)
    assert accept(rq, prefers).contexts[1].transfer_syntax == compressed_first
    roles = UserInformation(role_selections=(RoleSelection(CT, scu_role=False, scp_role=True),))
    for information in (roles, None):
        rq = request((CT, proposed), (GET, (IMPLICIT,)), information=information)
        for policy in (POLICY, prefers):
            context = accept(rq, policy).contexts[1]
            assert context.transfer_syntax == to_get, "what we send is native whatever the peer stores"
            assert context.we_are_scu


@pytest.mark.parametrize("roles", [True, False])
def test_a_private_transfer_syntax_is_accepted_for_retrieval_but_not_for_storage(roles: bool) -> None:
    """What was imported in one can be sent as it is; whether the role was said or is assumed."""
    information = UserInformation(role_selections=(RoleSelection(CT, False, True),) if roles else ())
    contexts = (CT, (UNKNOWN_SYNTAX,)), (CT, (UNKNOWN_SYNTAX, EXPLICIT)), (CT, ("no UID",))
    answer = accept(request((GET, (IMPLICIT,)), *contexts, information=information))
    assert results(answer) == [0, 0, 0, 4]
    assert answer.contexts[3].transfer_syntax == UNKNOWN_SYNTAX
    assert answer.contexts[3].we_are_scu
    assert answer.contexts[5].transfer_syntax == EXPLICIT
    assert results(accept(request(*contexts))) == [4, 0, 4]


def test_the_role_of_each_class_counts() -> None:
    """One that says for which classes it is SCP stores the others."""
    both = (EXPLICIT, JPEG)
    roles = UserInformation(role_selections=(RoleSelection(MR, scu_role=True, scp_role=True),))
    answer = accept(
        request((CT, both), (MR, both), (GET, (IMPLICIT,)), information=roles), replace(POLICY, prefer_compressed=True)
    )
    assert [answer.contexts[number].transfer_syntax for number in (1, 3)] == [JPEG, EXPLICIT]


def test_a_compressed_context_of_its_own_is_accepted_beside_the_native_one() -> None:
    roles = UserInformation(role_selections=(RoleSelection(CT, scu_role=False, scp_role=True),))
    answer = accept(request((CT, (EXPLICIT, IMPLICIT)), (CT, (JPEG,)), (GET, (IMPLICIT,)), information=roles))
    assert [answer.contexts[number].transfer_syntax for number in (1, 3)] == [EXPLICIT, JPEG]


@pytest.mark.parametrize(
    "leaf",
    ["38.1", "39.1", "43.1", "44.1", "45.1", "1.1.200.1", "1.1.200.3", "1.1.200.7", "1.1.201.1", "1.1.201.1.1"],
)
def test_non_patient_objects_are_refused_as_classes_though_they_are_stored_elsewhere(leaf: str) -> None:
    uid = f"1.2.840.10008.5.1.4.{leaf}"
    declared = SopClassCommonExtendedNegotiation(uid, negotiation.STORAGE_SERVICE_CLASS, ())
    for information in (None, UserInformation(sop_class_common_extended_negotiations=(declared,))):
        rq = request((uid, (IMPLICIT,)), information=information)
        assert results(accept(rq, replace(POLICY, is_storage=lambda _: True))) == [3]
        assert results(accept(rq)) == [3]


@pytest.mark.parametrize("leaf", ["200.2", "200.8", "481.5", "66.7"])
def test_objects_of_patients_beside_them_are_stored(leaf: str) -> None:
    assert results(accept(request((f"1.2.840.10008.5.1.4.1.1.{leaf}", (IMPLICIT,))))) == [0]


def test_queries_use_our_order_of_syntaxes() -> None:
    answer = accept(request((FIND, (IMPLICIT, BIG_ENDIAN, EXPLICIT)), (FIND, (BIG_ENDIAN, IMPLICIT)), (FIND, (JPEG,))))
    assert [context.transfer_syntax for context in answer.contexts.values()] == [EXPLICIT, IMPLICIT]
    assert results(answer) == [0, 0, 4]


@pytest.mark.parametrize(
    ("abstract_syntax", "result"),
    [
        (PRIVATE, 0),
        ("1.2.840.10008.5.1.4.1.1.999.1", 0),
        ("1.2.840.10008.5.1.4.1.1.201.2", 3),  # Inventory FIND, below the storage root
        ("1.2.840.10008.5.1.1.9", 3),  # Basic Grayscale Print Management
        ("1.2.840.10008.1.20.1", 3),  # Storage Commitment
        ("no UID", 3),
        ("1.2." + "1" * 64, 3),
        ("1", 3),
    ],
)
def test_unknown_classes_are_stored_when_they_can_be_storage(abstract_syntax: str, result: int) -> None:
    rq = request((abstract_syntax, (IMPLICIT,)))
    assert results(accept(rq)) == [result]
    assert results(accept(rq, replace(POLICY, promiscuous=False))) == [3]


def test_a_class_declared_as_storage_is_accepted_even_if_strict() -> None:
    declared = SopClassCommonExtendedNegotiation(PRIVATE, negotiation.STORAGE_SERVICE_CLASS, (CT,))
    information = UserInformation(sop_class_common_extended_negotiations=(declared,))
    rq = request((PRIVATE, (IMPLICIT,)), ("1.3.12.2", (IMPLICIT,)), information=information)
    assert results(accept(rq, replace(POLICY, promiscuous=False))) == [0, 3]


def test_a_peer_that_may_not_store_gets_user_rejection() -> None:
    rq = request((CT, (IMPLICIT,)), (VERIFICATION, (IMPLICIT,)), (WORKLIST, (IMPLICIT,)))
    assert results(accept(rq, replace(POLICY, accept_storage=False))) == [1, 0, 3]


def test_contexts_beyond_the_limit_are_rejected_without_reason() -> None:
    rq = request(*[(CT, (IMPLICIT,))] * 4)
    assert results(accept(rq, replace(POLICY, presentation_context_count_max=2))) == [0, 0, 2, 2]


def test_an_association_without_any_accepted_context_is_still_accepted() -> None:
    assert accept(request((WORKLIST, (IMPLICIT,)))).contexts == {}


def test_a_rejected_context_has_a_transfer_syntax_too() -> None:
    answer = accept(request((WORKLIST, (EXPLICIT,)), (WORKLIST, ())))
    assert [context.transfer_syntax for context in answer.ac.presentation_contexts] == [EXPLICIT, IMPLICIT]


def test_128_contexts_of_one_class_are_accepted_one_by_one() -> None:
    answer = accept(request(*[(CT, (JPEG,)), (CT, (EXPLICIT,))] * 64))
    assert len(answer.contexts) == 128


# User information --------------------------------------------------------------------------------


def test_the_answer_names_us_and_echoes_the_titles() -> None:
    rq = request((VERIFICATION, (IMPLICIT,)), information=UserInformation(maximum_length=0))
    answer = accept(rq, replace(POLICY, maximum_length=65536))
    assert answer.peer_maximum_length == 0
    assert answer.ac.titles == rq.titles
    assert answer.ac.user_information == UserInformation(65536, "1.2.826.0.1.3680043.10.1599.1", "FILMROOM_0_1")


def test_a_request_built_in_memory_is_answered_too() -> None:
    rq = AssociateRQ("FILMROOM", "ME", (PresentationContextRQ(1, VERIFICATION, (IMPLICIT,)),))
    assert accept(rq).ac.titles == b"FILMROOM        ME              " + bytes(32)


@pytest.mark.parametrize(
    ("offered", "performed_max", "invoked_max", "granted"),
    [
        ((5, 5), 16, 1, (5, 1)),
        ((0, 0), 16, 4, (16, 4)),
        ((0, 0), 0, 0, (0, 0)),
        ((8, 3), 0, 0, (8, 3)),
        ((64, 1), 16, 16, (16, 1)),
    ],
)
def test_the_window_is_the_smaller_of_both_and_0_is_no_limit(
    offered: tuple[int, int], performed_max: int, invoked_max: int, granted: tuple[int, int]
) -> None:
    policy = replace(POLICY, operations_performed_max=performed_max, operations_invoked_max=invoked_max)
    information = UserInformation(asynchronous_operations_window=AsynchronousOperationsWindow(*offered))
    answer = accept(request((CT, (IMPLICIT,)), information=information), policy)
    assert answer.ac.user_information.asynchronous_operations_window == AsynchronousOperationsWindow(*granted)
    assert (answer.operations_performed_max, answer.operations_invoked_max) == granted


def test_without_an_offer_or_with_the_window_off_one_operation_is_outstanding() -> None:
    information = UserInformation(asynchronous_operations_window=AsynchronousOperationsWindow(0, 0))
    for rq, policy in (
        (request((CT, (IMPLICIT,))), POLICY),
        (request((CT, (IMPLICIT,)), information=information), replace(POLICY, asynchronous=False)),
    ):
        answer = accept(rq, policy)
        assert answer.ac.user_information.asynchronous_operations_window is None
        assert (answer.operations_performed_max, answer.operations_invoked_max) == (1, 1)


def test_a_requestor_of_c_get_becomes_scp_of_storage_alone() -> None:
    roles = tuple(
        RoleSelection(uid, scu, True) for uid, scu in ((CT, False), (MR, True), (FIND, True), (WORKLIST, True))
    )
    rq = request(
        *((uid, (IMPLICIT,)) for uid in (GET, CT, MR, FIND, WORKLIST, PRIVATE)),
        information=UserInformation(role_selections=roles),
    )
    answer = accept(rq)
    assert answer.ac.user_information.role_selections == (
        RoleSelection(CT, False, True),
        RoleSelection(MR, True, True),
        RoleSelection(FIND, True, False),
    )
    by_class = {context.abstract_syntax: context for context in answer.contexts.values()}
    assert (by_class[CT].we_are_scu, by_class[CT].we_are_scp) == (True, False)
    assert (by_class[MR].we_are_scu, by_class[MR].we_are_scp) == (True, True)
    assert (by_class[FIND].we_are_scu, by_class[FIND].we_are_scp) == (False, True)
    assert (by_class[PRIVATE].we_are_scu, by_class[PRIVATE].we_are_scp) == (False, True)
    assert not answer.get_roles_assumed


def test_a_c_get_requestor_without_roles_is_treated_as_scp() -> None:
    rq = request((GET, (IMPLICIT,)), (CT, (IMPLICIT,)), (VERIFICATION, (IMPLICIT,)))
    answer = accept(rq)
    assert answer.get_roles_assumed
    assert [context.we_are_scu for context in answer.contexts.values()] == [False, True, False]
    assert answer.ac.user_information.role_selections == (), "nothing is answered that was not asked"
    strict = accept(rq, replace(POLICY, lenient_get_roles=False))
    assert not strict.get_roles_assumed
    assert not any(context.we_are_scu for context in strict.contexts.values())


def test_a_sender_without_roles_is_not_an_scp() -> None:
    answer = accept(request((CT, (IMPLICIT,)), (FIND, (IMPLICIT,))))
    assert not answer.get_roles_assumed
    assert not answer.contexts[1].we_are_scu


def test_extended_negotiation_grants_what_both_want() -> None:
    offers = (
        SopClassExtendedNegotiation(FIND, b"\1\0\1\1\1\1\1\1"),
        SopClassExtendedNegotiation(MOVE, b"\1"),
        SopClassExtendedNegotiation(GET, b"\0\1"),
        SopClassExtendedNegotiation(CT, b"\2\0\0\0\1\0"),
        SopClassExtendedNegotiation(WORKLIST, b"\1"),
        SopClassExtendedNegotiation(VERIFICATION, b"\1"),
    )
    information = UserInformation(sop_class_extended_negotiations=offers)
    rq = request(
        *((uid, (IMPLICIT,)) for uid in (FIND, MOVE, GET, CT, WORKLIST, VERIFICATION)), information=information
    )
    # Never more bytes than the standard has or the requestor sent; no conversion to enhanced multi-frame.
    expected = {FIND: b"\1\0\1\1\0\1\1", MOVE: b"\1", GET: b"\0\0", CT: b"\2\0\3\0\0\0"}
    answer = accept(rq)
    assert answer.options == expected
    assert answer.ac.user_information.sop_class_extended_negotiations == tuple(
        SopClassExtendedNegotiation(uid, options) for uid, options in expected.items()
    )
    literal = replace(POLICY, options={**OPTIONS, FIND: b"\1\1\0"})
    assert accept(rq, literal).options[FIND] == b"\1\0\0"


# The requestor's side ----------------------------------------------------------------------------


def ac_for(*answers: PresentationContextAC, information: UserInformation | None = None) -> AssociateAC:
    return AssociateAC(bytes(64), answers, information or UserInformation())


def test_the_requestor_uses_what_was_accepted_and_nothing_else() -> None:
    rq = request((CT, (IMPLICIT, EXPLICIT)), (MR, (IMPLICIT,)), (VERIFICATION, (IMPLICIT,)))
    ac = ac_for(
        PresentationContextAC(1, 0, EXPLICIT),
        PresentationContextAC(3, 0, JPEG),  # was not proposed
        PresentationContextAC(5, 3, IMPLICIT),
        PresentationContextAC(77, 0, IMPLICIT),  # neither
        information=UserInformation(maximum_length=28672),
    )
    accepted = accepted_contexts(rq, ac)
    assert accepted.contexts == {1: AcceptedContext(1, CT, EXPLICIT, we_are_scu=True, we_are_scp=False)}
    assert accepted.peer_maximum_length == 28672
    assert (accepted.operations_invoked_max, accepted.operations_performed_max) == (1, 1)


@pytest.mark.parametrize(
    ("offered", "granted", "expected"),
    [
        ((8, 1), (4, 1), (4, 1)),
        ((8, 1), (99, 99), (8, 1)),
        ((0, 0), (16, 2), (16, 2)),
        ((8, 8), None, (1, 1)),
        (None, (8, 8), (1, 1)),
    ],
)
def test_the_requestor_uses_at_most_the_negotiated_window(
    offered: tuple[int, int] | None, granted: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    def information(window: tuple[int, int] | None) -> UserInformation:
        return UserInformation(asynchronous_operations_window=AsynchronousOperationsWindow(*window) if window else None)

    rq = request((CT, (IMPLICIT,)), information=information(offered))
    accepted = accepted_contexts(rq, ac_for(information=information(granted)))
    assert (accepted.operations_invoked_max, accepted.operations_performed_max) == expected


def test_the_requestor_is_scp_only_where_it_was_granted() -> None:
    rq = request(
        (CT, (IMPLICIT,)),
        (MR, (IMPLICIT,)),
        information=UserInformation(role_selections=(RoleSelection(CT, False, True), RoleSelection(MR, False, True))),
    )
    ac = ac_for(
        PresentationContextAC(1, 0, IMPLICIT),
        PresentationContextAC(3, 0, IMPLICIT),
        information=UserInformation(role_selections=(RoleSelection(CT, False, True),)),
    )
    contexts = accepted_contexts(rq, ac).contexts
    assert (contexts[1].we_are_scu, contexts[1].we_are_scp) == (False, True)
    assert (contexts[3].we_are_scu, contexts[3].we_are_scp) == (True, False)


def test_both_sides_agree_on_what_they_agreed() -> None:
    information = UserInformation(
        maximum_length=32768,
        asynchronous_operations_window=AsynchronousOperationsWindow(3, 5),
        role_selections=(RoleSelection(CT, True, True),),
        sop_class_extended_negotiations=(SopClassExtendedNegotiation(FIND, b"\1\1\1"),),
    )
    rq = request((GET, (IMPLICIT,)), (CT, (JPEG, IMPLICIT)), (FIND, (EXPLICIT,)), information=information)
    theirs = accept(rq, replace(POLICY, operations_invoked_max=4))
    ours = accepted_contexts(rq, theirs.ac)
    assert ours.operations_invoked_max == theirs.operations_performed_max == 3
    assert ours.operations_performed_max == theirs.operations_invoked_max == 4
    assert ours.options == theirs.options
    for context_id, context in theirs.contexts.items():
        mirrored = ours.contexts[context_id]
        assert mirrored.transfer_syntax == context.transfer_syntax
        assert (mirrored.we_are_scu, mirrored.we_are_scp) == (context.we_are_scp, context.we_are_scu)
