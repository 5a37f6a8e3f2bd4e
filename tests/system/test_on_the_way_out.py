"""Odd objects that came in must go out to everybody: of odd length, with bytes after the end, in private syntaxes.

Everything against a whole server, with DCMTK and pynetdicom as they come.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.uid import RLELossless
from pynetdicom import AE, build_role, evt

from engine.dicom import part10
from tests import samples, template
from tests.system.server import ROOT, Server, running
from tests.system.test_dcmtk import run, storescp

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PRIVATE = "1.3.46.670589.33.1.4.1"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

needs_dcmtk = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("getscu", "movescu", "storescp", "dcmdump")), reason="no DCMTK"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = '[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = 1\n'
    with running(tmp_path_factory.mktemp("out") / "data", config=config, workers=1) as started:
        yield started


ODD_PIXELS = b"\1\2\3\4\5\6\7\x08\xff"


def pixels_that_dcmtk_reads_too(file: Path) -> bytes:
    run("dcmdump", "+L", str(file))
    return bytes(dcmread(file).PixelData)


def odd_data_set(study: int) -> bytes:
    """Ends with 9 bytes of pixels; what says so lies before."""
    ds = samples.instance(study, pixels=b"")
    ds.Rows = ds.Columns = 3
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    del ds.PixelData
    return samples.encoded(ds) + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 9) + ODD_PIXELS


def stored(server: Server, folder: Path, study: int, data: bytes, syntax: str = EXPLICIT) -> str:
    """Imports one data set as it is; its Study Instance UID."""
    path = folder / f"{study}.dcm"
    path.write_bytes(part10.write_file_meta(samples.CT, f"{samples.ROOT}.{study}.1.1", syntax) + data)
    done = template.run("engine", "import", str(path), "--data", str(server.data), folder=ROOT)
    assert done.returncode == 0, done.stderr
    return f"{samples.ROOT}.{study}"


def fetched(server: Server, study: str, *syntaxes: str, calling: str = "GETTER") -> tuple[int, list[tuple[str, bytes]]]:
    """C-GET by pynetdicom: the final status, and transfer syntax and data set of each instance."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(STUDY_ROOT_GET)
    for syntax in syntaxes:
        ae.add_requested_context(samples.CT, syntax)
    got: list[tuple[str, bytes]] = []

    def take(event: evt.Event) -> int:
        got.append((event.context.transfer_syntax, event.request.DataSet.getvalue()))
        return 0

    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    association = ae.associate(
        "127.0.0.1",
        server.port,
        ext_neg=[build_role(samples.CT, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, take)],
    )
    assert association.is_established
    status = [status.Status for status, _ in association.send_c_get(identifier, STUDY_ROOT_GET)][-1]
    association.release()
    return status, got


def test_a_data_set_of_odd_length_is_sent_with_one_nul(server: Server, tmp_path: Path) -> None:
    data = odd_data_set(1)
    assert len(data) % 2
    study = stored(server, tmp_path, 1, data)
    header = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 9)
    padded = data.replace(header, struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 10)) + b"\0"
    assert fetched(server, study, EXPLICIT) == (0, [(EXPLICIT, padded)])
    for syntax in (IMPLICIT, BIG, DEFLATED):
        status, got = fetched(server, study, syntax)
        assert (status, len(got[0][1]) % 2) == (0, 0), syntax


@needs_dcmtk
def test_dcmtk_reads_a_data_set_of_odd_length_that_it_gets(server: Server, tmp_path: Path) -> None:
    study = stored(server, tmp_path, 2, odd_data_set(2))
    for options in ((), ("+xi",), ("+B",)):
        folder = tmp_path / ("get" + "".join(options))
        folder.mkdir()
        keys = ("-k", "0008,0052=STUDY", "-k", f"0020,000d={study}")
        run("getscu", "-aec", "FILMROOM", *options, "127.0.0.1", str(server.port), *keys, "-od", str(folder))
        (file,) = folder.iterdir()
        assert pixels_that_dcmtk_reads_too(file) == ODD_PIXELS + b"\0", options


def movable(server: Server, port: int) -> None:
    server.reload(f'[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = {port}\n')


@needs_dcmtk
@pytest.mark.parametrize("syntax", ["=", "i"])
def test_dcmtk_reads_a_data_set_of_odd_length_that_is_moved_to_it(server: Server, tmp_path: Path, syntax: str) -> None:
    number = {"=": 3, "i": 4}[syntax]
    study = stored(server, tmp_path, number, odd_data_set(number))
    with storescp(tmp_path / "sink", f"+x{syntax}") as port:
        movable(server, port)
        keys = ("-k", "0008,0052=STUDY", "-k", f"0020,000d={study}")
        run("movescu", "-aec", "FILMROOM", "-aem", "SINK", "127.0.0.1", str(server.port), *keys)
    (file,) = (tmp_path / "sink").iterdir()
    assert pixels_that_dcmtk_reads_too(file) == ODD_PIXELS + b"\0"


@pytest.mark.parametrize("rest", [3, 7, 11, 100, 2048])
def test_what_has_bytes_behind_its_end_is_sent_in_every_native_syntax(
    server: Server, tmp_path: Path, rest: int
) -> None:
    number = 10_000 + rest
    data = samples.encoded(samples.instance(number))
    study = stored(server, tmp_path, number, data + bytes(rest))
    for syntax in (EXPLICIT, IMPLICIT, BIG, DEFLATED):
        status, got = fetched(server, study, syntax)
        assert (status, len(got)) == (0, 1), syntax


def test_what_was_imported_in_a_private_syntax_is_fetched_as_it_is(server: Server, tmp_path: Path) -> None:
    data = samples.encoded(samples.instance(20))
    study = stored(server, tmp_path, 20, data, PRIVATE)
    assert fetched(server, study, PRIVATE, EXPLICIT) == (0, [(PRIVATE, data)])
    assert fetched(server, study, EXPLICIT)[0] == 0xA702


def test_a_damaged_frame_fails_its_instance_and_no_other(server: Server, tmp_path: Path) -> None:
    for number in (1, 2):
        ds = samples.instance(30, 1, number)
        ds.NumberOfFrames, ds.Rows, ds.Columns = 3, 8, 8
        ds.PixelData = bytes(range(128)) * 3
        compress(ds, RLELossless, generate_instance_uid=False)
        data = samples.encoded(ds)
        if number == 1:
            at = data.rindex(b"\xfe\xff\0\xe0") + 8  # the header of the last frame
            data = data[:at] + bytes(64) + data[at + 64 :]
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10.write_file_meta(samples.CT, str(ds.SOPInstanceUID), RLELossless) + data)
        done = template.run("engine", "import", str(path), "--data", str(server.data), folder=ROOT)
        assert done.returncode == 0, done.stderr
    status, got = fetched(server, f"{samples.ROOT}.30", EXPLICIT)
    assert (status, len(got)) == (0xB000, 1)
    status, got = fetched(server, f"{samples.ROOT}.30", RLELossless)
    assert (status, len(got)) == (0, 2)
