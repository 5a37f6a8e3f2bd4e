"""engine.ul.pdu: golden bytes, pynetdicom as the judge in both directions, and bytes that are no PDU."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import pdu as oracle
from pynetdicom.tests import encoded_pdu_items as golden

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.ul import pdu
from engine.ul.pdu import (
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    AsynchronousOperationsWindow,
    PDataTF,
    PresentationContextAC,
    PresentationContextRQ,
    PresentationDataValue,
    ReleaseRP,
    ReleaseRQ,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserIdentityAC,
    UserIdentityRQ,
    UserInformation,
)

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=60)

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def decode(data: bytes) -> pdu.PDU:
    return pdu.decode(data[0], data[6:])


# Everything that is neither a golden vector nor a mutation comes from here.
uids = st.from_regex(r"[12]\.(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,5}", fullmatch=True)
titles = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", min_size=1, max_size=16)
context_ids = st.lists(st.integers(0, 127), unique=True, min_size=1, max_size=12).map(
    lambda ids: [2 * number + 1 for number in ids]
)


@st.composite
def user_informations(draw: st.DrawFn, *, accepting: bool) -> UserInformation:
    identity_type = draw(st.integers(1, 5))
    secondary = draw(st.binary(min_size=1, max_size=20)) if identity_type == 2 else b""
    primary = draw(st.binary(min_size=1, max_size=40))
    return UserInformation(
        maximum_length=draw(st.integers(0, 2**32 - 1)),
        implementation_class_uid=draw(uids),
        implementation_version_name=draw(st.just("") | st.text("ABC_123", min_size=1, max_size=16)),
        asynchronous_operations_window=draw(
            st.none() | st.builds(AsynchronousOperationsWindow, st.integers(0, 65535), st.integers(0, 65535))
        ),
        role_selections=tuple(
            RoleSelection(uid, *draw(st.sampled_from([(True, True), (True, False), (False, True)])))
            for uid in draw(st.lists(uids, max_size=3, unique=True))
        ),
        sop_class_extended_negotiations=tuple(
            draw(st.lists(st.builds(SopClassExtendedNegotiation, uids, st.binary(min_size=1, max_size=8)), max_size=3))
        ),
        sop_class_common_extended_negotiations=()
        if accepting
        else tuple(
            draw(
                st.lists(
                    st.builds(SopClassCommonExtendedNegotiation, uids, uids, st.lists(uids, max_size=3).map(tuple)),
                    max_size=2,
                )
            )
        ),
        user_identity_rq=None
        if accepting
        else draw(st.none() | st.just(UserIdentityRQ(identity_type, draw(st.booleans()), primary, secondary))),
        user_identity_ac=draw(st.none() | st.just(UserIdentityAC(primary))) if accepting else None,
    )


@st.composite
def associate_rqs(draw: st.DrawFn) -> AssociateRQ:
    return AssociateRQ(
        draw(titles),
        draw(titles),
        tuple(
            PresentationContextRQ(number, draw(uids), tuple(draw(st.lists(uids, min_size=1, max_size=4))))
            for number in draw(context_ids)
        ),
        draw(user_informations(accepting=False)),
    )


@st.composite
def associate_acs(draw: st.DrawFn) -> AssociateAC:
    return AssociateAC(
        draw(titles).ljust(16).encode() + draw(titles).ljust(16).encode() + bytes(32),
        tuple(PresentationContextAC(number, draw(st.integers(0, 4)), draw(uids)) for number in draw(context_ids)),
        draw(user_informations(accepting=True)),
    )


# Golden bytes --------------------------------------------------------------------------------


def test_an_associate_rq_is_read_field_by_field() -> None:
    rq = decode(golden.a_associate_rq)
    assert isinstance(rq, AssociateRQ)
    assert rq.called_ae_title == "ANY-SCP"
    assert rq.calling_ae_title == "ECHOSCU"
    assert rq.titles == golden.a_associate_rq[10:74]
    assert rq.protocol_version == 1
    assert rq.application_context_name == "1.2.840.10008.3.1.1.1"
    assert rq.presentation_contexts == (PresentationContextRQ(1, VERIFICATION, (IMPLICIT,)),)
    assert rq.user_information == UserInformation(16382, "1.2.826.0.1.3680043.9.3811.0.9.0", "PYNETDICOM_090")


def test_user_information_sub_items_may_come_in_any_order() -> None:
    rq = decode(golden.a_associate_rq_user_async)
    assert isinstance(rq, AssociateRQ)
    assert rq.user_information.user_identity_rq == UserIdentityRQ(1, True, b"pynetdicom")
    assert rq.user_information.asynchronous_operations_window == AsynchronousOperationsWindow(5, 5)


def test_a_passcode_does_not_show_in_the_repr() -> None:
    rq = decode(golden.a_associate_rq_user_id_user_pass)
    assert isinstance(rq, AssociateRQ)
    assert rq.user_information.user_identity_rq == UserIdentityRQ(2, False, b"pynetdicom", b"p4ssw0rd")
    assert "p4ssw0rd" not in repr(rq)


def test_roles_and_extended_negotiation_are_read() -> None:
    rq = decode(golden.a_associate_rq_role)
    assert isinstance(rq, AssociateRQ)
    assert rq.user_information.role_selections == (RoleSelection(CT, False, True),)
    rq = decode(golden.a_associate_rq_user_id_ext_neg)
    assert isinstance(rq, AssociateRQ)
    assert len(rq.user_information.sop_class_extended_negotiations) == 2


def test_common_extended_negotiation_is_read_with_its_related_classes() -> None:
    rq = pdu.decode(1, associate_rq(item(0x50, golden.common_extended_negotiation)))
    assert isinstance(rq, AssociateRQ)
    assert rq.user_information.sop_class_common_extended_negotiations == (
        SopClassCommonExtendedNegotiation(
            "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.4.2", ("1.2.840.10008.5.1.4.1.1.88.22",)
        ),
    )


def context_rq(number: int, transfer_syntaxes: list[bytes]) -> bytes:
    inner = bytes([number, 0, 0, 0]) + item(0x30, CT.encode())
    return item(0x20, inner + b"".join(item(0x40, uid) for uid in transfer_syntaxes))


def test_only_the_first_of_too_many_transfer_syntaxes_are_read() -> None:
    """Nobody has proven anything yet, and each costs time."""
    many = [b"1.2.%d" % number for number in range(1, 300)]
    rq = pdu.decode(1, associate_rq(b"".join(context_rq(2 * number + 1, many) for number in range(100))))
    assert isinstance(rq, AssociateRQ)
    assert len(rq.presentation_contexts) == 100
    counts = [len(context.transfer_syntaxes) for context in rq.presentation_contexts]
    full = pdu.TRANSFER_SYNTAXES_TOTAL_MAX // pdu.TRANSFER_SYNTAXES_MAX
    assert counts == [pdu.TRANSFER_SYNTAXES_MAX] * full + [0] * (100 - full)
    assert rq.presentation_contexts[0].transfer_syntaxes[-1] == f"1.2.{pdu.TRANSFER_SYNTAXES_MAX}"
    assert {context.abstract_syntax for context in rq.presentation_contexts} == {CT}


def test_all_transfer_syntaxes_of_the_standard_in_every_context_are_read() -> None:
    many = [b"1.2.840.10008.1.2.4.%d" % number for number in range(64)]
    rq = pdu.decode(1, associate_rq(b"".join(context_rq(2 * number + 1, many) for number in range(128))))
    assert isinstance(rq, AssociateRQ)
    assert {len(context.transfer_syntaxes) for context in rq.presentation_contexts} == {64}


def test_related_classes_are_read_up_to_a_number_of_the_whole_request() -> None:
    related = item(0x57, b"\0\0\0\0" + (2 * 600).to_bytes(2, "big") + bytes(2 * 600))
    rq = pdu.decode(1, associate_rq(item(0x50, related * 3)))
    assert isinstance(rq, AssociateRQ)
    offers = rq.user_information.sop_class_common_extended_negotiations
    assert [len(offer.related_general_sop_class_uids) for offer in offers] == [600, 424, 0]


@pytest.mark.parametrize("name", ["a_associate_ac", "a_associate_ac_user", "a_associate_ac_zero_ts"])
def test_an_associate_ac_is_read_and_written_back(name: str) -> None:
    data = getattr(golden, name)
    ac = decode(data)
    assert isinstance(ac, AssociateAC)
    ours, theirs = oracle.A_ASSOCIATE_AC(), oracle.A_ASSOCIATE_AC()
    ours.decode(pdu.encode(ac))
    theirs.decode(data)
    assert ours == theirs


def test_a_rejected_context_may_lack_its_transfer_syntax() -> None:
    ac = decode(golden.a_associate_ac_no_ts)
    assert isinstance(ac, AssociateAC)
    assert ac.presentation_contexts == (PresentationContextAC(1, 3, ""),)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (golden.a_associate_rj, AssociateRJ(1, 1, 1)),
        (golden.a_release_rq, ReleaseRQ()),
        (golden.a_release_rp, ReleaseRP()),
        (golden.a_abort, Abort(0, 0)),
        (golden.a_p_abort, Abort(2, 4)),
    ],
)
def test_the_small_pdus_are_their_golden_bytes_both_ways(data: bytes, expected: pdu.PDU) -> None:
    assert decode(data) == expected
    assert pdu.encode(expected) == data


def test_p_data_tf_is_its_golden_bytes_both_ways() -> None:
    unit = decode(golden.p_data_tf)
    assert isinstance(unit, PDataTF)
    (value,) = unit.values
    assert (value.presentation_context_id, value.is_command, value.is_last) == (1, True, True)
    assert pdu.p_data_tf(1, True, True, value.fragment) == golden.p_data_tf
    assert pdu.encode(unit) == golden.p_data_tf


# pynetdicom as the judge ---------------------------------------------------------------------


@EXAMPLES
@given(associate_rqs())
def test_our_associate_rq_is_read_and_written_alike_by_pynetdicom(rq: AssociateRQ) -> None:
    data = pdu.encode(rq)
    theirs = oracle.A_ASSOCIATE_RQ()
    theirs.decode(data)
    assert theirs.encode() == data
    assert theirs.called_ae_title.strip() == rq.called_ae_title
    assert theirs.calling_ae_title.strip() == rq.calling_ae_title
    for context, item in zip(rq.presentation_contexts, theirs.presentation_context, strict=True):
        assert item.context_id == context.presentation_context_id
        assert item.abstract_syntax == context.abstract_syntax
        assert tuple(item.transfer_syntax) == context.transfer_syntaxes
    information = theirs.user_information
    assert information is not None
    assert information.maximum_length == rq.user_information.maximum_length
    assert information.implementation_class_uid == rq.user_information.implementation_class_uid


@EXAMPLES
@given(associate_acs())
def test_our_associate_ac_is_read_and_written_alike_by_pynetdicom(ac: AssociateAC) -> None:
    data = pdu.encode(ac)
    theirs = oracle.A_ASSOCIATE_AC()
    theirs.decode(data)
    assert theirs.encode() == data
    for context, item in zip(ac.presentation_contexts, theirs.presentation_context, strict=True):
        assert (item.context_id, item.result) == (context.presentation_context_id, context.result)


@EXAMPLES
@given(associate_rqs() | associate_acs())
def test_a_round_trip_keeps_everything(unit: AssociateRQ | AssociateAC) -> None:
    data = pdu.encode(unit)
    back = decode(data)
    assert pdu.encode(back) == data
    assert isinstance(back, AssociateRQ | AssociateAC)
    assert back.presentation_contexts == unit.presentation_contexts
    assert back.user_information == unit.user_information


@EXAMPLES
@given(
    st.lists(
        st.builds(
            PresentationDataValue,
            st.integers(0, 127).map(lambda number: 2 * number + 1),
            st.booleans(),
            st.booleans(),
            st.binary(max_size=50),
        ),
        max_size=5,
    )
)
def test_presentation_data_values_survive_a_round_trip(values: list[PresentationDataValue]) -> None:
    unit = PDataTF(tuple(values))
    assert decode(pdu.encode(unit)) == unit


# What a peer may get wrong -------------------------------------------------------------------


def associate_rq(*items: bytes) -> bytes:
    """The body of an A-ASSOCIATE-RQ with these items."""
    return b"\0\1\0\0" + b"ANY-SCP         ECHOSCU         " + bytes(32) + b"".join(items)


def item(item_type: int, content: bytes) -> bytes:
    return bytes((item_type, 0)) + len(content).to_bytes(2, "big") + content


def context_item(number: int) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()))


@pytest.mark.parametrize(
    ("pdu_type", "body", "reason", "message"),
    [
        (0x00, b"", 1, "unrecognized PDU type 00H"),
        (0x08, b"\0\0\0\0", 1, "unrecognized PDU type 08H"),
        (1, b"", 6, "byte 7: protocol version needs 2 bytes, 0 are left"),
        (1, associate_rq()[:40], 6, "byte 11: AE titles needs 64 bytes"),
        (1, associate_rq(b"\x20\0\0"), 6, "byte 75: item header needs 4 bytes, 3 are left"),
        (1, associate_rq(b"\x20\0\0\x09abcd"), 6, "byte 79: item 20H needs 9 bytes, 4 are left"),
        (1, associate_rq(context_item(2)), 6, "byte 79: presentation context id 2 is not odd"),
        (1, associate_rq(context_item(0)), 6, "byte 79: presentation context id 0 is not odd"),
        (1, associate_rq(context_item(1), context_item(1)), 6, "presentation context id 1 a second time"),
        (1, associate_rq(item(0x21, bytes(4))), 5, "byte 75: item 21H belongs to the other side"),
        (1, associate_rq(item(0x10, b"1"), item(0x10, b"1")), 5, "byte 80: a second application context"),
        (1, associate_rq(item(0x50, b""), item(0x50, b"")), 5, "a second user information item"),
        (1, associate_rq(item(0x10, b"\xff")), 6, "byte 79: application context name is not ASCII"),
        (1, associate_rq(item(0x50, item(0x51, b"\0\0"))), 6, "byte 83: maximum length needs 4 bytes, 2 are left"),
        (1, associate_rq(item(0x50, item(0x52, b"1") * 2)), 5, "a second user information sub-item 52H"),
        (1, associate_rq(item(0x50, item(0x54, b"\0\x09" + b"1.2"))), 6, "SOP class UID needs 9 bytes"),
        (1, associate_rq(b"\x99\0\0\0" * 1025), 6, "more than 1024 items"),
        (2, associate_rq(item(0x21, b"\1\0")), 6, "result needs 1 bytes, 0 are left"),
        (3, b"\0\1\1", 6, "A-ASSOCIATE-RJ has a body of 4 bytes, not 3"),
        (4, b"\0\0\0\1\1", 6, "a presentation data value of 1 bytes has no header"),
        (4, b"\0\0\0\x09\1\0abc", 6, "presentation data value needs 7 bytes, 3 are left"),
        (5, b"", 6, "A-RELEASE-RQ has a body of 4 bytes, not 0"),
        (7, bytes(5), 6, "A-ABORT has a body of 4 bytes, not 5"),
    ],
)
def test_malformed_bytes_are_refused_with_reason_and_position(
    pdu_type: int, body: bytes, reason: int, message: str
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        pdu.decode(pdu_type, body)
    assert message in str(caught.value)
    assert (caught.value.source, caught.value.reason) == (2, reason)


def test_unknown_items_and_sub_items_are_skipped() -> None:
    body = associate_rq(item(0x99, b"?"), context_item(1), item(0x50, item(0x5F, b"??") + item(0x51, b"\0\0\x80\0")))
    rq = pdu.decode(1, body)
    assert isinstance(rq, AssociateRQ)
    assert len(rq.presentation_contexts) == 1
    assert rq.user_information == UserInformation(maximum_length=32768)


def test_a_context_may_lack_abstract_and_transfer_syntax() -> None:
    rq = pdu.decode(1, associate_rq(item(0x20, b"\1\0\0\0")))
    assert isinstance(rq, AssociateRQ)
    assert rq.presentation_contexts == (PresentationContextRQ(1, "", ()),)


def test_padding_around_uids_and_titles_is_dropped_and_titles_are_kept_as_received() -> None:
    body = b"\0\1\0\0" + b"  ANY SCP\0\0\0\0\0\0\0" + b"\xc4CHO            " + bytes(range(32))
    body += item(0x20, b"\1\0\0\0" + item(0x30, b"1.2\0") + item(0x40, b"1.2.3 "))
    rq = pdu.decode(1, body)
    assert isinstance(rq, AssociateRQ)
    assert rq.called_ae_title == "ANY SCP"
    assert rq.calling_ae_title == "ÄCHO"
    assert rq.presentation_contexts == (PresentationContextRQ(1, "1.2", ("1.2.3",)),)
    assert pdu.encode(AssociateAC(rq.titles, ()))[10:74] == body[4:68]


def test_all_128_presentation_contexts_are_read() -> None:
    rq = pdu.decode(1, associate_rq(*(context_item(number) for number in range(1, 256, 2))))
    assert isinstance(rq, AssociateRQ)
    assert len(rq.presentation_contexts) == 128


def test_a_peer_without_a_maximum_length_gets_pdus_of_common_length() -> None:
    rq = pdu.decode(1, associate_rq())
    assert isinstance(rq, AssociateRQ)
    assert rq.user_information.maximum_length == 16384


def test_a_user_identity_without_secondary_field_is_read() -> None:
    rq = pdu.decode(1, associate_rq(item(0x50, item(0x58, b"\1\0\0\3abc"))))
    assert isinstance(rq, AssociateRQ)
    assert rq.user_information.user_identity_rq == UserIdentityRQ(1, False, b"abc")


# What we may get wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    [
        AssociateRQ("", "A", ()),
        AssociateRQ("A" * 17, "A", ()),
        AssociateRQ("日本", "A", ()),
        AssociateRQ("A", "A", (PresentationContextRQ(2, CT, (IMPLICIT,)),)),
        AssociateRQ("A", "A", (PresentationContextRQ(257, CT, (IMPLICIT,)),)),
        AssociateRQ("A", "A", (PresentationContextRQ(1, CT, (IMPLICIT,)),) * 129),
        AssociateRQ("A", "A", (), UserInformation(maximum_length=1 << 32)),
        AssociateRQ("A", "A", (), UserInformation(user_identity_rq=UserIdentityRQ(5, False, bytes(70000)))),
        AssociateAC(b"short", ()),
        AssociateRJ(256, 0, 0),
        Abort(-1, 0),
        PDataTF((PresentationDataValue(0, True, True, b""),)),
    ],
)
def test_a_pdu_that_the_standard_does_not_allow_is_not_written(unit: pdu.PDU) -> None:
    with pytest.raises(LocalProtocolError):
        pdu.encode(unit)


# Fuzz ----------------------------------------------------------------------------------------

SEEDS = [getattr(golden, name) for name in dir(golden) if name.startswith(("a_", "p_data"))]


def decode_or_refuse(pdu_type: int, body: bytes) -> None:
    try:
        unit = pdu.decode(pdu_type, body)
    except RemoteProtocolError as error:
        assert error.source == 2
        assert error.reason in (1, 4, 5, 6)
    else:
        assert isinstance(unit, pdu.PDU)


@EXAMPLES
@given(st.integers(0, 255), st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(pdu_type: int, body: bytes) -> None:
    decode_or_refuse(pdu_type, body)


@EXAMPLES
@given(st.data())
def test_mutated_pdus_are_decoded_or_refused(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SEEDS))[6:])
    for _ in range(data.draw(st.integers(1, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(data.draw(st.integers(1, 7)), bytes(body[: data.draw(st.integers(0, len(body)))]))


def test_every_truncation_is_decoded_or_refused() -> None:
    for seed in SEEDS:
        for end in range(len(seed) - 6):
            decode_or_refuse(seed[0], seed[6 : 6 + end])


def test_every_single_byte_set_to_extremes_is_decoded_or_refused() -> None:
    for seed in SEEDS:
        for position in range(6, len(seed)):
            for value in (0x00, 0x7F, 0xFF):
                decode_or_refuse(seed[0], seed[6:position] + bytes((value,)) + seed[position + 1 :])


def lines_run(call: Callable[[], Any]) -> tuple[int, Any]:
    """How many lines of Python the call runs, a measure of work that no load changes; and what it returns."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = call()
    finally:
        sys.settrace(before)
    return count, result


def test_the_most_expensive_associate_rq_costs_little() -> None:
    rng = random.Random(7)
    contexts = [
        item(0x20, bytes((number, 0, 0, 0)) + item(0x30, b"1.2") + item(0x40, b"") * 1000)
        for number in range(1, 256, 2)
    ]
    rng.shuffle(contexts)
    roles = b"".join(item(0x57, b"\0\0\0\0\x07\xd0" + b"\0\0" * 1000) for _ in range(30))
    body = associate_rq(*contexts, item(0x50, roles))
    lines, rq = lines_run(lambda: pdu.decode(1, body))
    # Of 128 000 transfer syntaxes most are skipped; each of 30 000 related classes costs some five lines, once.
    assert lines < 300_000
    assert isinstance(rq, AssociateRQ)
    assert len(rq.presentation_contexts) == 128


def test_an_oversized_associate_rq_is_refused_unread() -> None:
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        pdu.decode(1, bytes(pdu.ASSOCIATE_LENGTH_MAX + 1))
