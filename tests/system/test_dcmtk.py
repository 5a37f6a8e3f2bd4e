"""DCMTK's command line tools against a whole server: echoscu, storescu, findscu, movescu with storescp, getscu.

Skipped where they are not installed (Debian package dcmtk).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import samples
from tests.corpus import corpus_files, needs_corpus
from tests.system import foreign
from tests.system.server import Server, free_port, running, wait_for

TOOLS = ("echoscu", "storescu", "findscu", "movescu", "getscu", "storescp")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="DCMTK's tools are not installed (Debian package dcmtk)"
)

STUDY = f"{samples.ROOT}.1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("dcmtk") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with subfolders: two series of study 1, and study 2."""
    root = tmp_path_factory.mktemp("files")
    samples.write(root / "a", *(samples.instance(1, 1, number) for number in range(1, 7)))
    samples.write(root / "b", *(samples.instance(1, 2, number, modality="MR") for number in range(1, 4)))
    samples.write(root / "b" / "c", *(samples.instance(2, 1, number, patient_id="P2") for number in range(1, 4)))
    return root


@pytest.fixture(scope="module")
def filled(server: Server, folder: Path) -> Server:
    """The server once storescu has sent the folder."""
    run("storescu", "+sd", "+r", "-aec", "FILMROOM", "127.0.0.1", str(server.port), str(folder))
    return server


def run(*command: str, timeout_s: float = 60.0, folder: Path | None = None) -> str:
    """A tool's output; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=folder)
    assert done.returncode == 0, f"{command[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def data_sets(folder: Path) -> dict[str, bytes]:
    """SOP Instance UID → data set of the Part 10 files in a folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            meta, data_set = foreign.read_file(path)
            found[foreign.uid_of(meta, 0x0003)] = data_set
    return found


@contextmanager
def storescp(output: Path, *options: str) -> Iterator[int]:
    """A running storescp that writes what it gets as it comes."""
    output.mkdir()
    port = free_port()
    process = subprocess.Popen(
        ["storescp", "-aet", "SINK", "-od", str(output), "+B", "+xa", *options, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, what="storescp listening")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_echoscu_succeeds(server: Server) -> None:
    run("echoscu", "-aec", "FILMROOM", "--repeat", "5", "127.0.0.1", str(server.port))
    run("echoscu", "-pts", "10", "-ppc", "100", "127.0.0.1", str(server.port))


def test_storescu_sends_a_whole_folder(filled: Server, folder: Path) -> None:
    for study, count in ((1, 9), (2, 3)):
        keys = {"level": "IMAGE", "StudyInstanceUID": f"{samples.ROOT}.{study}", "SOPInstanceUID": ""}
        status, matches = foreign.find(filled.port, keys)
        assert (status, len(matches)) == (0, count)


def test_storescu_may_send_it_again(filled: Server, folder: Path) -> None:
    before = filled.stats()["archive"]
    run("storescu", "+sd", "+r", "127.0.0.1", str(filled.port), str(folder))
    after = filled.stats()["archive"]
    assert {key: after[key] for key in ("instances", "versions", "live_bytes")} == {  # type: ignore[index]
        key: before[key]  # type: ignore[index]
        for key in ("instances", "versions", "live_bytes")
    }


@pytest.mark.parametrize("syntaxes", ["--propose-uncompr", "--propose-implicit", "--propose-little", "--propose-big"])
def test_storescu_with_other_proposals_is_served(server: Server, tmp_path: Path, syntaxes: str) -> None:
    number = 50 + len(syntaxes)
    samples.write(tmp_path / "in", samples.instance(number, 1, 1))
    run("storescu", syntaxes, "127.0.0.1", str(server.port), str(tmp_path / "in" / "00000.dcm"))
    keys = {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.{number}"}
    assert len(foreign.find(server.port, keys)[1]) == 1


@pytest.mark.parametrize("proposed", ["-xs", "-xv", "-xr", "-xx"])
def test_storescu_that_combines_native_and_compressed_syntaxes_sends_its_native_image(
    server: Server, tmp_path: Path, proposed: str
) -> None:
    number = 70 + ["-xs", "-xv", "-xr", "-xx"].index(proposed)
    samples.write(tmp_path / "in", samples.instance(number, 1, 1))
    run("storescu", "+C", proposed, "127.0.0.1", str(server.port), str(tmp_path / "in" / "00000.dcm"))
    keys = {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.{number}"}
    assert len(foreign.find(server.port, keys)[1]) == 1


def test_storescu_with_a_small_or_large_pdu_is_served(server: Server, tmp_path: Path) -> None:
    for number, length in ((60, "4096"), (61, "131072")):
        samples.write(tmp_path / length, samples.instance(number, 1, 1, pixels=bytes(400_000)))
        run("storescu", "-pdu", length, "127.0.0.1", str(server.port), str(tmp_path / length / "00000.dcm"))
        keys = {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.{number}"}
        assert len(foreign.find(server.port, keys)[1]) == 1


def test_findscu_finds_at_every_level(filled: Server) -> None:
    address = ("127.0.0.1", str(filled.port))
    found = run(
        "findscu",
        "-v",
        "-S",
        *address,
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        "StudyInstanceUID",
        "-k",
        "PatientID=P2",
    )
    assert f"{samples.ROOT}.2" in found
    assert f"[{STUDY}" not in found
    series = ("-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={STUDY}", "-k", "SeriesInstanceUID")
    found = run("findscu", "-v", "-S", *address, *series, "-k", "Modality=MR")
    assert f"{STUDY}.2" in found
    assert f"{STUDY}.1" not in found
    image = ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={STUDY}.1")
    found = run("findscu", "-v", "-S", *address, *image, "-k", "SOPInstanceUID", "-k", "InstanceNumber=4")
    assert f"{STUDY}.1.4" in found
    patients = ("-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID", "-k", "PatientName=Doe*")
    assert "P2" in run("findscu", "-v", "-P", *address, *patients)


def test_findscu_may_cancel(filled: Server) -> None:
    keys = ("-k", "QueryRetrieveLevel=IMAGE", "-k", "SOPInstanceUID")
    run("findscu", "-S", "--cancel", "2", "127.0.0.1", str(filled.port), *keys)


def test_movescu_brings_a_study_to_storescp(filled: Server, folder: Path, tmp_path: Path) -> None:
    with storescp(tmp_path / "out") as port:
        filled.reload(f'[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = {port}\n')
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")
        run("movescu", "-S", "-aec", "FILMROOM", "-aem", "SINK", "127.0.0.1", str(filled.port), *keys)
    expected = {uid: data for uid, data in data_sets(folder).items() if uid.startswith(f"{STUDY}.")}
    assert data_sets(tmp_path / "out") == expected


def test_movescu_receives_itself_what_it_moved(filled: Server, folder: Path, tmp_path: Path) -> None:
    port = free_port()
    filled.reload(f'[[peer]]\naet = "MOVER"\nhost = "127.0.0.1"\nport = {port}\n')
    (tmp_path / "out").mkdir()
    keys = ("-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={STUDY}.2")
    # With +B it does not look at -od (3.6.7).
    mover = ("movescu", "-S", "-aet", "MOVER", "-aem", "MOVER", "+P", str(port), "+B")
    run(*mover, "127.0.0.1", str(filled.port), *keys, folder=tmp_path / "out")
    expected = {uid: data for uid, data in data_sets(folder).items() if uid.startswith(f"{STUDY}.2.")}
    assert data_sets(tmp_path / "out") == expected


def test_getscu_brings_a_study(filled: Server, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")
    run("getscu", "-S", "-od", str(tmp_path / "out"), "+B", "127.0.0.1", str(filled.port), *keys)
    expected = {uid: data for uid, data in data_sets(folder).items() if uid.startswith(f"{STUDY}.")}
    assert data_sets(tmp_path / "out") == expected


def test_several_storescu_and_findscu_at_once_are_served(server: Server, tmp_path: Path) -> None:
    folders = []
    for number in range(6):
        folder = tmp_path / str(number)
        samples.write(folder, *(samples.instance(100 + number, 1, index) for index in range(1, 21)))
        folders.append(folder)
    find = ("findscu", "-S", "127.0.0.1", str(server.port), "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID")
    commands = [("storescu", "+sd", "127.0.0.1", str(server.port), str(folder)) for folder in folders] + [find] * 4
    with ThreadPoolExecutor(len(commands)) as pool:
        for done in [pool.submit(run, *command) for command in commands]:
            done.result()
    for number in range(6):
        keys = {"level": "IMAGE", "StudyInstanceUID": f"{samples.ROOT}.{100 + number}", "SOPInstanceUID": ""}
        assert len(foreign.find(server.port, keys)[1]) == 20


@needs_corpus("series/mr-siemens-one-image-nine-syntaxes")
def test_storescu_sends_real_series_as_they_are(server: Server, tmp_path: Path) -> None:
    files = corpus_files("series/mr-siemens-one-image-nine-syntaxes")
    uncompressed = (foreign.EXPLICIT, foreign.IMPLICIT, "1.2.840.10008.1.2.2")
    for path in files:
        meta, _ = foreign.read_file(path)
        syntax = foreign.uid_of(meta, 0x0010)
        proposal = {
            "1.2.840.10008.1.2.5": "--propose-rle",
            "1.2.840.10008.1.2.4.70": "--propose-lossless",
            "1.2.840.10008.1.2.4.90": "--propose-j2k-lossless",
            "1.2.840.10008.1.2.4.80": "--propose-jls-lossless",
            "1.2.840.10008.1.2.4.81": "--propose-jls-lossy",
            foreign.IMPLICIT: "--propose-implicit",
            "1.2.840.10008.1.2.2": "--propose-big",
        }.get(syntax, "--propose-little" if syntax in uncompressed else "")
        if not proposal:
            continue
        run("storescu", proposal, "127.0.0.1", str(server.port), str(path))
        uid = foreign.uid_of(meta, 0x0003)
        sop_class_uid = foreign.uid_of(meta, 0x0002)
        brought = foreign.get(server.port, {"level": "IMAGE", "SOPInstanceUID": uid}, [(sop_class_uid, syntax)])
        assert brought.statuses[-1] == 0, f"{path.name}: {brought.statuses[-1]:04X}"
        assert brought.data_sets[uid][0] == syntax
