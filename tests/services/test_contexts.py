"""Which presentation contexts are proposed for what is to be sent, and which one an instance goes out on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from engine.errors import TranscodeError
from engine.services.contexts import FALLBACK, SendContexts, in_groups, propose
from engine.ul.negotiation import AcceptedContext

EXPLICIT, IMPLICIT = FALLBACK
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_2000_PART_2 = "1.2.840.10008.1.2.4.92"


@dataclass(frozen=True)
class Item:
    sop_class_uid: str
    transfer_syntax_uid: str


def accepted(*pairs: tuple[str, str], we_are_scu: bool = True) -> list[AcceptedContext]:
    return [AcceptedContext(2 * n + 1, uid, syntax, we_are_scu, True) for n, (uid, syntax) in enumerate(pairs)]


def test_each_stored_syntax_has_a_context_of_its_own_and_each_class_a_fallback() -> None:
    contexts = propose(
        [Item("1.2", JPEG_2000_PART_2), Item("1.2", EXPLICIT), Item("1.3", IMPLICIT), Item("1.2", JPEG_2000_PART_2)]
    )
    assert [(c.abstract_syntax, c.transfer_syntaxes) for c in contexts] == [
        ("1.2", (JPEG_2000_PART_2,)),
        ("1.2", (EXPLICIT,)),
        ("1.3", (IMPLICIT,)),
        ("1.2", (IMPLICIT,)),
        ("1.3", (EXPLICIT,)),
    ]
    assert [c.presentation_context_id for c in contexts] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("preferred", [(), (EXPLICIT,), (EXPLICIT, BIG_ENDIAN)])
def test_more_kinds_than_contexts_are_sent_in_several_groups(preferred: tuple[str, ...]) -> None:
    items = [Item(f"1.2.{number % 60}", f"1.3.{number % 7}") for number in range(600)]
    groups = in_groups(items, preferred)
    assert [item for group in groups for item in group] == items
    assert len(groups) > 1
    for group in groups:
        contexts = propose(group, preferred)
        proposed = {(c.abstract_syntax, syntax) for c in contexts for syntax in c.transfer_syntaxes}
        assert {(item.sop_class_uid, item.transfer_syntax_uid) for item in group} <= proposed


def test_the_stored_syntax_goes_before_a_conversion_and_a_preferred_one_before_it() -> None:
    contexts = accepted(("1.2", IMPLICIT), ("1.2", EXPLICIT))
    assert SendContexts(contexts).choose(Item("1.2", EXPLICIT))[1] == EXPLICIT
    assert SendContexts(contexts, (IMPLICIT,)).choose(Item("1.2", EXPLICIT))[1] == IMPLICIT
    assert SendContexts(contexts, (BIG_ENDIAN,)).choose(Item("1.2", IMPLICIT))[1] == IMPLICIT
    context, syntax = SendContexts(accepted(("1.2", IMPLICIT))).choose(Item("1.2", BIG_ENDIAN))
    assert (context.presentation_context_id, syntax) == (1, IMPLICIT)


def test_what_cannot_be_sent_has_a_reason() -> None:
    with pytest.raises(TranscodeError, match="no presentation context"):
        SendContexts(accepted(("1.2", EXPLICIT))).choose(Item("1.9", EXPLICIT))
    with pytest.raises(TranscodeError, match="no transfer syntax"):
        SendContexts(accepted(("1.2", EXPLICIT))).choose(Item("1.2", JPEG_2000_PART_2))
    with pytest.raises(TranscodeError, match="no presentation context"):
        SendContexts(accepted(("1.2", EXPLICIT), we_are_scu=False)).choose(Item("1.2", EXPLICIT))
