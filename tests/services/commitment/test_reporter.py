"""The reporter against a scripted peer: roles, back-off, what a failed visit leaves, and when it gives up."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.archive import layout, locks
from engine.archive.commitment.transactions import Attempts, Transaction, Transactions
from engine.config import Commitment, Config
from engine.config import Peer as KnownPeer
from engine.services.commitment import reporter as commitment_reporter
from engine.services.commitment.commitments import Commitments
from engine.services.commitment.reporter import Reporter
from engine.storage.files import Files
from tests import peer, samples
from tests.archive import kept
from tests.faulty_files import FaultyFiles
from tests.peer import Listener, Peer
from tests.services.commitment.test_scp import CLASS, EVENT_TYPE, N_EVENT_REPORT_RQ, expect_report, waiting
from tests.services.serving import LIMITS, Serving, serve
from tests.system.server import wait_for


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment_reporter, "CHECK_S", 0.02)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An archive with one instance."""
    kept.filled(tmp_path / "data", 1)
    return tmp_path / "data"


def ask(data: Path, *numbers: int, received_ns: int = 0, title: str = "MODALITY") -> list[str]:
    """Leaves requests for the stored instance, as a process that died would have; their identifiers."""
    identifiers = []
    for number in numbers:
        when_ns = received_ns or time.time_ns() + number
        transaction = Transaction.of(f"1.9.{number}", title, when_ns, [(samples.CT, kept.uid_of(0))])
        with Transactions(data, FaultyFiles()).add(transaction, count_max=99, reserve_bytes=0) as claim:
            identifiers.append(claim.identifier)
    return identifiers


def configured(data: Path, port: int, timeout_s: float = 60.0, **commitment: object) -> Config:
    options = {"retry_s": 0.05, "retry_s_max": 0.1, **commitment}
    modality = KnownPeer(aet="MODALITY", host="127.0.0.1", port=port, timeout_s=timeout_s)
    return Config(data=data, limits=LIMITS, peers=(modality,) if port else (), commitment=Commitment(**options))  # type: ignore[arg-type]


def reporting(data: Path, config: Config, script: Callable[[Serving], None]) -> None:
    """Runs a script while a worker reports."""

    def start(serving: Serving) -> None:
        reporter = Reporter(serving.services.commitments)
        serving.services.engine.loop.call_soon_threadsafe(reporter.start)
        script(serving)

    serve(data, start, config=config)


def take(scripted: Peer, status: int = 0) -> str:
    """Answers a report, which comes on context 1 in Implicit VR; the transaction that it is about."""
    report = expect_report(scripted)
    assert (report.context_id, peer.number(report.command, EVENT_TYPE)) == (1, 1)
    assert report.data_set is not None
    at = report.data_set.index(struct.pack("<HH", 0x0008, 0x1195))
    (length,) = struct.unpack_from("<I", report.data_set, at + 4)
    command = {
        peer.SOP_CLASS: CLASS,
        peer.COMMAND_FIELD: N_EVENT_REPORT_RQ | peer.RESPONSE,
        peer.RESPONDED_TO: peer.number(report.command, peer.MESSAGE_ID),
        peer.DATA_SET_TYPE: peer.NO_DATA_SET,
        peer.STATUS: status,
    }
    scripted.send(peer.message(1, peer.command_set(command)))
    return report.data_set[at + 8 : at + 8 + length].rstrip(b"\0").decode()


def accept(listener: Listener, **options: object) -> Peer:
    """The next association, accepted in Implicit VR."""
    scripted = listener.accept()
    assert scripted.accept(transfer_syntaxes=[peer.IMPLICIT], **options) == {1: (CLASS, peer.IMPLICIT)}  # type: ignore[arg-type]
    return scripted


def end(scripted: Peer) -> None:
    """The reporter's orderly end."""
    scripted.expect(peer.RELEASE_RQ)
    scripted.send(peer.pdu(peer.RELEASE_RP, bytes(4)))
    scripted.expect_closed()
    scripted.close()


@pytest.mark.parametrize("agrees", [True, None], ids=["agrees", "says nothing"])
def test_all_due_reports_go_to_a_peer_on_one_association_as_scp(data: Path, agrees: bool | None) -> None:
    with Listener() as listener:
        ask(data, 1, 2, 3)

        def script(serving: Serving) -> None:
            scripted = listener.accept()
            rq = scripted.receive()
            assert rq is not None
            uid = CLASS.encode()
            assert peer.item(0x54, struct.pack(">H", len(uid)) + uid + b"\0\1") in rq[1], "SCP and no SCU"
            scripted._buffer[:0] = struct.pack(">BBI", rq[0], 0, len(rq[1])) + rq[1]
            roles = peer.role(CLASS, scu=False, scp=True) if agrees else b""
            scripted.accept(transfer_syntaxes=[peer.IMPLICIT], user_items=roles)
            assert [take(scripted) for _ in range(3)] == ["1.9.1", "1.9.2", "1.9.3"], "the oldest first"
            end(scripted)
            wait_for(lambda: waiting(data) == 0)

        reporting(data, configured(data, listener.port), script)


def test_a_peer_that_rejects_our_scp_role_gets_nothing_and_is_retried(data: Path) -> None:
    with Listener() as listener:
        ask(data, 1)

        def script(serving: Serving) -> None:
            refusing = accept(listener, user_items=peer.role(CLASS, scu=True, scp=False))
            end(refusing)
            agreeing = accept(listener, user_items=peer.role(CLASS, scu=False, scp=True))
            assert take(agreeing) == "1.9.1"
            end(agreeing)
            wait_for(lambda: waiting(data) == 0)

        reporting(data, configured(data, listener.port), script)


def test_a_refused_report_waits_and_the_others_are_delivered(data: Path) -> None:
    with Listener() as listener:
        _, second, _ = ask(data, 1, 2, 3)

        def script(serving: Serving) -> None:
            scripted = accept(listener)
            assert [take(scripted, status) for status in (0, 0x0110, 0)] == ["1.9.1", "1.9.2", "1.9.3"]
            end(scripted)
            again = accept(listener)
            assert list(Transactions(data, FaultyFiles()).headings()) == [second]
            attempts = Transactions(data, FaultyFiles()).load_attempts()[second]
            assert (attempts.count, attempts.is_refused) == (1, True)
            assert "0110" in attempts.error
            assert take(again) == "1.9.2"
            end(again)
            wait_for(lambda: waiting(data) == 0)

        reporting(data, configured(data, listener.port), script)


@pytest.mark.parametrize("ending", ["cut", "rejected", "silent"])
def test_a_failed_attempt_keeps_undelivered_reports_and_backs_off(data: Path, ending: str) -> None:
    with Listener() as listener:
        first, second = ask(data, 1, 2)

        def script(serving: Serving) -> None:
            if ending == "rejected":
                scripted = listener.accept()
                scripted.expect(peer.ASSOCIATE_RQ)
                scripted.send(peer.pdu(peer.ASSOCIATE_RJ, b"\0\2\3\2"))
                scripted.wait_closed()
            else:
                scripted = accept(listener)
                assert take(scripted) == "1.9.1"
                expect_report(scripted)
                if ending == "silent":
                    scripted.expect_abort()
                scripted.cut()
            again = accept(listener)
            attempts = Transactions(data, FaultyFiles()).load_attempts()
            assert {name: each.count for name, each in attempts.items()} == (
                {first: 1, second: 1} if ending == "rejected" else {second: 1}
            )
            if ending == "rejected":
                assert take(again) == "1.9.1"
            assert take(again) == "1.9.2"
            end(again)
            wait_for(lambda: waiting(data) == 0)

        reporting(data, configured(data, listener.port, timeout_s=2.0 if ending == "silent" else 60.0), script)


def test_an_unexpected_error_ends_neither_the_reporter_nor_the_report(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings, judge = Transactions.headings, Commitments.verdicts
    mistakes = [KeyError("looking"), KeyError("judging")]

    def headings_once_wrong(self: Transactions) -> object:
        if len(mistakes) == 2:
            raise mistakes.pop(0)
        return headings(self)

    async def verdicts_once_wrong(self: Commitments, *arguments: object) -> object:
        if mistakes:
            raise mistakes.pop()
        return await judge(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Transactions, "headings", headings_once_wrong)
    monkeypatch.setattr(Commitments, "verdicts", verdicts_once_wrong)
    with Listener() as listener:
        ask(data, 1)

        def script(serving: Serving) -> None:
            scripted = accept(listener)
            assert take(scripted) == "1.9.1"
            end(scripted)
            wait_for(lambda: waiting(data) == 0)

        reporting(data, configured(data, listener.port), script)
    assert not mistakes


def test_without_an_address_it_waits_with_a_warning_until_a_retry(data: Path) -> None:
    (identifier,) = ask(data, 1)

    def script(serving: Serving) -> None:
        transactions = Transactions(data, FaultyFiles())
        wait_for(lambda: identifier in transactions.load_attempts())
        assert "no [[peer]] MODALITY" in transactions.load_attempts()[identifier].error
        with Listener() as listener:
            serving.services.engine.config = configured(data, listener.port, retry_s=3600.0, retry_s_max=3600.0)
            transactions.ask_retry(identifier)
            scripted = accept(listener)
            assert take(scripted) == "1.9.1"
            end(scripted)
        wait_for(lambda: waiting(data) == 0)

    reporting(data, configured(data, 0, retry_s=3600.0, retry_s_max=3600.0), script)


def test_undeliverable_reports_are_given_up_in_the_end(data: Path) -> None:
    ask(data, 1, received_ns=1)

    def script(serving: Serving) -> None:
        wait_for(lambda: waiting(data) == 0)
        wait_for(lambda: serving.services.engine.metrics.counters["commitment_reports_given_up"] == 1)

    reporting(data, configured(data, 0), script)


def test_clock_jumps_neither_give_up_reports_nor_delay_them(data: Path) -> None:
    (identifier,) = ask(data, 1, received_ns=1)
    far_ns = time.time_ns() + 365 * 86400 * 10**9
    Transactions(data, FaultyFiles()).save_attempts({identifier: Attempts(3, far_ns, "not there")})
    with Listener() as listener:

        def script(serving: Serving) -> None:
            scripted = accept(listener)
            assert take(scripted) == "1.9.1"
            end(scripted)
            wait_for(lambda: waiting(data) == 0)
            assert not serving.services.engine.metrics.counters["commitment_reports_given_up"]

        reporting(data, configured(data, listener.port), script)


def test_only_one_process_reports(data: Path) -> None:
    ask(data, 1)
    with Listener() as listener, ExitStack() as held:
        held.enter_context(locks.commitments(layout.existing(data), Files()))

        def script(serving: Serving) -> None:
            assert not select.select([listener._socket], [], [], 0.3)[0], "two report"
            held.close()
            scripted = accept(listener)
            assert take(scripted) == "1.9.1"
            end(scripted)
            wait_for(lambda: waiting(data) == 0)

        reporting(data, configured(data, listener.port), script)


def test_a_damaged_report_is_kept_and_does_not_block_others(data: Path) -> None:
    with Listener() as listener:
        damaged, _ = ask(data, 1, 2)
        (data / "commitments" / f"{damaged}.json").write_bytes(b"{}")

        def script(serving: Serving) -> None:
            scripted = accept(listener)
            assert take(scripted) == "1.9.2"
            end(scripted)
            wait_for(lambda: waiting(data) == 1)

        reporting(data, configured(data, listener.port), script)


def test_a_request_that_cannot_be_checked_does_not_block_the_others(data: Path) -> None:
    first = ask(data, 1, 2)[0]
    path = data / "commitments" / f"{first}.json"
    with Listener() as listener:

        def script(serving: Serving) -> None:
            # Read once, as by a worker that has served for a while; then the disk forgets.
            serving.services.commitments.transactions.headings()
            path.write_bytes(path.read_bytes()[:-9])
            serving.services.engine.loop.call_soon_threadsafe(Reporter(serving.services.commitments).start)
            scripted = accept(listener)
            assert take(scripted) == "1.9.2"
            end(scripted)
            wait_for(lambda: list(Transactions(data, FaultyFiles()).headings()) == [first])
            wait_for(lambda: first in Transactions(data, FaultyFiles()).load_attempts())
            assert "damaged" in Transactions(data, FaultyFiles()).load_attempts()[first].error

        serve(data, script, config=configured(data, listener.port, retry_s=3600.0, retry_s_max=3600.0))
