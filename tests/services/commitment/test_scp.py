"""Storage commitment on scripted associations: when answers and reports go out, and what becomes of them."""

from __future__ import annotations

import errno
import struct
import threading
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.commitment.transactions import Transaction, Transactions
from engine.config import Commitment, Config, Limits
from engine.config import Peer as KnownPeer
from engine.services.commitment import commitments
from tests import peer, samples
from tests.faulty_files import FaultyFiles
from tests.peer import CT, EXPLICIT, IMPLICIT, Peer
from tests.services.serving import LIMITS, Serving, serve
from tests.services.test_storage_scp import STORE, ct, store
from tests.system.server import wait_for

CLASS, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
ASK = (3, CLASS, [IMPLICIT])
N_ACTION_RQ, N_EVENT_REPORT_RQ = 0x0130, 0x0100
REQUESTED_CLASS, REQUESTED_INSTANCE, ACTION_TYPE, EVENT_TYPE = 0x0003, 0x1001, 0x1008, 0x1002


def element(tag: int, value: bytes) -> bytes:
    """An element in Implicit VR Little Endian."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def information(references: list[tuple[str, str]], transaction_uid: str = "1.9.9") -> bytes:
    items = b""
    for sop_class_uid, sop_instance_uid in references:
        item = element(0x00081150, sop_class_uid.encode()) + element(0x00081155, sop_instance_uid.encode())
        items += element(0xFFFEE000, item)
    return element(0x00081195, transaction_uid.encode()) + element(0x00081199, items)


def n_action_rq(message_id: int = 1, *, sop_class_uid: str = CLASS, data_set: bool = True) -> bytes:
    return peer.command_set(
        {
            REQUESTED_CLASS: sop_class_uid,
            peer.COMMAND_FIELD: N_ACTION_RQ,
            peer.MESSAGE_ID: message_id,
            peer.DATA_SET_TYPE: 1 if data_set else peer.NO_DATA_SET,
            REQUESTED_INSTANCE: INSTANCE,
            ACTION_TYPE: 1,
        }
    )


def report_rsp(report: peer.Message, status: int = 0, *, reply: bool = False) -> bytes:
    """The answer to a report, with an Event Reply if wanted."""
    command = peer.command_set(
        {
            peer.SOP_CLASS: CLASS,
            peer.COMMAND_FIELD: N_EVENT_REPORT_RQ | peer.RESPONSE,
            peer.RESPONDED_TO: peer.number(report.command, peer.MESSAGE_ID),
            peer.DATA_SET_TYPE: 1 if reply else peer.NO_DATA_SET,
            peer.STATUS: status,
            peer.SOP_INSTANCE: INSTANCE,
        }
    )
    return peer.message(3, command, information([]) if reply else None)


def ask(scripted: Peer, *uids: str, message_id: int = 1, transaction_uid: str = "1.9.9") -> int:
    references = [(CT, uid) for uid in uids]
    scripted.send(peer.message(3, n_action_rq(message_id), information(references, transaction_uid)))
    answer = scripted.expect_message()
    assert peer.number(answer.command, peer.COMMAND_FIELD) == N_ACTION_RQ | peer.RESPONSE
    assert answer.responded_to() == message_id
    return answer.status()


def expect_report(scripted: Peer) -> peer.Message:
    report = scripted.expect_message()
    assert peer.number(report.command, peer.COMMAND_FIELD) == N_EVENT_REPORT_RQ
    assert peer.text(report.command, peer.SOP_INSTANCE) == INSTANCE
    return report


def waiting(data: Path) -> int:
    """Requests that have not been reported."""
    return len(Transactions(data, FaultyFiles()).headings())


def claimed(data: Path, identifier: str) -> Transaction:
    """A request, as soon as nobody works on it any more."""
    transactions = Transactions(data, FaultyFiles())
    found: list[Transaction] = []

    def is_free() -> bool:
        claim = transactions.claim(identifier)
        if claim is not None:
            with claim:
                found.append(claim.read())
        return bool(found)

    wait_for(is_free, what="the claim is given up")
    return found[0]


def configured(data: Path, **commitment: object) -> Config:
    return Config(data=data, limits=LIMITS, commitment=Commitment(**commitment))  # type: ignore[arg-type]


@pytest.mark.parametrize("reply", [False, True])
def test_an_answer_then_a_report_on_the_same_association(tmp_path: Path, reply: bool) -> None:
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE, ASK)
            assert store(scripted, 1) == 0
            assert ask(scripted, ct(1)[0]) == 0
            report = expect_report(scripted)
            assert peer.number(report.command, EVENT_TYPE) == 1
            assert waiting(data) == 1, "kept until it is taken"
            scripted.send(report_rsp(report, reply=reply))
            wait_for(lambda: waiting(data) == 0)
            scripted.release()
        counters = serving.services.engine.metrics.counters
        wait_for(lambda: counters["commitment_instances_committed"] == 1, what="it is counted")

    serve(data, script)


def test_the_request_is_on_the_disk_before_the_answer_leaves(tmp_path: Path) -> None:
    data, files, answered = tmp_path / "data", FaultyFiles(), False
    too_early: list[str] = []

    def script(serving: Serving) -> None:
        nonlocal answered

        def before(method: str) -> None:
            # Whatever is synced or renamed for the request comes before its answer.
            if answered and method in ("create", "fdatasync", "rename", "sync_directory"):
                too_early.append(method)

        with serving.call() as scripted:
            scripted.associate(ASK)
            files.before = before
            status = ask(scripted, "1.2.3")
            answered = True
            assert status == 0
            assert waiting(data) == 1
            scripted.cut()
        files.before = None

    serve(data, script, files=files, config=configured(data, delay_s=3600.0))
    assert not too_early


@pytest.mark.parametrize(
    ("method", "number", "status"),
    [("pwritev", errno.ENOSPC, 0x0213), ("create", errno.ENOSPC, 0x0213), ("fdatasync", errno.EIO, 0x0110)],
)
def test_a_request_that_cannot_be_saved_gets_a_failure(tmp_path: Path, method: str, number: int, status: int) -> None:
    data, files = tmp_path / "data", FaultyFiles()

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            # Nothing else writes here: the keeper has nothing to sync, and no instance is stored.
            files.fail(method, number, repeat=True)
            assert ask(scripted, "1.2.3") == status
            files.heal()

    serving = serve(data, script, files=files)
    assert bool(serving.failures) == (number == errno.EIO), "a failed sync is final, a full disk is not"


def test_unsynced_instances_are_synced_before_the_report(tmp_path: Path) -> None:
    data, files = tmp_path / "data", FaultyFiles()
    config = Config(data=data, limits=LIMITS, durability="write-behind")

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE, ASK)
            assert store(scripted, 1) == 0
            synced = files.calls["fdatasync"]
            assert ask(scripted, ct(1)[0]) == 0
            report = expect_report(scripted)
            # The request's own file is one; the segment of the instance is another.
            assert files.calls["fdatasync"] >= synced + 2
            scripted.send(report_rsp(report))
            wait_for(lambda: waiting(data) == 0)

    serve(data, script, files=files, config=config)


def test_a_release_is_answered_at_once_and_the_report_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            assert ask(scripted, "1.2.3") == 0
            scripted.release()
        assert waiting(data) == 1

    serve(data, script, config=configured(data, delay_s=3600.0))


@pytest.mark.parametrize("ending", ["refuses", "cuts", "is silent"])
def test_a_report_that_is_not_accepted_is_kept_for_later(tmp_path: Path, ending: str) -> None:
    data = tmp_path / "data"
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=0.3)

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            assert ask(scripted, "1.2.3") == 0
            report = expect_report(scripted)
            if ending == "refuses":
                scripted.send(report_rsp(report, 0x0110))
            elif ending == "cuts":
                scripted.cut()
            (identifier,) = Transactions(data, FaultyFiles()).headings()
            claimed(data, identifier)
        assert waiting(data) == 1

    serve(data, script, config=Config(data=data, limits=limits))


def test_the_same_request_twice_is_one_and_other_instances_under_its_uid_are_another(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted, serving.call() as other:
            scripted.associate(ASK)
            assert [ask(scripted, "1.2.3"), ask(scripted, "1.2.3", message_id=2)] == [0, 0]
            assert waiting(data) == 1
            assert ask(scripted, "1.2.4", message_id=3) == 0
            other.associate(ASK, calling="ANOTHER")
            assert ask(other, "1.2.4") == 0, "another peer's UID is its own"
            assert waiting(data) == 3
            scripted.cut()
            other.cut()
        asked = []
        for identifier in Transactions(data, FaultyFiles()).headings():
            transaction = claimed(data, identifier)
            asked.append((transaction.calling_ae_title, transaction.is_duplicate))
        assert sorted(asked) == [("ANOTHER", False), ("SCRIPT", False), ("SCRIPT", True)]

    serve(data, script, config=configured(data, same_association=False))


def test_a_long_request_comes_in_parts_and_is_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    uids = [f"1.2.840.113619.2.55.3.{number}" for number in range(10_000)]
    asked = information([(CT, uid) for uid in uids])
    assert len(asked) > LIMITS.stream_threshold_bytes * 2

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            scripted.send(peer.message(3, n_action_rq(), asked))
            assert scripted.expect_message().status() == 0
            scripted.cut()
        (heading,) = Transactions(data, FaultyFiles()).headings().values()
        assert heading.instance_count == len(uids)

    serve(data, script, config=configured(data, same_association=False))


def test_an_endless_request_is_aborted(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            scripted.send(b"".join(peer.fragments(3, n_action_rq(), command=True)))
            piece = peer.p_data(peer.pdv(3, bytes(16370), command=False, last=False))
            for _ in range(400):
                scripted.send_until_closed(piece)
            scripted.expect_abort()

    serve(tmp_path / "data", script)


def test_invalid_and_missing_data_sets_are_refused_and_the_association_continues(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK, (5, peer.VERIFICATION, [IMPLICIT]))
            scripted.send(peer.message(3, n_action_rq(1), b"\x08\x00\x95\x11\xff\xff\xff\x7fno"))
            assert scripted.expect_message().status() == 0x0115
            scripted.send(peer.message(3, n_action_rq(2, data_set=False)))
            assert scripted.expect_message().status() == 0x0115
            scripted.send(peer.message(3, n_action_rq(3, sop_class_uid=CT), information([(CT, "1.2")])))
            assert scripted.expect_message().status() == 0x0118
            scripted.send(peer.message(5, n_action_rq(4, sop_class_uid=peer.VERIFICATION), information([(CT, "1.2")])))
            assert scripted.expect_message().status() == 0x0118
            scripted.echo(5)

    serve(tmp_path / "data", script)


def test_a_replica_commits_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(serving: Serving) -> None:
        monkeypatch.setattr(Archive, "is_read_only", property(lambda self: True))
        with serving.call() as scripted:
            scripted.associate(ASK)
            assert ask(scripted, "1.2.3") == 0x0124
            scripted.release()
        monkeypatch.undo()

    serve(tmp_path / "data", script)


def test_the_number_of_waiting_requests_is_limited(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            assert ask(scripted, "1.2.3", transaction_uid="1.1") == 0
            assert ask(scripted, "1.2.3", message_id=2, transaction_uid="1.2") == 0x0213
            scripted.release()

    serve(data, script, config=configured(data, same_association=False, transactions_max=1))


def test_titles_without_an_address_do_not_fill_the_queue(tmp_path: Path) -> None:
    data = tmp_path / "data"
    known = KnownPeer(aet="KNOWN", host="127.0.0.1", port=1)
    options = Commitment(same_association=False, transactions_max=300, retry_s=3600.0)

    def script(serving: Serving) -> None:
        def statuses(title: str, count: int, first: int) -> list[int]:
            with serving.call() as scripted:
                scripted.associate(ASK, calling=title)
                found = [
                    ask(scripted, "1.2.3", message_id=number + 1, transaction_uid=f"1.{first + number}")
                    for number in range(count)
                ]
                scripted.release()
            return found

        # A hundredth each, a tenth together.
        for number in range(10):
            assert statuses(f"UNKNOWN{number}", 4, 1000 * (number + 1)) == [0, 0, 0, 0x0213]
        assert statuses("ONE_MORE", 1, 20_000) == [0x0213]
        # Half for one peer.
        assert statuses("KNOWN", 151, 30_000) == [0] * 150 + [0x0213]

    serve(data, script, config=Config(data=data, limits=LIMITS, commitment=options, peers=(known,)))


def test_a_peer_without_the_scu_role_gets_no_report_on_its_association(tmp_path: Path) -> None:
    """It took the role of the SCP for itself, and so it may not even ask; whatever it says, nothing is sent to it."""
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK, user_items=peer.role(CLASS, scu=False, scp=True))
            ask(scripted, "1.2.3")
            assert not scripted.socket_has_more(0.3)
            scripted.cut()

    serve(data, script)


def test_storing_and_asking_on_one_association_under_explicit_vr(tmp_path: Path) -> None:
    uid = f"{samples.ROOT}.5.5.5"
    explicit = struct.pack("<HH2sH", 0x0008, 0x1195, b"UI", 6) + b"1.9.9\0"
    item = struct.pack("<HH2sH", 0x0008, 0x1150, b"UI", 26) + CT.encode() + b"\0"
    item += (
        struct.pack("<HH2sH", 0x0008, 0x1155, b"UI", len(uid) + len(uid) % 2) + uid.encode() + b"\0" * (len(uid) % 2)
    )
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    explicit += struct.pack("<HH2sHI", 0x0008, 0x1199, b"SQ", 0, len(item)) + item

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate((3, CLASS, [EXPLICIT, IMPLICIT]))
            scripted.send(peer.message(3, n_action_rq(), explicit))
            assert scripted.expect_message().status() == 0
            report = expect_report(scripted)
            assert peer.number(report.command, EVENT_TYPE) == 2
            assert report.data_set is not None
            assert b"\x08\x00\x98\x11SQ" in report.data_set
            scripted.send(report_rsp(report))
            scripted.release()

    serve(tmp_path / "data", script)


def test_reports_go_out_one_at_a_time(tmp_path: Path) -> None:
    """A peer that negotiated no window performs one operation at a time."""
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            for number in (1, 2, 3):
                rq = n_action_rq(number)
                scripted.send(peer.message(3, rq, information([(CT, "1.2.3")], f"1.9.{number}")))
                assert scripted.expect_message().status() == 0
                if number == 1:
                    report = expect_report(scripted)
            for left in (2, 1):
                assert not scripted.socket_has_more(0.1), "the one that is out has not been answered"
                scripted.send(report_rsp(report))
                report = expect_report(scripted)
                assert waiting(data) == left
            scripted.send(report_rsp(report))
            wait_for(lambda: waiting(data) == 0)
            scripted.release()

    serve(data, script)


def test_a_peer_that_does_not_answer_a_report_gets_no_second_one_on_it(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            assert ask(scripted, "1.2.3", transaction_uid="1.9.1") == 0
            expect_report(scripted)
            assert ask(scripted, "1.2.3", message_id=2, transaction_uid="1.9.2") == 0
            for identifier in Transactions(data, FaultyFiles()).headings():
                claimed(data, identifier)
            assert not scripted.socket_has_more(0.1)
            scripted.release()
        assert waiting(data) == 2

    serve(data, script, config=Config(data=data, limits=Limits(disk_reserve_bytes=0, dimse_timeout_s=0.3)))


def test_reports_beyond_the_limit_are_left_to_the_reporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    monkeypatch.setattr(commitments, "REPORTS_WAITING_MAX", 1)

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            assert ask(scripted, "1.2.3", transaction_uid="1.9.1") == 0
            assert ask(scripted, "1.2.3", message_id=2, transaction_uid="1.9.2") == 0
            first, second = Transactions(data, FaultyFiles()).headings()
            assert claimed(data, second).transaction_uid == "1.9.2"
            assert Transactions(data, FaultyFiles()).claim(first) is None
            scripted.release()

    serve(data, script, config=configured(data, delay_s=3600.0))


def test_a_request_whose_association_ends_while_it_is_written_is_free_for_the_reporter(tmp_path: Path) -> None:
    data, files = tmp_path / "data", FaultyFiles()
    writes, ended = threading.Event(), threading.Event()

    def before(method: str) -> None:
        if method == "rename":
            writes.set()
            assert ended.wait(60)

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(ASK)
            files.before = before
            scripted.send(peer.message(3, n_action_rq(), information([(CT, "1.2.3")])))
            assert writes.wait(60)
            scripted.cut()
            wait_for(lambda: serving.services.associations_count == 0)
            ended.set()
        wait_for(lambda: waiting(data) == 1)
        files.before = None
        (identifier,) = Transactions(data, FaultyFiles()).headings()
        assert claimed(data, identifier).transaction_uid == "1.9.9"

    serve(data, script, files=files)
