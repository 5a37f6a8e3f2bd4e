"""A message that is acknowledged is in the journal; what it says is applied once, and in order."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.errors import HL7SendFailed, JournalError, OrdersError, UpdateRefused
from engine.hl7 import Message, framed
from engine.hl7.settings import Hl7, Hl7Source
from engine.journal import History, Result, Row
from engine.mapping import Mapped
from engine.messaging import applier, listener, reception
from engine.messaging.client import Client
from engine.orders.values import Applied, Change, ChangeKind, PatientUpdate, ReportUpdate
from engine.storage.files import Files
from tests.certificates import self_signed
from tests.hl7.samples import ADT_A08, ORM_O01, lines
from tests.messaging.hosting import Host, Registry, hosted


def adt(control_id: str, patient: str = "1", *, mode: str = "", more: str = "", application: str = "KIS") -> bytes:
    head = f"MSH|^~\\&|{application}|ST|FILMROOM|RAD|20261130101500||ADT^A31|{control_id}|P|2.5.1|||{mode}"
    return lines(head, f"PID|1||{patient}^^^HOSP||{more}")


def run(folder: Path, test: Callable[[Host], Awaitable[None]], *sources: Hl7Source, **more: object) -> None:
    async def main() -> None:
        async with hosted(folder, *sources, **more) as host:  # type: ignore[arg-type]
            await test(host)

    asyncio.run(main())


def rows(folder: Path) -> list[Row]:
    history = History(str(folder / "journal"), Files())
    try:
        return list(history.rows())[::-1]
    finally:
        history.close()


def test_messages_of_a_connection_are_answered_and_applied_in_their_order(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(b"".join(framed(adt(str(number), str(number))) for number in range(200)))
        for number in range(200):
            answer = await peer.answer()
            assert answer is not None and (answer.text("MSA", 1), answer.text("MSA", 2)) == ("AA", str(number))
        await host.until(lambda: not host.journal.waiting)
        assert [value.identifiers[0].value for value, _ in host.registry.applied] == [str(n) for n in range(200)]  # type: ignore[union-attr]

    run(tmp_path, test)
    found = rows(tmp_path)
    assert [row.number for row in found] == list(range(1, 201))
    assert {row.outcome.result for row in found if row.outcome} == {Result.APPLIED}
    assert found[0].outcome is not None and found[0].outcome.changes == ("patient 1 changed",)


def test_an_answer_waits_until_the_message_is_on_stable_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(host: Host) -> None:
        synced: list[int] = []
        release = asyncio.Event()
        original = host.listener.reception._commit.submit  # type: ignore[attr-defined]

        def submit(number: int, done: object) -> None:
            async def later() -> None:
                await release.wait()
                synced.append(number)
                original(number, done)

            tasks.append(asyncio.ensure_future(later()))

        tasks: list[asyncio.Future[None]] = []
        monkeypatch.setattr(host.listener.reception._commit, "submit", submit)  # type: ignore[attr-defined]
        peer = await host.connect()
        peer.write(framed(adt("1")))
        await host.until(lambda: host.journal.last_number == 1)
        waiting = asyncio.ensure_future(peer.answer())
        await asyncio.sleep(0)
        assert not waiting.done() and not host.registry.applied, "nothing is answered or applied before the sync"
        release.set()
        answer = await waiting
        assert answer is not None and synced == [1]

    run(tmp_path, test)


def test_a_message_that_comes_again_is_answered_the_same_and_applied_once(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        raws = []
        for _ in range(3):
            peer.write(framed(adt("1")))
            answer = await peer.answer()
            assert answer is not None
            raws.append(answer.raw)
        assert len(set(raws)) == 1
        other = await host.connect()
        other.write(framed(adt("1", "2")))
        assert await other.code() == "AA"
        await host.until(lambda: not host.journal.waiting)
        assert len(host.registry.applied) == 2
        assert (host.counters["duplicates"], host.counters["reused_control_ids"]) == (2, 1)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("application", "is_known", "expected"),
    [
        ("KIS", True, "adt"),
        ("KIS", False, "hl7:KIS ST"),
        ("http:admin", False, "hl7:http:admin ST"),
        ("cli:root\\X1B\\[2J\\X0D0A\\ x", False, "hl7:cli:root [2J x ST"),
    ],
)
def test_who_has_sent_is_the_source_or_what_the_message_says(
    tmp_path: Path, application: str, is_known: bool, expected: str
) -> None:
    """Nobody becomes a person of ours by it."""

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1", application=application)))
        assert await peer.code() == "AA"
        await host.until(lambda: len(host.registry.applied) == 1)
        ((_, source),) = host.registry.applied
        assert (source.name, source.who) == ("adt" if is_known else "unknown", expected)

    run(tmp_path, test, *([Hl7Source(name="adt", application="KIS")] if is_known else []))


def test_what_is_refused_is_kept_and_not_applied(tmp_path: Path) -> None:
    cases = [
        (lines("MSH|^~\\&|KIS|ST|F|R|2026||ADT^A31|2|P|2.5.1", "PID|1||"), "AE", "101"),
        (lines("MSH|^~\\&|KIS|ST|F|R|2026||ADT^Q99|3|P|2.5.1", "PID|1||1"), "AR", "201"),
        (lines("MSH|^~\\&|KIS|ST|F|R|2026||MDM^T02|4|P|2.5.1", "PID|1||1"), "AR", "200"),
        (lines("MSH|^~\\&|KIS|ST|F|R|2026||ADT^A31|5|T|2.5.1", "PID|1||1"), "AR", "202"),
        (lines("MSH|^~\\&|KIS|ST|F|R|2026||ADT^A31|6|P|3.0", "PID|1||1"), "AR", "203"),
        (lines("MSH|^~\\&|KIS|ST|F|R|2026||ADT^A31|7|P|2.5.1", "PID|1||1") * 2, "AE", "100"),
        (b"hello", "AR", ""),
    ]

    async def test(host: Host) -> None:
        peer = await host.connect()
        for data, code, condition in cases:
            peer.write(framed(data))
            answer = await peer.answer()
            assert answer is not None and answer.text("MSA", 1) == code
            error = answer.first("ERR")
            assert (error.text(3) if error is not None else "") == (condition if answer.version >= "2.5" else "")
        assert not host.journal.waiting and not host.registry.applied

    run(tmp_path, test)
    assert [row.received.fault is not None for row in rows(tmp_path)] == [True] * len(cases)


def test_a_cut_message_is_kept_and_not_answered(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(b"\x0b" + adt("1")[:-5])
        peer.end()
        assert await peer.answer() is None
        await host.until(lambda: host.journal.last_number == 1)
        assert not host.journal.waiting

    run(tmp_path, test)
    (row,) = rows(tmp_path)
    assert row.received.fault is not None and "cut off" in row.received.fault.text and row.received.control_id == "1"


def test_a_block_without_its_last_byte_counts_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE_S", 0.02)

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1"))[:-1])
        assert await peer.code() == "AA"

    run(tmp_path, test)
    assert rows(tmp_path)[0].received.oddities == ("ends with 1C alone",)


def test_a_sender_that_closes_its_side_still_gets_its_answer(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1")))
        peer.end()
        assert await peer.code() == "AA"
        assert await peer.answer() is None

    run(tmp_path, test)


def test_the_enhanced_mode_answers_first_that_it_is_kept_and_then_what_it_did(tmp_path: Path) -> None:
    registry = Registry()
    registry.refuse = lambda value: UpdateRefused("no", "unknown-key") if _patient(value) == "9" else None

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1", mode="AL|AL")))
        assert [await peer.code(), await peer.code()] == ["CA", "AA"]
        peer.write(framed(adt("2", "9", mode="AL|ER")))
        assert [await peer.code(), await peer.code()] == ["CA", "AE"]
        peer.write(framed(adt("3", mode="NE|AL")))
        assert await peer.code() == "AA"
        peer.write(framed(adt("4", mode="AL|NE")))
        assert await peer.code() == "CA"

    run(tmp_path, test, registry=registry)


def _patient(value: object) -> str:
    return value.identifiers[0].value if isinstance(value, PatientUpdate) else ""


def test_a_source_may_be_answered_when_its_message_is_applied(tmp_path: Path) -> None:
    registry = Registry()
    registry.refuse = lambda value: UpdateRefused("exists", "duplicate-key") if _patient(value) == "9" else None

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1")) + framed(adt("2", "9")) + framed(adt("3")))
        first, second, third = await peer.answer(), await peer.answer(), await peer.answer()
        assert first is not None and second is not None and third is not None
        assert [each.text("MSA", 1) for each in (first, second, third)] == ["AA", "AE", "AA"]
        assert second.first("ERR").text(3) == "205"  # type: ignore[union-attr]
        assert host.registry.references == ["hl7:1", "hl7:3"]

    run(tmp_path, test, Hl7Source(name="kis", ack="applied"), registry=registry)
    assert [row.outcome and row.outcome.result for row in rows(tmp_path)] == [
        Result.APPLIED, Result.REFUSED, Result.APPLIED,
    ]  # fmt: skip


def test_a_message_that_was_refused_is_refused_again_also_after_a_start(tmp_path: Path) -> None:
    source = Hl7Source(name="kis", ack="applied")
    registry = Registry()
    registry.refuse = lambda value: UpdateRefused("exists", "duplicate-key") if _patient(value) == "9" else None

    async def first(host: Host) -> None:
        peers = [await host.connect() for _ in range(2)]
        for peer in peers:
            peer.write(framed(adt("1", "9")) + framed(adt("2")))
        for peer in peers:
            assert [await peer.code(), await peer.code()] == ["AE", "AA"]
        assert host.counters["duplicates"] == 2 and len(registry.applied) == 1

    async def second(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1", "9")) + framed(adt("2")))
        assert [await peer.code(), await peer.code()] == ["AE", "AA"]
        assert not host.registry.applied

    run(tmp_path, first, source, registry=registry)
    run(tmp_path, second, source)


def test_nothing_is_passed_over_while_the_registry_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "PAUSE_S", 0.01)
    registry = Registry()
    registry.failures = [OrdersError("busy"), OrdersError("busy")]

    async def test(host: Host) -> None:
        peer = await host.connect()
        for number in range(3):
            peer.write(framed(adt(str(number), str(number))))
            assert await peer.code() == "AA"
        await host.until(lambda: not host.journal.waiting)
        assert host.counters["apply_retries"] == 2 and not host.applier.stalled
        assert registry.references == ["hl7:1", "hl7:2", "hl7:3"]

    run(tmp_path, test, registry=registry)


def test_a_message_that_a_defect_keeps_from_being_applied_does_not_keep_others(tmp_path: Path) -> None:
    def refuse(value: object) -> UpdateRefused | None:
        if _patient(value) == "9":
            raise ValueError("Muster^Max")
        return None

    registry = Registry()
    registry.refuse = refuse  # type: ignore[assignment]

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(b"".join(framed(adt(str(number), str(number))) for number in range(8, 11)))
        assert [await peer.code() for _ in range(3)] == ["AA", "AE", "AA"]

    run(tmp_path, test, Hl7Source(name="kis", ack="applied"), registry=registry)
    assert [row.outcome and row.outcome.result for row in rows(tmp_path)] == [
        Result.APPLIED, Result.FAILED, Result.APPLIED,
    ]  # fmt: skip


def test_a_message_that_a_defect_keeps_from_being_mapped_is_taken_and_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = applier.apply

    def broken(message: Message, *more: object) -> Mapped:
        if message.control_id == "2":
            raise ValueError("Muster^Max")
        return whole(message, *more)  # type: ignore[arg-type]

    async def test(host: Host) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(applier, "apply", broken)
            patch.setattr(reception, "apply", broken)
            peer = await host.connect()
            for number in range(1, 4):
                peer.write(framed(adt(str(number))))
                assert await peer.code() == "AA"
            await host.until(lambda: not host.journal.waiting)
        assert host.registry.references == ["hl7:1", "hl7:3"] and host.counters["failed"] == 1
        assert (await host.applier.replay(2)).result is Result.APPLIED

    run(tmp_path, test)


def test_long_messages_are_applied_in_small_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "GROUP_BYTES_MAX", 3000)
    groups: list[int] = []

    class Counting(Registry):
        def apply_all(self, values: object) -> list[object]:  # type: ignore[override]
            groups.append(len(values))  # type: ignore[arg-type]
            return super().apply_all(values)  # type: ignore[arg-type, return-value]

    async def test(host: Host) -> None:
        peer = await host.connect()
        texts = ["x" * 1000] * 5 + ["x" * 9000] * 2
        peer.write(b"".join(framed(adt(str(number), more=text)) for number, text in enumerate(texts)))
        assert [await peer.code() for _ in texts] == ["AA"] * len(texts)
        await host.until(lambda: not host.journal.waiting)

    run(tmp_path, test, registry=Counting())
    assert sum(groups) == 7 and max(groups) <= 2


def test_more_notes_than_the_journal_can_keep_are_cut(tmp_path: Path) -> None:
    class Talkative(Registry):
        def apply_all(self, values: object) -> list[object]:  # type: ignore[override]
            changes = tuple(Change(ChangeKind.STEP, str(number), "changed") for number in range(100_000))
            return [Applied(changes, tuple(f"warning {number}" for number in range(100_000)))]

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1")))
        assert await peer.code() == "AA"
        await host.until(lambda: not host.journal.waiting)

    run(tmp_path, test, registry=Talkative())
    (row,) = rows(tmp_path)
    assert row.outcome is not None and row.outcome.result is Result.APPLIED
    for notes in (row.outcome.changes, row.outcome.warnings):
        assert 1000 < len(notes) < 100_000
        assert notes[-1] == f"… {100_001 - len(notes)} more"


def test_what_comes_while_answers_wait_waits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "ANSWERS_MAX", 4)
    go_on = threading.Event()

    class Slow(Registry):
        def apply_all(self, values: object) -> list[object]:  # type: ignore[override]
            assert go_on.wait(60)
            return super().apply_all(values)  # type: ignore[arg-type, return-value]

    messages = [framed(adt(str(number))) for number in range(100)]
    # Without 0B it would end at the next pause of the sender: but we are who pauses.
    last = adt("100")

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(b"".join(messages) + last)
        await host.until(lambda: host.counters["blocks"] == 4)
        (connection,) = host.listener._connections
        await host.until(lambda: not connection._is_reading)
        connection.look(time.monotonic() + 1000)
        assert host.counters["blocks"] == 4 and not connection.is_closing
        go_on.set()
        assert [await peer.code() for _ in range(100)] == ["AA"] * 100
        connection.look(time.monotonic() + 2)
        assert await peer.code() == "AA"

    run(tmp_path, test, Hl7Source(name="kis", ack="applied"), registry=Slow())


def test_a_start_applies_what_waits(tmp_path: Path) -> None:
    class Broken(Registry):
        def apply_all(self, values: object) -> list[object]:  # type: ignore[override]
            raise OrdersError("closed")

    async def first(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(ADT_A08) + framed(ORM_O01))
        assert [await peer.code(), await peer.code()] == ["CA", "AA"]

    async def second(host: Host) -> None:
        await host.until(lambda: not host.journal.waiting)
        assert host.registry.references == ["hl7:1", "hl7:2"]

    run(tmp_path, first, registry=Broken())
    run(tmp_path, second)


def test_a_replay_applies_a_message_again(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1")))
        assert await peer.code() == "AA"
        await host.until(lambda: not host.journal.waiting)
        outcome = await host.applier.replay(1)
        assert outcome.is_replay and outcome.result is Result.APPLIED and len(host.registry.applied) == 2

    run(tmp_path, test)


def test_a_replay_refuses_what_no_configuration_takes(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        shifted = lines("MSH|^~\\&|KIS|ST|F|R|2026||Doe^Jane|3|P|2.5.1", "PID|1||1")
        for data in (b"hello", adt("2").replace(b"|P|", b"|T|"), shifted):
            peer.write(framed(data))
            assert await peer.code() == "AR"
        peer.write(b"\x0b" + adt("4")[:-5])
        peer.end()
        await host.until(lambda: host.journal.last_number == 4)
        outcomes = [await host.applier.replay(number) for number in (1, 2, 3)]
        assert {outcome.result for outcome in outcomes} == {Result.REFUSED}
        assert [outcome.fault.code for outcome in outcomes if outcome.fault] == [100, 202, 200]
        assert all(outcome.fault and "Jane" not in outcome.fault.text for outcome in outcomes)
        with pytest.raises(JournalError, match="cut off"):
            await host.applier.replay(4)
        assert not host.registry.applied

    run(tmp_path, test)


def test_documents_of_reports_are_stored_before_the_report_is_applied(tmp_path: Path) -> None:
    registry = Registry()
    registry.failures = [OrdersError("no room")]
    report = lines(
        "MSH|^~\\&|RIS|ST|F|R|20261130||ORU^R01|1|P|2.5.1", "PID|1||1^^^HOSP", "OBR|1|P1|F1|X", "OBX|1|TX|1||Befund"
    )

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(report))
        assert await peer.code() == "AA"
        await host.until(lambda: not host.journal.waiting)
        assert [document.data for document in registry.documents] == [b"Befund"]
        ((value, _),) = registry.applied
        assert isinstance(value, ReportUpdate) and value.sop_instance_uid == "1.2.3.1"
        assert host.counters["apply_retries"] == 1

    run(tmp_path, test, registry=registry)


def test_sources_are_told_apart_by_application_and_have_their_own_settings(tmp_path: Path) -> None:
    sources = (
        Hl7Source(name="old", application="OLD", charset="cp1251", authorities=("HOSP",)),
        Hl7Source(name="trial", application="TRIAL", testing=True, profile="ihe-2.3.1"),
    )

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1", application="OLD").replace(b"HOSP||", b"HOSP||" + "Иванов".encode("cp1251"))))
        peer.write(framed(adt("2", application="OLD").replace(b"^^^HOSP", b"^^^ELSE")))
        peer.write(framed(adt("3", application="TRIAL").replace(b"|P|2.5.1", b"|T|2.5.1")))
        peer.write(framed(adt("4", application="OTHER")))
        assert [await peer.code() for _ in range(4)] == ["AA", "AE", "AA", "AE"]
        await host.until(lambda: not host.journal.waiting)
        assert host.registry.applied[0][0].attributes == {"PatientName": "Иванов"}  # type: ignore[union-attr]

    run(tmp_path, test, *sources, settings=Hl7(accept_unknown_sources=False))
    assert [row.received.source for row in rows(tmp_path)] == ["old", "old", "trial", ""]


def test_nobody_else_is_let_in(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1")))
        assert await peer.answer() is None
        assert host.counters["connections_refused"] == 1 and host.journal.last_number == 0

    run(tmp_path, test, Hl7Source(name="far", hosts=("10.0.0.0/8",)), settings=Hl7(accept_unknown_sources=False))


def test_limits_hold(tmp_path: Path) -> None:
    settings = Hl7(message_bytes_max=2000, connections_max=2, memory_bytes_max=1 << 20)

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(b"\x0b" + adt("1") + b"x" * 4000)
        assert await peer.code() == "AR"
        assert await peer.answer() is None
        await host.until(lambda: host.listener.connections_count == 0)
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n" + framed(adt("1"))):
            web = await host.connect()
            web.write(data)
            assert await web.answer() is None
        await host.until(lambda: host.listener.connections_count == 0)
        first, second = await host.connect(), await host.connect()
        await host.until(lambda: host.listener.connections_count == 2)
        third = await host.connect()
        assert await third.answer() is None
        first.write(framed(adt("2")))
        second.write(framed(adt("3")))
        assert [await first.code(), await second.code()] == ["AA", "AA"]
        assert host.journal.last_number == 2

    run(tmp_path, test, settings=settings)


def test_a_message_that_comes_byte_by_byte_ends_in_time_unless_it_is_only_long(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        now = time.monotonic()
        for byte_count, is_given_up in ((1, True), (300_000, False)):
            peer = await host.connect()
            peer.write(b"\x0bMSH|^~")
            await host.until(lambda: host.listener.held_bytes > 0)
            (connection,) = host.listener._connections
            connection.look(now)
            before = host.listener.held_bytes
            peer.write(b"x" * byte_count)
            await host.until(lambda before=before, count=byte_count: host.listener.held_bytes == before + count)
            connection.heard_at = now + 999.5  # a byte came a moment ago
            connection.look(now + 1000)
            assert connection.is_closing is is_given_up
            peer.close()
            await host.until(lambda: host.listener.connections_count == 0)

    run(tmp_path, test)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_handshakes_count_as_connections(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    async def test(host: Host) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await host.listener.listen(sock, lambda: server)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        await host.until(lambda: host.counters["connections_refused"] == 2)
        assert host.listener.connections_count == 0
        for _, writer in silent:
            writer.close()
        code = ""
        async with asyncio.timeout(60):
            while not code:  # until the server has seen that they are closed
                try:
                    async with Client("127.0.0.1", port, context=client) as it:
                        code = (await it.send(adt("1"))).code
                except HL7SendFailed:
                    await asyncio.sleep(0.01)
        assert code == "AA"

    run(tmp_path, test, settings=Hl7(connections_per_address_max=3))


def test_too_many_waiting_messages_are_not_answered(tmp_path: Path) -> None:
    class Slow(Registry):
        def apply_all(self, values: object) -> list[object]:  # type: ignore[override]
            raise OrdersError("closed")

    async def test(host: Host) -> None:
        peer = await host.connect()
        peer.write(framed(adt("1")))
        assert await peer.code() == "AA"
        peer.write(framed(adt("2")))
        assert await peer.answer() is None
        assert host.journal.last_number == 1

    run(tmp_path, test, registry=Slow(), settings=Hl7(waiting_max=1))


def test_a_drain_answers_what_has_come(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        idle, busy = await host.connect(), await host.connect()
        await host.until(lambda: host.listener.connections_count == 2)
        busy.write(framed(adt("1")))
        await host.until(lambda: host.counters["blocks"] == 1)
        host.listener.start_draining()
        assert await idle.answer() is None
        assert await busy.code() == "AA"
        await host.until(lambda: host.listener.connections_count == 0)

    run(tmp_path, test)
