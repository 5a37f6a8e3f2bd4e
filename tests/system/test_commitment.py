"""Storage commitment against a whole server, pynetdicom as the peer: it asks as SCU, and listens for reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from tests import samples
from tests.system import foreign
from tests.system.foreign import EXPLICIT, IMPLICIT, Stored
from tests.system.server import Server, free_port, running, wait_for

pytestmark = pytest.mark.slow

CLASS, INSTANCE = str(StorageCommitmentPushModel), str(StorageCommitmentPushModelInstance)
QUICK = "retry_s = 0.2\nretry_s_max = 0.5\n"


def study_of(number: int, count: int = 3) -> list[Stored]:
    return [Stored.of(samples.instance(number, 1, index)) for index in range(1, count + 1)]


def transaction(number: int) -> str:
    return f"{samples.ROOT}.77.{number}"


def action(number: int, references: list[tuple[str, str]]) -> Dataset:
    """Action information."""
    ds = Dataset()
    ds.TransactionUID = transaction(number)
    ds.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        ds.ReferencedSOPSequence.append(item)
    return ds


def nameless() -> Dataset:
    """Action information without a Transaction UID."""
    ds = action(0, [(samples.CT, "1.2.3")])
    del ds.TransactionUID
    return ds


def references_to(stored: list[Stored]) -> list[tuple[str, str]]:
    return [(each.sop_class_uid, each.sop_instance_uid) for each in stored]


class Reports:
    """What has been reported, in the order in which it came."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        """Our status."""
        self.taken: list[tuple[int, Dataset]] = []
        """Event type and information."""
        self.roles: list[tuple[bool, bool]] = []
        """Whether we were asked to be SCU and SCP, by the association's requestor."""

    def handle(self, event: evt.Event) -> tuple[int, None]:
        self.taken.append((int(event.request.EventTypeID), event.event_information))
        assert event.request.AffectedSOPInstanceUID == INSTANCE
        return self.answer, None

    @property
    def handlers(self) -> list[object]:
        return [(evt.EVT_N_EVENT_REPORT, self.handle)]

    def wait(self, count: int = 1) -> None:
        wait_for(lambda: len(self.taken) >= count, what=f"{count} reports")

    def told(self, place: int = -1) -> tuple[int, str, list[str], dict[str, int]]:
        """Event type, transaction, the instances that are committed, and the reasons of those that are not."""
        event_type, information = self.taken[place]
        committed = [str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or []]
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in information.get("FailedSOPSequence") or []
        }
        return event_type, str(information.TransactionUID), committed, failed


@contextmanager
def listening(reports: Reports, port: int = 0, *, takes_scp: bool = True) -> Iterator[int]:
    """A peer that takes reports on associations that the server opens; its port."""
    ae = AE(ae_title="MODALITY")
    # The requestor proposes to be SCP: we are SCU then.
    ae.add_supported_context(CLASS, [EXPLICIT, IMPLICIT], scu_role=False, scp_role=takes_scp)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=reports.handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def asked(port: int, number: int, references: list[tuple[str, str]], reports: Reports, *, stays: int = 0) -> int:
    """Asks for commitment on an association of its own, and stays on it until so many reports have come in all."""
    with foreign.association(port, [(CLASS, EXPLICIT)], calling="MODALITY", handlers=reports.handlers) as assoc:
        status, _ = assoc.send_n_action(action(number, references), 1, CLASS, INSTANCE)
        if stays:
            reports.wait(stays)
        return int(status.Status)


def peer_at(port: int) -> str:
    return f'[[peer]]\naet = "MODALITY"\nhost = "127.0.0.1"\nport = {port}\n'


def config(commitment: str = QUICK, peer: str = "") -> str:
    return f"[commitment]\n{commitment}\n{peer}"


def waiting(server: Server) -> list[Path]:
    """The requests that have not been reported yet."""
    return [path for path in (server.data / "commitments").glob("*.json") if path.name != "state.json"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each test has study and transaction numbers of its own."""
    with running(tmp_path_factory.mktemp("commitment") / "data") as started:
        yield started


def test_what_is_stored_is_committed_on_the_same_association(server: Server) -> None:
    server.reload(config())
    stored, reports = study_of(1), Reports()
    assert foreign.store(server.port, stored) == [0, 0, 0]
    assert asked(server.port, 1, references_to(stored), reports, stays=1) == 0
    assert reports.told() == (1, transaction(1), [each.sop_instance_uid for each in stored], {})
    assert reports.taken[0][1].RetrieveAETitle == "FILMROOM"
    wait_for(lambda: not waiting(server), what="nothing waits")


def test_what_is_not_stored_or_of_another_class_is_named_with_its_reason(server: Server) -> None:
    server.reload(config())
    stored, reports = study_of(2), Reports()
    foreign.store(server.port, stored[:2])
    right, other_class, absent = (each.sop_instance_uid for each in stored)
    wanted = [(samples.CT, right), (samples.MR, other_class), (samples.CT, absent), (foreign.VERIFICATION, "1.2.3")]
    assert asked(server.port, 2, wanted, reports, stays=1) == 0
    assert reports.told() == (2, transaction(2), [right], {other_class: 0x0119, absent: 0x0112, "1.2.3": 0x0122})


def test_a_peer_that_leaves_at_once_is_called_back_and_we_are_scp_there(server: Server) -> None:
    stored, reports = study_of(3), Reports()
    foreign.store(server.port, stored)
    with listening(reports) as port:
        server.reload(config(QUICK + "same_association = false\n", peer_at(port)))
        assert asked(server.port, 3, references_to(stored), reports) == 0
        reports.wait()
    assert reports.told() == (1, transaction(3), [each.sop_instance_uid for each in stored], {})


def test_a_peer_that_is_down_gets_its_reports_when_it_is_up_again(server: Server) -> None:
    stored, reports = study_of(4, 1), Reports()
    foreign.store(server.port, stored)
    port = free_port()
    server.reload(config(QUICK + "same_association = false\n", peer_at(port)))
    assert asked(server.port, 4, references_to(stored), reports) == 0
    assert asked(server.port, 5, references_to(stored), reports) == 0
    wait_for(lambda: server.events("commitment was not reported"), what="a failed attempt")
    with listening(reports, port):
        reports.wait(2)
    assert [reports.told(place)[:2] for place in (0, 1)] == [(1, transaction(4)), (1, transaction(5))]


def test_a_report_that_is_refused_is_sent_again(server: Server) -> None:
    stored, reports = study_of(6, 1), Reports(answer=0x0110)
    foreign.store(server.port, stored)
    with listening(reports) as port:
        server.reload(config(peer=peer_at(port)))
        assert asked(server.port, 6, references_to(stored), reports, stays=1) == 0
        reports.wait(2)
        reports.answer = 0
        already = len(reports.taken)
        reports.wait(already + 1)
    assert {reports.told(place)[:2] for place in range(len(reports.taken))} == {(1, transaction(6))}


def test_a_report_survives_kill_9_between_the_answer_and_the_report(tmp_path: Path) -> None:
    stored, reports = study_of(7), Reports()
    data = tmp_path / "data"
    with listening(reports) as port, running(data, config=config("delay_s = 3600\n", peer_at(port))) as server:
        foreign.store(server.port, stored)
        with foreign.association(server.port, [(CLASS, EXPLICIT)], calling="MODALITY") as assoc:
            status, _ = assoc.send_n_action(action(7, references_to(stored)), 1, CLASS, INSTANCE)
            assert status.Status == 0
            server.kill_all()
        assert not reports.taken
        with running(data, config=config(QUICK, peer_at(port))):
            reports.wait()
    assert reports.told() == (1, transaction(7), [each.sop_instance_uid for each in stored], {})


def test_ten_thousand_instances_are_one_request(server: Server) -> None:
    server.reload(config())
    stored, reports = study_of(8, 2), Reports()
    foreign.store(server.port, stored)
    wanted = references_to(stored) + [(samples.CT, f"{samples.ROOT}.8.2.{number}") for number in range(9998)]
    assert asked(server.port, 8, wanted, reports, stays=1) == 0
    event_type, _, committed, failed = reports.told()
    assert (event_type, committed, len(failed)) == (2, [each.sop_instance_uid for each in stored], 9998)


def test_more_instances_than_are_allowed_are_refused_as_a_whole(server: Server) -> None:
    server.reload(config("references_max = 2\n"))
    wanted = [(samples.CT, f"{samples.ROOT}.9.1.{number}") for number in range(3)]
    assert asked(server.port, 9, wanted, Reports()) == 0x0213


def test_who_may_not_store_may_not_ask_for_commitment(server: Server) -> None:
    server.reload('[[peer]]\naet = "MODALITY"\nmay = ["query"]\n')
    assoc = foreign.request(server.port, [(CLASS, EXPLICIT)], calling="MODALITY")
    assert not assoc.accepted_contexts
    assoc.release()


@pytest.mark.parametrize(
    ("sop_instance_uid", "action_type", "information", "status"),
    [
        ("1.2.3", 1, action(20, [(samples.CT, "1.2.3")]), 0x0112),
        (INSTANCE, 2, action(20, [(samples.CT, "1.2.3")]), 0x0123),
        (INSTANCE, 1, action(20, []), 0x0115),
        (INSTANCE, 1, nameless(), 0x0115),
        (INSTANCE, 1, None, 0x0115),
    ],
)
def test_a_request_that_is_none_is_refused_with_its_status(
    server: Server, sop_instance_uid: str, action_type: int, information: Dataset | None, status: int
) -> None:
    server.reload(config())
    with foreign.association(server.port, [(CLASS, EXPLICIT)], calling="MODALITY") as assoc:
        answer, _ = assoc.send_n_action(information, action_type, CLASS, sop_instance_uid)
        assert answer.Status == status
        assert assoc.is_established


def test_a_transaction_uid_in_use_for_other_instances_fails_them_and_the_same_request_is_one(server: Server) -> None:
    stored, reports = study_of(10, 2), Reports()
    foreign.store(server.port, stored)
    first, second = references_to(stored)
    server.reload(config(QUICK + "same_association = false\n"))
    for wanted in ([first], [first], [second]):
        assert asked(server.port, 10, wanted, reports) == 0
    assert not reports.taken, "there is nobody to report to"

    def own() -> list[object]:
        """Without those of the tests before, which may come again if their association ended too early."""
        told = [reports.told(place) for place in range(len(reports.taken))]
        return [each for each in told if each[1] == transaction(10)]

    with listening(reports) as port:
        server.reload(config(peer=peer_at(port)))
        wait_for(lambda: len(own()) >= 2, what="its reports")
        wait_for(lambda: not waiting(server), what="nothing waits")
    assert own() == [
        (1, transaction(10), [first[1]], {}),
        (2, transaction(10), [], {second[1]: 0x0131}),
    ]
