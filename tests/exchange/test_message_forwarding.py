"""Received HL7 messages are passed on in order, once, as the rule says, and never back to who has sent them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.archive import messages
from engine.archive.archive import Archive
from engine.config import Config
from engine.errors import CursorRefused, MessageUnreadable
from engine.exchange import repetition
from engine.exchange.message_forwarding import MessageRows
from engine.exchange.repetition import WINDOW_S, Repetitions
from engine.exchange.settings import Rule
from engine.hl7 import Message, parse
from engine.hl7.header_change import with_header
from engine.hl7.separators import STANDARD
from engine.hl7.settings import Hl7Destination, Hl7Source
from engine.journal import Fault, Journal, Outcome, Received, Result
from engine.outbox import follower, tables
from tests.exchange.receivers import Taker, taking
from tests.exchange.rule_places import placed
from tests.system.server import wait_for

SOURCES = (Hl7Source(name="kis", application="KIS"), Hl7Source(name="lab", application="LAB"))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHECK_S", 0.02)
    monkeypatch.setattr(follower, "CHECK_S", 0.02)


@pytest.fixture
def taker() -> Iterator[Taker]:
    with taking() as receiver:
        yield receiver


def text(control_id: str, *, kind: str = "ADT^A08", sender: str = "KIS", facility: str = "ST") -> bytes:
    header = f"MSH|^~\\&|{sender}|{facility}|FILMROOM|RAD|20261130101500||{kind}|{control_id}|P|2.5.1"
    return f"{header}\rPID|1||P1^^^HOSP||M\u00fcller^J\u00f6rg\r".encode("iso8859-1")


class Desk:
    """Writes into the journal what the process of messages would."""

    def __init__(self, archive: Archive) -> None:
        self.journal: Journal = messages.open_journal(archive)

    def take(self, data: bytes, *, fault: Fault | None = None, host: str = "192.0.2.1", source: str = "kis") -> int:
        message = parse(data)
        received = Received(
            time=1.0, source=source, host=host, kind=message.kind, control_id=message.control_id,
            application=message.header.text(3), facility=message.header.text(4), fault=fault,
        )  # fmt: skip
        return self.journal.append(received, data)

    def apply(self, number: int, result: Result = Result.APPLIED, *, is_replay: bool = False) -> None:
        self.journal.append_outcome(Outcome(number=number, time=2.0, result=result, is_replay=is_replay))

    def come(self, *texts: bytes, **more: Any) -> None:
        for data in texts:
            self.apply(self.take(data, **more))


def rule(**more: Any) -> Rule:
    return Rule(name="adt", after="message", action="forward", to=("ris",), retry_s=0.01, **more)


def destination(taker: Taker, **more: Any) -> Hl7Destination:
    return Hl7Destination(name="ris", host="127.0.0.1", port=taker.port, **more)


def ids(taker: Taker) -> list[str]:
    return [parse(each).control_id for each in taker.messages]


def test_messages_are_passed_on_in_order_through_failures_and_a_restart(tmp_path: Path, taker: Taker) -> None:
    def place() -> Any:
        return placed(tmp_path / "data", [rule()], hl7_destinations=(destination(taker),), hl7_sources=SOURCES)

    with place() as where:
        desk = Desk(where.archive)
        taker.codes = ["AE", ""]
        desk.come(text("1"), text("2"))
        wait_for(lambda: len(taker.messages) >= 4, what="two messages and two attempts more")
        number = desk.take(text("3"))
        desk.journal.close()
    assert list(dict.fromkeys(ids(taker))) == ["1", "2"], "what is not applied may still be lost"
    assert taker.messages[-1] == text("2"), "every byte as it came"
    count = len(taker.messages)
    with place() as where:
        desk = Desk(where.archive)
        desk.apply(number)
        desk.apply(number, is_replay=True)
        desk.apply(desk.take(text("4")), Result.REFUSED)
        desk.take(text("5"), fault=Fault(101, "PID-3 is empty"))
        desk.come(text("6"))
        wait_for(lambda: "6" in ids(taker), what="the last message")
        desk.journal.close()
    assert ids(taker)[count:] == ["3", "6"]


def test_kinds_sources_and_the_sender_itself_decide(tmp_path: Path, taker: Taker) -> None:
    to = destination(taker, application="RIS", facility="NORTH", sending_facility="RAD")
    chosen = rule(kinds=("ADT", "ORM^O01"), sources=("kis",), sender="own")
    with placed(tmp_path / "data", [chosen], hl7_destinations=(to,), hl7_sources=SOURCES) as where:
        desk = Desk(where.archive)
        desk.come(
            text("1"), text("2", kind="ORU^R01"), text("3", kind="ORM^O01"), text("4", kind="ORM^O02"),
            text("5", sender="RIS", facility="NORTH"), text("6", sender="RIS", facility="SOUTH"),
            text("7", sender="FILMROOM", facility="RAD"),
        )  # fmt: skip
        desk.come(text("8", sender="LAB"), source="lab")
        desk.come(text("9"))
        wait_for(lambda: len(taker.messages) == 4, what="four messages")
        desk.journal.close()
    headers = [parse(each).header for each in taker.messages]
    assert [[each.text(number) for number in (3, 4, 5, 6)] for each in headers] == [
        ["FILMROOM", "RAD", "RIS", "NORTH"]
    ] * 4
    assert [each.text(9) for each in headers] == ["ADT", "ORM", "ADT", "ADT"]
    assert len(set(ids(taker))) == 4 and all(each.startswith("FR") for each in ids(taker))
    assert all("M\u00fcller^J\u00f6rg".encode("iso8859-1") in each for each in taker.messages)


def test_without_an_application_a_message_does_not_go_back_to_its_address(tmp_path: Path, taker: Taker) -> None:
    with placed(tmp_path / "data", [rule()], hl7_destinations=(destination(taker),), hl7_sources=SOURCES) as where:
        desk = Desk(where.archive)
        desk.come(text("1"), host="127.0.0.1")
        desk.come(text("2"))
        wait_for(lambda: bool(taker.messages), what="a message")
        desk.journal.close()
    assert ids(taker) == ["2"]


def test_a_message_that_goes_round_in_a_circle_is_set_aside_and_the_next_one_follows(
    tmp_path: Path, taker: Taker
) -> None:
    """RIS gives everything to a third system, and that to us: each with its own header, set and empty fields."""
    name = "rule:adt:ris"
    to = destination(taker, application="RIS")
    circled = rule(sender="own", repeats_max=3)
    with placed(tmp_path / "data", [circled], hl7_destinations=(to,), hl7_sources=SOURCES) as where:
        desk = Desk(where.archive)
        desk.come(text("1"))
        for turn in range(1, 4):
            wait_for(lambda turn=turn: len(taker.messages) == turn, what="a round")  # type: ignore[misc]
            came = parse(taker.messages[-1])
            header = {3: "LAB", 4: f"ST{turn}", 10: f"L{turn}", 18: "UNICODE UTF-8"}
            changed = with_header(came, header).decode(came.codec).replace("J\u00f6rg\r", "J\u00f6rg|||\r")
            desk.come(changed.encode(), source="lab")
        wait_for(lambda: bool(where.outbox.load(name).skipped), what="the message that is set aside")
        desk.come(text("2").replace(b"P1^", b"P2^"), text("3", kind="ADT^A31"))
        wait_for(lambda: len(taker.messages) == 5, what="what follows")
        assert [parse(each).text("PID", 3) for each in taker.messages] == ["P1", "P1", "P1", "P2", "P1"]
        (skipped,) = where.outbox.load(name).skipped
        assert "more than 3 times in 60 minutes" in skipped.error and "rg" not in skipped.error
        where.outbox.resend(name)
        wait_for(lambda: len(taker.messages) == 6, what="the message that a person wants to be sent")
        wait_for(lambda: not where.outbox.load(name).skipped, what="nothing is set aside")
        assert where.engine.metrics.counters["hl7_messages_circling"] == 1
        desk.journal.close()


def test_the_same_content_is_usual_some_times_an_hour_and_again_for_the_same_number() -> None:
    repetitions = Repetitions(2)
    assert [repetitions.is_usual(number, 0.0, [b"a"]) for number in (1, 2, 3, 3, 1)] == [True, True, False, True, True]
    assert repetitions.is_usual(4, 0.0, [b"b"]), "another content"
    assert not repetitions.is_usual(5, WINDOW_S - 1, [b"a"])
    assert repetitions.is_usual(6, WINDOW_S + WINDOW_S, [b"a"])


def test_contents_that_came_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repetition, "NUMBERS_MAX", 10)
    repetitions = Repetitions(1)
    for number in range(100):
        assert repetitions.is_usual(number, 0.0, [b"%d" % number])
    assert repetitions.is_usual(100, 0.0, [b"0"]) and not repetitions.is_usual(101, 0.0, [b"99"])


def test_a_page_ends_before_what_waits_and_passes_over_any_number_of_refused_ones(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        desk = Desk(archive)
        source = MessageRows(messages.history_of(archive), lambda: None, lambda row: True)  # type: ignore[arg-type,return-value]
        assert (source.newest(), source.read("0").is_end) == ("0", True)
        for number in range(500):
            desk.take(text(str(number)), fault=Fault(101, "no"))
        page = source.read("0")
        assert (page.units, page.cursor, page.is_end) == ([], "0", True)
        desk.come(text("a"))
        waiting = desk.take(text("b"))
        page = source.read("0")
        assert [(unit.content.number, unit.after) for unit in page.units] == [(501, "501")]
        assert source.read(page.cursor).is_end and source.newest() == "502"
        desk.apply(waiting)
        assert [unit.before for unit in source.read(page.cursor).units] == ["501"]
        with pytest.raises(CursorRefused):
            source.read("5bd5b9e9-1")
        source.close()
        desk.journal.close()


def test_a_header_changes_and_nothing_else() -> None:
    data = text("1").replace(b"20261130101500", "20261130|\u00e4".encode("iso8859-1"))
    changed = with_header(parse(data), {3: "A|B", 4: "\u03a9", 20: "x"})
    assert changed.partition(b"\r")[2] == data.partition(b"\r")[2]
    header = parse(changed).header
    assert (header.text(3), header.text(4), header.text(10), header.raw(20)) == ("A|B", "?", "ADT", "x")
    assert "|\u00e4|".encode("iso8859-1") in changed
    raw = b"MSH|^~\\&|\xff\xe4|ST\rPID|1\r"
    broken = Message(raw, "utf_8", STANDARD, ["MSH|^~\\&|?|ST", "PID|1"])
    with pytest.raises(MessageUnreadable):
        with_header(broken, {3: "X"})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"after": "study_quiet"}, "forward is possible after message"),
        ({"action": "hl7", "after": "study_quiet", "kinds": ("ADT",)}, "are for forward"),
        ({"action": "hl7", "after": "study_quiet", "repeats_max": 0}, "are for forward"),
        ({"keys": {"Modality": "CT"}}, "chosen by kinds and sources"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Rule(**{"name": "x", "after": "message", "action": "forward", "to": ("ris",), **fields})


@pytest.mark.parametrize(("kind", "is_one"), [("ADT", True), ("ADT^A08", True), ("adt", False), ("ADT^", False)])
def test_the_kinds_of_a_rule_are_written_as_in_a_header(kind: str, is_one: bool) -> None:
    table = {"name": "x", "after": "message", "action": "forward", "to": ["ris"], "kinds": [kind]}
    with nullcontext() if is_one else pytest.raises(msgspec.ValidationError, match="kinds"):
        assert msgspec.convert(table, Rule).kinds == (kind,)


def test_a_rule_names_sources_and_destinations_that_there_are(taker: Taker) -> None:
    with pytest.raises(ValueError, match="no .*hl7_source"):
        Config(rules=(rule(sources=("nobody",)),), hl7_destinations=(destination(taker),))
    with pytest.raises(ValueError, match="no .*hl7_destination"):
        Config(rules=(rule(),))
