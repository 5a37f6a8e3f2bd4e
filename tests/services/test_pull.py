"""services.pull: what another archive has comes here once, whatever the other one does; tested on pynetdicom's SCP."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import uvloop
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_FIND, C_GET

from engine.archive.archive import Archive
from engine.config import Config, Limits, Peer
from engine.dicom import tags
from engine.errors import AssociationFailed
from engine.services import find_scu, pull, retrieve_scu
from engine.services.find_scu import Keys
from engine.services.pull_plan import PullQuery
from engine.services.pull_report import PullReport
from tests import foreign_archive, samples
from tests.foreign_archive import PATIENT_ROOT
from tests.foreign_archive import Archive as Foreign
from tests.system.server import wait_for

ROOT = samples.ROOT
EVERYTHING: Keys = {tags.PatientID: "*"}


def six() -> list[Dataset]:
    """Two studies: four instances in two series, two in one."""
    return [samples.instance(*which) for which in ((1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (2, 1, 1), (2, 1, 2))]


def uid(ds: Dataset) -> str:
    return str(ds.SOPInstanceUID)


def pulled(
    data: Path, peer: Peer, query: PullQuery | None = None, *, timeout_s: float = 60.0, **options: Any
) -> PullReport:
    """One pull into `data`."""
    report = PullReport()
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=timeout_s)
    config = Config(data=data, limits=limits)

    async def run() -> None:
        with Archive.open(data, create=True) as archive:
            progress = lambda what, done, total: None  # noqa: E731
            wanted = query or PullQuery(keys=EVERYTHING)
            async with pull.pulling(archive, config, peer, wanted, report, progress, **options) as work:
                await work.run()

    uvloop.run(run())
    return report


def held(data: Path) -> dict[str, bytes]:
    """What an archive has: SOP Instance UID → data set."""
    with Archive.open(data) as archive:
        return {found.sop_instance_uid: archive.read(found) for found in archive.matching("patient", PatientID="*")}


def calling_titles(data: Path) -> set[str]:
    with Archive.open(data) as archive:
        return {found.calling_ae_title for found in archive.matching("patient", PatientID="*")}


@pytest.mark.parametrize("associations", [1, 3])
@pytest.mark.parametrize("roots", [(foreign_archive.STUDY_ROOT,), (PATIENT_ROOT,)], ids=["study root", "patient root"])
def test_all_instances_are_stored_as_sent_with_the_title_of_the_peer(
    tmp_path: Path, associations: int, roots: tuple[int, ...]
) -> None:
    foreign = Foreign(six(), roots=roots)
    with foreign_archive.serving(foreign) as peer:
        report = pulled(tmp_path, peer, associations=associations)
    assert (report.studies, report.stored, report.failed, report.unwanted) == (2, 6, {}, 0)
    assert set(held(tmp_path)) == set(map(uid, six()))
    assert samples.encoded(six()[0]) in held(tmp_path).values()
    assert calling_titles(tmp_path) == {"OTHER"}
    assert foreign.levels_of_gets() == ["SERIES"] * 3


def test_stored_instances_are_not_requested_and_an_interrupted_pull_continues(tmp_path: Path) -> None:
    foreign = Foreign(six()[:3])
    with foreign_archive.serving(foreign) as peer:
        assert pulled(tmp_path, peer).stored == 3
        foreign.instances = six()
        foreign.asked.clear()
        report = pulled(tmp_path, peer)
        assert (report.stored, report.here, report.duplicates) == (3, 3, 0)
        assert foreign.levels_of_gets() == ["IMAGE", "SERIES"]
        foreign.asked.clear()
        report = pulled(tmp_path, peer)
        assert (report.studies_here, report.here, report.arrived) == (2, 6, 0)
        assert [str(asked.QueryRetrieveLevel) for _, asked in foreign.asked] == ["STUDY"]
        report = pulled(tmp_path, peer, PullQuery(keys=EVERYTHING, again=True))
        assert (report.duplicates, report.stored, report.failed) == (6, 0, {})


def test_a_peer_without_counts_and_classes_is_asked_for_each_instance(tmp_path: Path) -> None:
    foreign = Foreign(six(), counts=False, names_classes=False)
    with foreign_archive.serving(foreign) as peer:
        assert pulled(tmp_path, peer).stored == 6
        report = pulled(tmp_path, peer)
    assert (report.here, report.arrived) == (6, 0)


def test_studies_and_series_keys_select_and_missing_studies_are_reported(tmp_path: Path) -> None:
    foreign = Foreign(six())
    query = PullQuery((f"{ROOT}.1", "1.2.3"), {tags.SeriesInstanceUID: f"{ROOT}.1.2"})
    with foreign_archive.serving(foreign) as peer:
        report = pulled(tmp_path, peer, query)
        assert (report.stored, report.not_found) == (2, ["study 1.2.3"])
        assert pulled(tmp_path, peer, PullQuery(keys=EVERYTHING, limit=1)).studies == 1


def test_unrequested_and_repeated_instances_are_not_stored(tmp_path: Path) -> None:
    stranger = samples.instance(9, 1, 1)

    def sent(event: Any, chosen: list[Dataset]) -> list[Dataset]:
        return [stranger, *chosen, chosen[0]]

    with foreign_archive.serving(Foreign(six(), sent=sent)) as peer:
        report = pulled(tmp_path, peer)
    assert (report.stored, report.unwanted, report.failed) == (6, 3, {})
    assert uid(stranger) not in held(tmp_path)


def test_instances_with_a_wrong_uid_or_truncated_are_refused_retried_once_and_reported(tmp_path: Path) -> None:
    bad = uid(six()[1])

    def sent(event: Any, chosen: list[Dataset]) -> list[Dataset]:
        return [ds for ds in chosen if uid(ds) != bad] + [wrong for ds in chosen if uid(ds) == bad]

    wrong = samples.instance(1, 1, 2)
    del wrong.StudyInstanceUID
    foreign = Foreign(six(), sent=sent)
    with foreign_archive.serving(foreign) as peer:
        report = pulled(tmp_path, peer)
    assert (report.stored, list(report.failed)) == (5, [bad])
    assert "Study Instance UID" in report.failed[bad]
    assert foreign.levels_of_gets() == ["SERIES", "IMAGE", "SERIES", "SERIES"]


def test_a_peer_that_aborts_loses_only_the_instance_in_progress(tmp_path: Path) -> None:
    many = [samples.instance(1, 1, number) for number in range(1, 8)]
    bad = uid(many[3])

    def sent(event: Any, chosen: list[Dataset]) -> list[Dataset]:
        if bad in map(uid, chosen):
            # Those before it go out by hand; then the association is gone.
            event.assoc.abort()
        return chosen

    foreign = Foreign(many, sent=sent)
    with foreign_archive.serving(foreign) as peer:
        report = pulled(tmp_path, peer)
    assert (report.stored, list(report.failed)) == (6, [bad])
    assert "abort" in report.failed[bad] or "closed" in report.failed[bad]


def test_a_peer_without_a_context_for_a_class_is_reported(tmp_path: Path) -> None:
    instances = [*six()[:2], samples.instance(1, 3, 1, modality="MR", sop_class_uid=samples.MR)]
    with foreign_archive.serving(Foreign(instances, classes=[samples.CT])) as peer:
        report = pulled(tmp_path, peer)
    assert report.stored == 2
    assert report.failed[uid(instances[2])].startswith("OTHER accepted no presentation context for MR Image Storage")


def test_a_peer_without_role_selection_is_reported(tmp_path: Path) -> None:
    with foreign_archive.serving(Foreign(six(), knows_roles=False)) as peer:
        report = pulled(tmp_path, peer)
    assert report.stored == 0
    assert set(report.failed) == set(map(uid, six()))
    assert all("refused to send CT Image Storage" in why for why in report.failed.values())


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path) -> None:
    def silence(event: Any, asked: Dataset) -> None:
        while event.assoc.is_established:
            event.assoc._reactor_checkpoint.wait(0.05)
            if event.assoc.dul.socket is None or event.assoc.dul._kill_thread:
                return
            if event.assoc.acse.is_aborted():
                return

    with foreign_archive.serving(Foreign(six(), before_find=silence)) as peer:
        with pytest.raises(AssociationFailed, match="did not answer C-FIND within 0.5 s"):
            pulled(tmp_path, peer, timeout_s=0.5)


def test_a_peer_that_answers_the_same_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_scu, "REPEATS_MAX", 10)

    def endless(event: Any, asked: Dataset) -> Any:
        match = Dataset()
        match.QueryRetrieveLevel = "STUDY"
        match.StudyInstanceUID = f"{ROOT}.1"
        while event.assoc.is_established and not event.assoc.acse.is_aborted():
            yield 0xFF00, match

    with foreign_archive.serving(Foreign(six(), before_find=endless)) as peer:
        with pytest.raises(AssociationFailed, match="answers C-FIND without end"):
            pulled(tmp_path, peer)


@pytest.mark.parametrize(
    ("response_type", "why"),
    [(C_FIND, "answers C-FIND without end"), (C_GET, "a response of another operation")],
    ids=["pending", "of another operation"],
)
def test_a_peer_that_answers_but_finds_nothing_new_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, response_type: Any, why: str
) -> None:
    monkeypatch.setattr(find_scu, "STUCK_FACTOR", 0.01)

    def busy(event: Any, asked: Dataset) -> Any:
        ended = threading.Event()
        while event.assoc.is_established and not event.assoc.acse.is_aborted() and not ended.wait(0.02):
            say_pending(event, response_type())
        yield from ()

    with foreign_archive.serving(Foreign(six(), before_find=busy)) as peer:
        with pytest.raises(AssociationFailed, match=why):
            pulled(tmp_path, peer)


def say_pending(event: Any, response: Any) -> None:
    response.MessageIDBeingRespondedTo = event.request.MessageID
    response.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    response.Status = 0xFF00
    event.assoc.dimse.send_msg(response, event.context.context_id)


def pending_for_ever(event: Any) -> None:
    say_pending(event, C_GET())


@pytest.mark.parametrize(
    ("say", "why"), [(lambda event: None, "was silent"), (pending_for_ever, "sent no instance")], ids=["silent", "busy"]
)
def test_a_peer_that_sends_nothing_is_given_up_after_a_multiple_of_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Any, why: str
) -> None:
    monkeypatch.setattr(retrieve_scu, "STUCK_FACTOR", 2)
    tries = itertools.count(1)

    def is_given_up() -> bool:
        ended = threading.Event()

        def sent(event: Any, chosen: list[Dataset]) -> list[Dataset]:
            while not ended.wait(0.05):
                say(event)
            return []

        foreign = Foreign([samples.instance(1, number, 1) for number in range(1, 9)], sent=sent)
        with foreign_archive.serving(foreign) as peer:
            with pytest.raises(AssociationFailed) as failure:
                pulled(tmp_path / str(next(tries)), peer, timeout_s=0.4)
            ended.set()
        if f"associations were lost: OTHER {why} for" not in str(failure.value):
            return False
        assert len(foreign.levels_of_gets()) == pull.TIMEOUTS_MAX
        return True

    # On a busy machine its answer to C-FIND, too, may take longer than the timeout.
    wait_for(is_given_up, what="a peer that is given up as it sends nothing")


def test_all_studies_of_a_peer_with_truncated_answers_are_found_by_date(tmp_path: Path) -> None:
    instances = [samples.instance(number, 1, 1) for number in range(1, 10)]
    for number, ds in enumerate(instances):
        ds.StudyDate = f"202{number}0101" if number < 7 else ""
    foreign = Foreign(instances)

    def few(event: Any, asked: Dataset) -> list[tuple[int, Dataset | None]] | None:
        if asked.QueryRetrieveLevel != "STUDY":
            return None
        low, _, high = str(asked.get("StudyDate") or "-").partition("-")
        is_range = bool(low or high)
        found = [
            ds for ds in instances
            if not is_range or (ds.StudyDate and (low or "0") <= str(ds.StudyDate) <= (high or "9"))
        ]  # fmt: skip
        answers: list[tuple[int, Dataset | None]] = []
        # Without a date first, so that the cut answer has them.
        for ds in sorted(found, key=lambda ds: str(ds.StudyDate))[:3]:
            match = Dataset()
            match.QueryRetrieveLevel = "STUDY"
            match.StudyInstanceUID = ds.StudyInstanceUID
            answers.append((0xFF00, match))
        return [*answers, (0xA700 if len(found) > 3 else 0x0000, None)]

    foreign.before_find = few
    with foreign_archive.serving(foreign) as peer:
        report = pulled(tmp_path, peer)
    assert (report.studies, report.stored, report.remarks) == (9, 9, [])


def test_an_unreachable_peer_is_an_association_error(tmp_path: Path) -> None:
    with foreign_archive.serving(Foreign([])) as peer:
        assert pulled(tmp_path, peer).studies == 0
    with pytest.raises(AssociationFailed, match="cannot be reached"):
        pulled(tmp_path, peer)


def test_the_number_of_contexts_and_of_their_syntaxes_is_limited() -> None:
    for count in (1, 2, 5, 40):
        proposals = retrieve_scu.storage_contexts([f"1.2.{number}" for number in range(count)], 127)
        assert len(proposals) <= 127
        assert {uid for uid, _ in proposals} == {f"1.2.{number}" for number in range(count)}
        assert all(0 < len(syntaxes) <= retrieve_scu.SYNTAXES_MAX for _, syntaxes in proposals)
    alone = [syntaxes for _, syntaxes in retrieve_scu.storage_contexts(["1.2.1"], 127)]
    assert ("1.2.840.10008.1.2.4.70",) in alone, "what is common has a context of its own"
