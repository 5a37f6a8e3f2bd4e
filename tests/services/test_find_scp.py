"""C-FIND on scripted associations: options, hierarchy, limits, cancel, statuses, what is counted and logged."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import log
from engine.config import Config, Limits, Log, Queries
from engine.config import Peer as KnownPeer
from engine.dicom import tags
from engine.index.format.types import Level, Match
from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, VERIFICATION, Peer
from tests.services.serving import Serving, serve
from tests.system.server import wait_for

STORE = (1, CT, [EXPLICIT])
FIND = (3, STUDY_ROOT_FIND, [IMPLICIT])
ECHO = (5, VERIFICATION, [IMPLICIT])
PATIENT_FIND = (7, "1.2.840.10008.5.1.4.1.2.1.1", [IMPLICIT])
PATIENT_STUDY_FIND = (9, "1.2.840.10008.5.1.4.1.2.3.1", [IMPLICIT])
OFFENDING_ELEMENT = 0x0901
LIMITS = Limits(disk_reserve_bytes=0)


def run(folder: Path, script: Callable[[Serving, Peer], None], *, count: int = 0, **settings: Any) -> Serving:
    """Serves with `count` instances of one series; the script has an association with everything above."""
    config = Config(data=folder / "data", **{"limits": LIMITS, **settings})

    def scripted(serving: Serving) -> None:
        with serving.call() as one:
            one.associate(STORE, FIND, ECHO, PATIENT_FIND, PATIENT_STUDY_FIND, relational=False)
            for number in range(1, count + 1):
                assert store(one, number) == 0
            script(serving, one)
            one.release()

    return serve(folder / "data", scripted, config=config)


def store(one: Peer, number: int) -> int:
    ds = samples.instance(number=number)
    rq = peer.c_store_rq(number, CT, str(ds.SOPInstanceUID))
    one.send(peer.message(1, rq, samples.encoded(ds)))
    return one.expect_message().status()


def ask(one: Peer, keys: dict[int, str | bytes], context: int = 3, message_id: int = 1) -> None:
    uid = {3: STUDY_ROOT_FIND, 7: PATIENT_FIND[1], 9: PATIENT_STUDY_FIND[1]}[context]
    one.send(peer.message(context, peer.query_rq(peer.C_FIND_RQ, message_id, uid), peer.identifier(keys)))


def answers(one: Peer) -> tuple[list[peer.Message], peer.Message]:
    """The pending responses and the final one."""
    pending = []
    while (got := one.expect_message()).status() in (0xFF00, 0xFF01):
        pending.append(got)
    return pending, got


def find(one: Peer, keys: dict[int, str | bytes], context: int = 3) -> tuple[list[peer.Message], peer.Message]:
    ask(one, keys, context)
    return answers(one)


def comment(final: peer.Message) -> str:
    return final.command.get(peer.ERROR_COMMENT, b"").decode().strip()


def elements(data_set: bytes | None) -> dict[int, bytes]:
    """Tag → value of an identifier in Implicit VR Little Endian."""
    found, at = {}, 0
    while data_set and at < len(data_set):
        group, element, length = struct.unpack_from("<HHI", data_set, at)
        found[group << 16 | element] = data_set[at + 8 : at + 8 + length].rstrip(b" \0")
        at += 8 + length
    return found


IMAGES: dict[int, str | bytes] = {tags.QueryRetrieveLevel: "IMAGE", tags.SOPInstanceUID: ""}
IN_SERIES: dict[int, str | bytes] = {
    **IMAGES,
    tags.StudyInstanceUID: f"{samples.ROOT}.1",
    tags.SeriesInstanceUID: f"{samples.ROOT}.1.1",
}


# The hierarchy and the options -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "keys", "missing"),
    [
        (3, {tags.QueryRetrieveLevel: "SERIES"}, tags.StudyInstanceUID),
        (3, {tags.QueryRetrieveLevel: "SERIES", tags.StudyInstanceUID: "*"}, tags.StudyInstanceUID),
        (3, {tags.QueryRetrieveLevel: "SERIES", tags.StudyInstanceUID: "1.2\\1.3"}, tags.StudyInstanceUID),
        (3, {tags.QueryRetrieveLevel: "IMAGE", tags.StudyInstanceUID: "1.2"}, tags.SeriesInstanceUID),
        (7, {tags.QueryRetrieveLevel: "STUDY", tags.PatientID: "P*"}, tags.PatientID),
        (7, {tags.QueryRetrieveLevel: "IMAGE", tags.PatientID: "P1"}, tags.StudyInstanceUID),
        (3, {tags.QueryRetrieveLevel: "PATIENT", tags.PatientID: "P1"}, tags.QueryRetrieveLevel),
        (3, {tags.QueryRetrieveLevel: "FILM"}, tags.QueryRetrieveLevel),
        (3, {tags.PatientID: "P1"}, tags.QueryRetrieveLevel),
    ],
)
def test_a_query_that_violates_the_hierarchy_is_refused_naming_the_key(
    tmp_path: Path, context: int, keys: dict[int, str | bytes], missing: int
) -> None:
    def script(serving: Serving, one: Peer) -> None:
        pending, final = find(one, keys, context)
        assert (pending, final.status()) == ([], 0xA900)
        assert final.data_set is None
        group, element = struct.unpack("<HH", final.command[OFFENDING_ELEMENT])
        assert group << 16 | element == missing
        told = comment(final)
        assert tags.keyword_of(missing) in told or "(0008,0052)" in told or "no level PATIENT" in told
        assert len(told) <= 64
        # The response leaves before it is counted.
        wait_for(lambda: serving.services.engine.metrics.counters["find_refused"] == 1, what="the count")

    run(tmp_path, script)


def test_the_baseline_is_served_without_any_negotiation(tmp_path: Path) -> None:
    def script(serving: Serving, one: Peer) -> None:
        pending, final = find(one, {tags.QueryRetrieveLevel: "STUDY", tags.StudyInstanceUID: ""})
        assert ([each.status() for each in pending], final.status()) == ([0xFF00], 0)
        pending, final = find(one, {**IN_SERIES, tags.InstanceNumber: "2"})
        assert [elements(each.data_set)[tags.SOPInstanceUID] for each in pending] == [b"%b.1.1.2" % ROOT]
        assert final.status() == 0

    run(tmp_path, script, count=3)


ROOT = samples.ROOT.encode()
UNIQUE_KEYS: dict[str, tuple[int, bytes]] = {
    "PATIENT": (tags.PatientID, b"P1"),
    "STUDY": (tags.StudyInstanceUID, b"%b.1" % ROOT),
    "SERIES": (tags.SeriesInstanceUID, b"%b.1.1" % ROOT),
    "IMAGE": (tags.SOPInstanceUID, b"%b.1.1.1" % ROOT),
}


@pytest.mark.parametrize(
    ("context", "levels"),
    [
        (3, ("STUDY", "SERIES", "IMAGE")),
        (7, ("PATIENT", "STUDY", "SERIES", "IMAGE")),
        (9, ("PATIENT", "STUDY")),
    ],
)
def test_every_level_of_every_model_is_found_from_its_root_down(
    tmp_path: Path, context: int, levels: tuple[str, ...]
) -> None:
    def script(serving: Serving, one: Peer) -> None:
        above: dict[int, str | bytes] = {}
        for level in levels:
            tag, uid = UNIQUE_KEYS[level]
            for value in (b"", uid):
                (match,), final = find(one, {**above, tags.QueryRetrieveLevel: level, tag: value}, context)
                assert (match.status(), final.status()) == (0xFF00, 0)
                found = elements(match.data_set)
                assert found[tag] == uid
                assert found[tags.QueryRetrieveLevel] == level.encode()
                assert set(above) <= set(found)
            above[tag] = uid

    run(tmp_path, script, count=1)


def test_relational_queries_are_negotiated_for_each_sop_class(tmp_path: Path) -> None:
    def script(serving: Serving, one: Peer) -> None:
        with serving.call() as other:
            item = peer.extended_negotiation(STUDY_ROOT_FIND, b"\1\1\1\1\1\1\1")
            answer = other.associate(FIND, PATIENT_FIND, user_items=item, relational=False)
            got = answer.user_item(0x56)
            # All but the conversion to enhanced multi-frame.
            assert got == struct.pack(">H", len(STUDY_ROOT_FIND)) + STUDY_ROOT_FIND.encode() + b"\1\1\1\1\0\1\1"
            pending, final = find(other, {**IMAGES, tags.Modality: "CT"})
            assert (len(pending), final.status()) == (2, 0)
            assert find(other, IMAGES, 7)[1].status() == 0xA900
            other.release()
        assert find(one, IMAGES)[1].status() == 0xA900

    run(tmp_path, script, count=2)


def test_one_byte_of_extended_negotiation_is_enough_and_zero_means_no(tmp_path: Path) -> None:
    def script(serving: Serving, one: Peer) -> None:
        for information, status in ((b"\1", 0), (b"\0", 0xA900), (b"", 0xA900), (b"\0\1\1\1\0\1\1", 0xA900)):
            with serving.call() as other:
                answer = other.associate(
                    FIND, user_items=peer.extended_negotiation(STUDY_ROOT_FIND, information), relational=False
                )
                got = answer.user_item(0x56)
                assert got is not None
                assert got.endswith(STUDY_ROOT_FIND.encode() + information)
                assert find(other, IMAGES)[1].status() == status
                other.release()

    run(tmp_path, script)


@pytest.mark.parametrize(
    ("everybody", "known", "statuses"),
    [((), ("relational",), (0, 0xA900)), (("relational",), (), (0xA900, 0)), (("relational",), None, (0, 0))],
)
def test_a_peer_that_cannot_negotiate_may_be_allowed_relational_queries(
    tmp_path: Path, everybody: Any, known: Any, statuses: tuple[int, int]
) -> None:
    def script(serving: Serving, one: Peer) -> None:
        for title, status in zip(("KNOWN", "STRANGER"), statuses, strict=True):
            with serving.call() as other:
                other.associate(FIND, calling=title, relational=False)
                pending, final = find(other, IMAGES)
                assert (len(pending), final.status()) == ((1, 0) if status == 0 else (0, status))
                other.release()

    peers = (KnownPeer(aet="KNOWN", query_options=known),)
    run(tmp_path, script, count=1, query=Queries(options=everybody), peers=peers)


def test_every_option_reaches_the_search(tmp_path: Path) -> None:
    """Which byte, and which word of the configuration, sets which flag of the query."""
    flags = ("relational", "date_time", "fuzzy", "timezone", "", "empty_values", "multiple_values")
    seen: list[set[str]] = []

    def script(serving: Serving, one: Peer) -> None:
        def steps(query: Any, *more: object) -> Iterator[Match | None]:
            seen.append({flag for flag in flags if flag and getattr(query, flag)})
            return iter(())

        serving.archive.find_steps = steps  # type: ignore[method-assign]
        for number, flag in enumerate(flags):
            information = bytes(int(at == number) for at in range(7))
            with serving.call() as other:
                other.associate(
                    FIND, user_items=peer.extended_negotiation(STUDY_ROOT_FIND, information), relational=False
                )
                assert find(other, IN_SERIES)[1].status() == 0
                other.release()
            assert seen.pop() == ({flag} - {""})
        with serving.call() as other:
            other.associate(FIND, calling="ALL", relational=False)
            assert find(other, IN_SERIES)[1].status() == 0
            other.release()
        assert seen.pop() == set(flags) - {""}

    options = ("relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values")
    run(tmp_path, script, peers=(KnownPeer(aet="ALL", query_options=options),))  # type: ignore[arg-type]


def test_a_peer_that_may_not_query_is_not_authorized(tmp_path: Path) -> None:
    def script(serving: Serving, one: Peer) -> None:
        with serving.call() as other:
            other.associate(FIND, calling="SENDER", relational=False)
            before = serving.services.config
            # Its permission was taken away after the association began.
            serving.services.engine.config = Config(
                data=before.data, limits=LIMITS, peers=(KnownPeer(aet="SENDER", may=()),)
            )
            pending, final = find(other, IN_SERIES)
            assert (pending, final.status()) == ([], 0x0124)
            other.release()

    run(tmp_path, script)


# Answers -----------------------------------------------------------------------------------------


def test_a_response_has_the_requested_keys_and_lists_unsupported_ones(tmp_path: Path) -> None:
    def script(serving: Serving, one: Peer) -> None:
        keys: dict[int, str | bytes] = {tags.QueryRetrieveLevel: "STUDY", tags.PatientName: "", tags.KVP: "120"}
        (match,), _ = find(one, keys)
        assert match.status() == 0xFF01
        found = elements(match.data_set)
        assert found == {
            tags.QueryRetrieveLevel: b"STUDY",
            tags.RetrieveAETitle: b"FILMROOM",
            tags.PatientName: b"Doe^Jane",
            tags.KVP: b"",
        }

    run(tmp_path, script, count=1)


def test_keys_that_the_service_answers_itself_are_supported(tmp_path: Path) -> None:
    own = (
        tags.SpecificCharacterSet,
        tags.RetrieveAETitle,
        tags.InstanceAvailability,
        tags.StorageMediaFileSetID,
        tags.StorageMediaFileSetUID,
    )

    def script(serving: Serving, one: Peer) -> None:
        for level, above in (("STUDY", {}), ("IMAGE", IN_SERIES)):
            keys: dict[int, str | bytes] = {**above, **dict.fromkeys(own, ""), tags.QueryRetrieveLevel: level}
            (match,), _ = find(one, keys)
            assert match.status() == 0xFF00
            found = elements(match.data_set)
            assert found[tags.InstanceAvailability] == b"ONLINE"
            assert found[tags.RetrieveAETitle] == b"FILMROOM"
            assert found[tags.StorageMediaFileSetID] == b""
            assert found[tags.StorageMediaFileSetUID] == b""
            # It shall not be there without a value (PS3.4 C.2.2.2), and all is ASCII.
            assert tags.SpecificCharacterSet not in found

    run(tmp_path, script, count=1)


# Limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "limit", "sent", "status"),
    [("ANY", 2, 2, 0xA700), ("ANY", 3, 3, 0), ("ANY", 0, 3, 0), ("FEW", 9, 1, 0xA700), ("ALL", 1, 3, 0)],
)
def test_a_truncated_result_is_not_a_success_and_has_a_comment(
    tmp_path: Path, title: str, limit: int, sent: int, status: int
) -> None:
    def script(serving: Serving, one: Peer) -> None:
        with serving.call() as other:
            other.associate(FIND, calling=title, relational=False)
            pending, final = find(other, IN_SERIES)
            assert (len(pending), final.status()) == (sent, status)
            assert comment(final) == (f"more than {sent} matches: narrow the query" if status else "")
            assert OFFENDING_ELEMENT not in final.command
            other.release()
        assert serving.services.engine.metrics.counters["find_truncated"] == (status != 0)
        assert serving.services.engine.metrics.counters["find_matches"] == sent

    limits = Limits(disk_reserve_bytes=0, query_results_max=limit)
    peers = (KnownPeer(aet="FEW", query_results_max=1), KnownPeer(aet="ALL", query_results_max=0))
    run(tmp_path, script, count=3, limits=limits, peers=peers)


# Cancel ------------------------------------------------------------------------------------------


class Endless:
    """A search that never ends; `matches`: every step has one."""

    def __init__(self, *, matches: bool) -> None:
        self.match = Match(Level.IMAGE, {tags.SOPInstanceUID: b"1.2"}) if matches else None
        self.steps = 0
        self.is_closed = False

    def __call__(self, query: object, *more: object) -> Iterator[Match | None]:
        try:
            while True:
                self.steps += 1
                yield self.match
        finally:
            self.is_closed = True


def test_a_search_without_matches_can_be_cancelled_and_does_not_block_others(tmp_path: Path) -> None:
    search = Endless(matches=False)

    def script(serving: Serving, one: Peer) -> None:
        serving.archive.find_steps = search  # type: ignore[method-assign]
        ask(one, IN_SERIES)
        wait_for(lambda: search.steps > 0, what="the search")
        one.echo(5)
        with serving.call() as other:
            other.associate(STORE, ECHO)
            assert [store(other, number) for number in range(1, 6)] == [0] * 5
            other.release()
        assert not search.is_closed
        one.send(peer.message(3, peer.c_cancel_rq(1)))
        pending, final = answers(one)
        assert (pending, final.status(), final.data_set) == ([], 0xFE00, None)
        assert search.is_closed
        one.echo(5)
        assert serving.services.engine.metrics.counters["find_cancelled"] == 1

    run(tmp_path, script)


@pytest.mark.parametrize("matches", [False, True])
def test_a_search_that_takes_too_long_ends_with_a700_and_a_comment(tmp_path: Path, matches: bool) -> None:
    search = Endless(matches=matches)

    def script(serving: Serving, one: Peer) -> None:
        serving.archive.find_steps = search  # type: ignore[method-assign]
        pending, final = find(one, IN_SERIES)
        assert bool(pending) == matches
        assert final.status() == 0xA700
        assert comment(final) == "stopped after 0.05 s: narrow the query"
        assert OFFENDING_ELEMENT not in final.command
        assert serving.services.engine.metrics.counters["find_timed_out"] == 1
        with serving.call() as other:
            other.associate(FIND, calling="PATIENT", relational=False)
            ask(other, IN_SERIES)
            wait_for(lambda: len(serving.acceptors[-1].session._running) == 1)
            other.send(peer.message(3, peer.c_cancel_rq(1)))
            assert answers(other)[1].status() == 0xFE00
            other.release()

    limits = Limits(disk_reserve_bytes=0, query_results_max=0, query_timeout_s=0.05)
    run(tmp_path, script, limits=limits, peers=(KnownPeer(aet="PATIENT", query_timeout_s=0),))


def test_a_search_is_cancelled_between_two_of_its_matches(tmp_path: Path) -> None:
    search = Endless(matches=True)

    def script(serving: Serving, one: Peer) -> None:
        serving.archive.find_steps = search  # type: ignore[method-assign]
        ask(one, IN_SERIES)
        assert one.expect_message().status() == 0xFF00
        one.send(peer.message(3, peer.c_cancel_rq(1)))
        pending, final = answers(one)
        assert final.status() == 0xFE00
        assert serving.services.engine.metrics.counters["find_matches"] == len(pending) + 1
        assert search.is_closed

    run(tmp_path, script, limits=Limits(disk_reserve_bytes=0, query_results_max=0))


def test_a_cancel_that_comes_with_its_request_stops_it_at_once(tmp_path: Path) -> None:
    search = Endless(matches=True)

    def script(serving: Serving, one: Peer) -> None:
        serving.archive.find_steps = search  # type: ignore[method-assign]
        rq = peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND)
        request = peer.message(3, rq, peer.identifier(IN_SERIES))
        one.send(request + peer.message(3, peer.c_cancel_rq(1)))
        pending, final = answers(one)
        assert (pending, final.status()) == ([], 0xFE00)

    run(tmp_path, script)


@pytest.mark.parametrize("matches", [False, True])
@pytest.mark.parametrize("ending", [Peer.cut, Peer.close])
def test_a_search_ends_when_its_peer_disconnects(tmp_path: Path, matches: bool, ending: Callable[[Peer], None]) -> None:
    search = Endless(matches=matches)

    def script(serving: Serving, one: Peer) -> None:
        with serving.call() as other:
            other.associate(FIND, relational=False)
            serving.archive.find_steps = search  # type: ignore[method-assign]
            ask(other, IN_SERIES)
            wait_for(lambda: search.steps > 0, what="the search")
            ending(other)
        wait_for(lambda: search.is_closed, what="its end")
        one.echo(5)

    run(tmp_path, script, limits=Limits(disk_reserve_bytes=0, query_results_max=0))


# The log -----------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log.configure(Log(format="json"), stream=stream)
    yield stream
    log.configure(Log())


@pytest.mark.parametrize("slow_s", [1e-9, 0.0, 3600.0])
def test_a_slow_query_is_logged_by_its_keys_and_never_by_their_values(
    tmp_path: Path, lines: io.StringIO, slow_s: float
) -> None:
    def script(serving: Serving, one: Peer) -> None:
        keys: dict[int, str | bytes] = {
            tags.QueryRetrieveLevel: "STUDY",
            tags.PatientName: "Doe^J*",
            tags.PatientID: "P1",
            tags.StudyDate: "20260101-20261231",
            tags.StudyInstanceUID: "",
            tags.AccessionNumber: "*",
        }
        pending, final = find(one, keys)
        assert (len(pending), final.status()) == (1, 0)

    serving = run(tmp_path, script, count=1, query=Queries(slow_s=slow_s))
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    is_slow = 0 < slow_s < 1
    (line,) = [line for line in told if line["event"] == ("slow query" if is_slow else "query")]
    assert (line["calling"], line["query_level"], line["matches"], line["status"]) == ("SCRIPT", "study", 1, "0000")
    assert serving.services.engine.metrics.counters["find_slow"] == is_slow
    if is_slow:
        assert line["level"] == "warning"
        assert line["keys"] == "StudyDate range, PatientName wild card, PatientID single value"
        assert line["options"] == []
        assert line["access"]
        assert (line["candidates"], line["examined"], line["pages"]) == (1, 1, 1)
    for secret in ("Doe", "P1", "2026010", "20261231"):
        assert secret not in lines.getvalue()


def test_a_refused_query_is_counted_and_logged_once(tmp_path: Path, lines: io.StringIO) -> None:
    def script(serving: Serving, one: Peer) -> None:
        assert find(one, {**IMAGES, tags.PatientID: "SECRET"})[1].status() == 0xA900

    serving = run(tmp_path, script)
    counters = serving.services.engine.metrics.counters
    assert (counters["find"], counters["find_refused"], counters["find_matches"]) == (1, 1, 0)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["event"] for line in told if line["logger"] == "services.find_scp"] == ["query refused"]
    assert "SECRET" not in lines.getvalue()
