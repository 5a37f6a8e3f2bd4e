"""The whole corpus in, by import and over the network; every stored file comes out again, bit by bit.

The data set of a file is everything behind its file meta group. A file is either stored or refused with a reason; the
files that are well formed must be stored. Nothing under odd/ may harm the server, whichever way it comes.
"""

from __future__ import annotations

import itertools
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson
import pytest
import requests
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from engine.dicom import transfer_syntax
from engine.dicom.convert import convert
from engine.errors import TranscodeError
from tests import peer, template
from tests.corpus import corpus_files, corpus_root, needs_corpus
from tests.peer import EXPLICIT, IMPLICIT, VERIFICATION, Peer
from tests.system import foreign
from tests.system.foreign import Stored
from tests.system.server import ROOT, Server, running
from tests.web.asking import parts_of

PIXEL_DATA_OB = b"\xe0\x7f\x10\x00OB\0\0"
"""Its element header in Explicit VR Little Endian, before the length."""

pytestmark = [pytest.mark.slow, needs_corpus()]

NEVER_OVER_HTTP = (IMPLICIT, "1.2.840.10008.1.2.2")

ILL_FORMED = ("odd", "codec-only", "palette")
"""Folders whose files need not be storable."""

DICOMDIR = "1.2.840.10008.1.3.10"
CONTEXTS_MAX = 120


@dataclass(frozen=True)
class File:
    """A file of the corpus, as pydicom sees its UIDs and as it lies there."""

    path: Path
    stored: Stored
    study_instance_uid: str


@cache
def well_formed() -> tuple[File, ...]:
    """Every file outside of the ill-formed folders."""
    files = []
    root = corpus_root()
    assert root is not None
    for path in corpus_files():
        if path.relative_to(root).parts[0] in ILL_FORMED:
            continue
        meta, data_set = foreign.read_file(path)
        if foreign.uid_of(meta, 0x0002) == DICOMDIR:
            continue
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"])
        stored = Stored(str(ds.SOPClassUID), str(ds.SOPInstanceUID), foreign.uid_of(meta, 0x0010), data_set)
        files.append(File(path, stored, str(ds.StudyInstanceUID)))
    return tuple(files)


@cache
def by_uid() -> dict[str, list[File]]:
    """SOP Instance UID → the well-formed files that have it."""
    found: dict[str, list[File]] = defaultdict(list)
    for file in well_formed():
        found[file.stored.sop_instance_uid].append(file)
    return dict(found)


@cache
def odd_twins() -> dict[str, set[tuple[str, bytes]]]:
    """SOP Instance UID → transfer syntax and data set of the ill-formed files that share it with a well-formed one."""
    twins: dict[str, set[tuple[str, bytes]]] = defaultdict(set)
    for path in corpus_files(*ILL_FORMED):
        try:
            meta, data_set = foreign.read_file(path)
        except AssertionError:
            continue
        for uid in by_uid():
            if uid.encode() in data_set[:4096]:
                twins[uid].add((foreign.uid_of(meta, 0x0010), data_set))
    return twins


def command(*arguments: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    """`filmroom …`."""
    return template.run("engine", *arguments, folder=ROOT, timeout_s=timeout_s)


def imported(data: Path, *paths: Path) -> dict[str, object]:
    """The summary of an import."""
    done = command("import", "--json", "--data", str(data), *map(str, paths))
    assert done.returncode in (0, 1), done.stderr
    summary: dict[str, object] = orjson.loads(done.stdout)
    return summary


def groups(files: Iterable[File]) -> Iterator[tuple[list[str], list[tuple[str, str]]]]:
    """Studies, and the (SOP class, transfer syntax) pairs in them, as many as the contexts of an association take."""
    by_study: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for file in files:
        by_study[file.study_instance_uid][file.stored.sop_class_uid, file.stored.transfer_syntax_uid] = None
    studies: list[str] = []
    kinds: dict[tuple[str, str], None] = {}
    for study, more in by_study.items():
        if studies and len(kinds | more) > CONTEXTS_MAX:
            yield studies, list(kinds)
            studies, kinds = [], {}
        studies.append(study)
        kinds |= more
    if studies:
        yield studies, list(kinds)


def as_sent(form: tuple[str, bytes]) -> tuple[str, bytes]:
    """A data set of odd length is stored as it is, and sent with one NUL behind it (PS3.8 9.3.1), which belongs to its
    last element (PS3.5 7.1.1)."""
    syntax, data = form
    if len(data) % 2 == 0:
        return form
    at = data.rfind(PIXEL_DATA_OB) + len(PIXEL_DATA_OB)
    length = int.from_bytes(data[at : at + 4], "little")
    if at >= len(PIXEL_DATA_OB) and at + 4 + length == len(data):
        data = data[:at] + (length + 1).to_bytes(4, "little") + data[at + 4 :]
    return syntax, data + b"\0"


def assert_come_back(
    brought: dict[str, tuple[str, bytes]],
    form: Callable[[tuple[str, bytes]], tuple[str, bytes]] = as_sent,
) -> None:
    """Every well-formed instance is there, as one of the files that carry its UID, in the form that they come in."""
    missing = by_uid().keys() - brought.keys()
    assert not missing, f"{len(missing)} are missing: {[by_uid()[uid][0].path.name for uid in sorted(missing)[:5]]}"
    for uid, files in by_uid().items():
        sent = {(file.stored.transfer_syntax_uid, file.stored.data_set) for file in files}
        assert brought[uid] in set(map(form, sent | odd_twins().get(uid, set()))), (
            f"{files[0].path.name} came back changed"
        )


def got(port: int) -> dict[str, tuple[str, bytes]]:
    """Everything well formed, by C-GET."""
    brought: dict[str, tuple[str, bytes]] = {}
    for studies, kinds in groups(well_formed()):
        result = foreign.get(port, {"level": "STUDY", "StudyInstanceUID": studies}, kinds, maximum_length=1 << 20)
        assert not result.failed_uids or not set(result.failed_uids) & by_uid().keys()
        brought |= result.data_sets
    return brought


def retrieved(url: str) -> dict[str, tuple[str, bytes]]:
    """Everything well formed, by WADO-RS, in the transfer syntax in which it is stored."""
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    brought = {}
    with requests.Session() as session:
        for study in dict.fromkeys(file.study_instance_uid for file in well_formed()):
            answer = session.get(f"{url}/dicom-web/studies/{study}", headers=accept, timeout=120)
            assert answer.status_code == 200, answer.text
            for _, file in parts_of(answer):
                meta, data_set = foreign.split_file(file)
                brought[foreign.uid_of(meta, 0x0003)] = (foreign.uid_of(meta, 0x0010), data_set)
    return brought


def over_http(form: tuple[str, bytes]) -> tuple[str, bytes]:
    """As it is stored, but for what never leaves over the web, which becomes Explicit VR Little Endian; and one NUL is
    behind a native or deflated data set of odd length (PS3.5 7.1.1, A.5)."""
    syntax, data_set = form
    if syntax not in NEVER_OVER_HTTP:
        return as_sent(form) if transfer_syntax.of(syntax).convertible else form
    try:
        return EXPLICIT, convert(data_set, transfer_syntax.of(syntax), transfer_syntax.of(EXPLICIT))
    except TranscodeError:
        return form  # what cannot be read to its end leaves as it is stored


def stowed(url: str, files: list[File]) -> None:
    """Stores files as they lie there, by STOW-RS: a part each."""
    parts = (b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file.path.read_bytes() + b"\r\n" for file in files)
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    body = itertools.chain(parts, [b"--b--\r\n"])
    answer = requests.post(f"{url}/dicom-web/studies", data=body, headers=headers, timeout=120)
    assert answer.status_code in (200, 202), answer.text[:2000]
    assert "00081198" not in answer.json(), answer.text[:2000]


def exported(data: Path, target: Path) -> dict[str, tuple[str, bytes]]:
    """Everything well formed, by `filmroom export`."""
    studies = dict.fromkeys(file.study_instance_uid for file in well_formed())
    options = [argument for study in studies for argument in ("--study", study)]
    done = command("export", "--json", "--data", str(data), str(target), *options)
    assert done.returncode == 0, done.stderr
    brought = {}
    for path in target.rglob("*"):
        if path.is_file():
            meta, data_set = foreign.read_file(path)
            brought[foreign.uid_of(meta, 0x0003)] = (foreign.uid_of(meta, 0x0010), data_set)
    return brought


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A stopped archive into which everything was imported, and the summary."""
    data = tmp_path_factory.mktemp("corpus") / "data"
    root = corpus_root()
    assert root is not None
    return data, imported(data, root)


@pytest.fixture(scope="module")
def server(archive: tuple[Path, dict[str, object]]) -> Iterator[Server]:
    """A server on the imported archive."""
    with running(archive[0], config="[limits]\ndimse_timeout_s = 5.0\n", http=True) as started:
        yield started


def test_every_file_is_imported_or_refused_with_a_reason(archive: tuple[Path, dict[str, object]]) -> None:
    _, summary = archive
    root = corpus_root()
    assert root is not None
    # A DICOMDIR says where instances are; it is none itself.
    files = [path for path in root.rglob("*") if path.is_file() and path.stem != "DICOMDIR"]
    refused: list[dict[str, str]] = summary["refused"]  # type: ignore[assignment]
    assert all(row["reason"].strip() for row in refused)
    taken = sum(summary[key] for key in ("stored", "already_there", "versions"))  # type: ignore[misc]
    assert taken + len(refused) == len(files)
    names = {Path(row["path"]).resolve() for row in refused}
    wrongly = [file.path for file in well_formed() if file.path.resolve() in names]
    assert not wrongly, f"well-formed files were refused: {wrongly}"


def test_importing_again_stores_nothing_twice(archive: tuple[Path, dict[str, object]]) -> None:
    data, first = archive
    root = corpus_root()
    assert root is not None
    again = imported(data, root)
    assert again["stored"] == 0
    assert len(again["refused"]) == len(first["refused"])  # type: ignore[arg-type]


def test_an_import_is_sound(archive: tuple[Path, dict[str, object]]) -> None:
    done = command("check", "--payloads", "--data", str(archive[0]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.rotating(3)  # archive/test_exporter exports every fourth file in each run
def test_every_imported_instance_comes_back_by_export(archive: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    assert_come_back(exported(archive[0], tmp_path / "out"), form=lambda stored: stored)


def test_every_imported_instance_comes_back_by_c_get(server: Server) -> None:
    assert_come_back(got(server.port))


@pytest.mark.rotating(3)  # web/test_wado_corpus retrieves every fourth file in each run
def test_every_imported_instance_comes_back_by_wado_rs(server: Server) -> None:
    assert_come_back(retrieved(server.url), form=over_http)


@pytest.mark.rotating(4)  # web/test_stow stores every seventh file in each run
def test_every_well_formed_file_can_be_stored_by_stow_rs_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path / "data", http=True) as server:
        stowed(server.url, list(well_formed()))
        assert_come_back(got(server.port))
        assert_come_back(retrieved(server.url), form=over_http)


@pytest.mark.rotating(3)  # the same files come back by C-GET, which sends as C-MOVE does, in each run
def test_every_imported_instance_comes_back_by_c_move(server: Server) -> None:
    kinds = {(file.stored.sop_class_uid, file.stored.transfer_syntax_uid) for file in well_formed()}
    odd = {(sop_class_uid, syntax) for sop_class_uid, _ in kinds for syntax in (EXPLICIT, IMPLICIT)}
    studies = list(dict.fromkeys(file.study_instance_uid for file in well_formed()))
    with foreign.Receiver(sorted(kinds | odd), maximum_length=1 << 20) as sink:
        server.reload(sink.peer(more="store_associations = 2"))
        moved = foreign.move(server.port, {"level": "STUDY", "StudyInstanceUID": studies}, "SINK")
        assert not set(moved.failed_uids) & by_uid().keys()
        assert_come_back(sink.data_sets())


def test_an_import_into_a_running_archive_is_seen_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        summary = imported(tmp_path / "data", *corpus_files("series/mr-ge-wrist"), *corpus_files("charset"))
        assert summary["refused"] == []
        files = [file for file in well_formed() if {"mr-ge-wrist", "charset"} & set(file.path.parts)]
        for studies, kinds in groups(files):
            result = foreign.get(server.port, {"level": "STUDY", "StudyInstanceUID": studies}, kinds)
            assert result.statuses[-1] == 0
            for uid, brought in result.data_sets.items():
                assert brought in {
                    (file.stored.transfer_syntax_uid, file.stored.data_set)
                    for file in files
                    if file.stored.sop_instance_uid == uid
                }


@pytest.mark.rotating(4)  # the same files are imported, and others sent (test_pynetdicom), in each run
def test_every_well_formed_file_can_be_sent_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        statuses: dict[str, list[int]] = defaultdict(list)
        batch: list[File] = []
        for file in [*well_formed(), None]:
            kinds = {(each.stored.sop_class_uid, each.stored.transfer_syntax_uid) for each in batch}
            if file is None or len(kinds) == CONTEXTS_MAX:
                answers = foreign.store(server.port, [each.stored for each in batch])
                for each, status in zip(batch, answers, strict=True):
                    statuses[each.stored.sop_instance_uid].append(status)
                batch = []
            if file is not None:
                batch.append(file)
        for uid, answers in statuses.items():
            # Other files with the same UID are kept aside: B000.
            assert answers[0] == 0, f"{by_uid()[uid][0].path.name}: {answers[0]:04X}"
            assert set(answers) <= {0, 0xB000}
        brought = got(server.port)
        for uid, files in by_uid().items():
            first = files[0].stored
            assert brought[uid] == as_sent((first.transfer_syntax_uid, first.data_set)), files[0].path.name


# odd/ --------------------------------------------------------------------------------------------


def raw_forms(path: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """SOP class, instance UID, transfer syntax and bytes in which a file is thrown at the server."""
    data = path.read_bytes()
    try:
        ds = dcmread(path, stop_before_pixels=True)
        uids = (str(ds.get("SOPClassUID", "")), str(ds.get("SOPInstanceUID", "")))
        syntax = str(ds.file_meta.get("TransferSyntaxUID", IMPLICIT)) if ds.file_meta else IMPLICIT
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, RecursionError, EOFError, TypeError):
        uids, syntax = ("", ""), EXPLICIT
    sop_class_uid = uids[0] or peer.CT
    sop_instance_uid = uids[1] or "1.2.3.4"
    at = 0
    if data[128:132] == b"DICM":
        try:
            _, data_set = foreign.read_file(path)
            at = len(data) - len(data_set)
        except (IndexError, ValueError):
            at = 132
    for offset in {0, at}:
        for used in dict.fromkeys((syntax, IMPLICIT, EXPLICIT)):
            yield sop_class_uid, sop_instance_uid, used, data[offset:]


def test_nothing_odd_harms_the_server(server: Server) -> None:
    before = got(server.port)
    pids = server.worker_pids()
    forms = [form for path in corpus_files("odd", "codec-only", "palette") for form in raw_forms(path)]
    assert len(forms) > 200
    for sop_class_uid, sop_instance_uid, syntax, data in forms:
        with Peer(server.port) as script:
            script.send(peer.associate_rq([(1, sop_class_uid, [syntax]), (3, VERIFICATION, [IMPLICIT])]))
            received = script.receive()
            assert received is not None
            if received[0] != peer.ASSOCIATE_AC or peer.decode_associate_ac(received[1]).contexts[1][0] != 0:
                continue
            script.send_until_closed(peer.message(1, peer.c_store_rq(1, sop_class_uid, sop_instance_uid), data))
            answer = script.expect_message()
            assert answer.status() in (0, 0xB000) or answer.status() & 0xF000 in (0xA000, 0xC000)
            script.echo(3)
            script.release()
    with Peer(server.port) as script:
        script.associate((3, VERIFICATION, [IMPLICIT]))
        script.echo(3)
        script.release()
    assert server.worker_pids() == pids
    assert got(server.port) == before
