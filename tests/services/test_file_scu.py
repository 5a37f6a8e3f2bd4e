"""services.file_scu: files as they are on disk arrive as they are, at a foreign Storage SCP (pynetdicom)."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import uvloop
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom.sop_class import CTImageStorage, MRImageStorage  # type: ignore[attr-defined]

from engine.config import Config, Peer
from engine.dicom.convert import convert
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from engine.errors import AssociationFailed, DataSetError
from engine.services import file_scu
from tests.sinks import sink


def written(
    path: Path, *, sop_class: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian, pixels: int = 0
) -> bytes:
    """Writes a file; its data set as it lies there."""
    data_set = Dataset()
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    data_set.PatientName = "DOE^JANE"
    data_set.Rows = 1
    if pixels:
        data_set.PixelData = bytes(range(256)) * (pixels // 256)
        data_set["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    file = FileDataset(None, data_set, file_meta=meta, preamble=b"\0" * 128)
    buffer = io.BytesIO()
    dcmwrite(buffer, file, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()[file_scu.read_head(path).data_set_offset :]


def send(peer: Peer, *paths: Path) -> file_scu.SendSummary:
    return uvloop.run(file_scu.send_files(peer, Config(), list(paths), lambda what, done, total: None))


def test_folders_and_files_are_sent_as_they_are_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    expected = {
        written(tmp_path / "a" / "1.dcm"),
        written(tmp_path / "a" / "b" / "2.dcm", sop_class=MRImageStorage, syntax=ImplicitVRLittleEndian),
        written(tmp_path / "3.dcm", pixels=3 << 20),
    }
    both = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    with sink({CTImageStorage: both, MRImageStorage: both}) as (peer, received):
        summary = send(peer, tmp_path / "a", tmp_path / "3.dcm")
    assert (summary.sent, summary.failed) == (3, [])
    assert {data for _, data in received.values()} == expected


@pytest.mark.parametrize("pdu_length_max", [0, 1000, 1 << 20])
def test_any_pdu_length_of_the_peer_is_respected(tmp_path: Path, pdu_length_max: int) -> None:
    expected = written(tmp_path / "1.dcm", pixels=1 << 20)
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}, pdu_length_max=pdu_length_max) as (peer, received):
        assert send(peer, tmp_path).sent == 1
    assert [data for _, data in received.values()] == [expected]


def test_instances_are_converted_to_a_transfer_syntax_that_the_peer_accepts(tmp_path: Path) -> None:
    written(tmp_path / "1.dcm", pixels=2048)
    with sink({CTImageStorage: [ImplicitVRLittleEndian]}) as (peer, received):
        assert send(peer, tmp_path).sent == 1
    [(syntax, data)] = received.values()
    assert syntax == ImplicitVRLittleEndian
    assert bytes(range(256)) * 8 in data


def test_files_that_cannot_be_sent_are_listed_and_the_others_are_sent(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("no DICOM file, whatever its length is" * 9)
    written(tmp_path / "1.dcm", sop_class=MRImageStorage)
    written(tmp_path / "2.dcm")
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}) as (peer, received):
        summary = send(peer, tmp_path)
    assert (summary.sent, len(received)) == (1, 1)
    assert [Path(path).name for path, _ in summary.failed] == ["0.txt", "1.dcm"]
    assert "no presentation context" in summary.failed[1][1]


@pytest.mark.parametrize("follow", [False, True])
def test_pipes_devices_and_links_to_them_are_refused_without_blocking(tmp_path: Path, follow: bool) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(tmp_path / "pipe")
    (folder / "null").symlink_to("/dev/null")
    written(folder / "1.dcm")
    paths = [folder, tmp_path / "pipe", Path("/dev/null"), Path("/proc/kmsg")]
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}) as (peer, _):
        summary = uvloop.run(file_scu.send_files(peer, Config(), paths, lambda what, done, total: None, follow=follow))
    assert summary.sent == 1
    reasons = dict(summary.failed)
    assert reasons[str(folder / "pipe")] == "is neither a file nor a folder"
    assert reasons[str(tmp_path / "pipe")] == reasons["/dev/null"] == "is neither a file nor a folder"
    assert len(reasons) == 6


def test_a_refusal_names_the_status(tmp_path: Path) -> None:
    written(tmp_path / "1.dcm")
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}, status=0xA700) as (peer, _):
        summary = send(peer, tmp_path)
    assert summary.sent == 0
    assert "status A700" in summary.failed[0][1]


def test_a_warning_is_a_success(tmp_path: Path) -> None:
    written(tmp_path / "1.dcm")
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}, status=0xB000) as (peer, _):
        assert send(peer, tmp_path).sent == 1


def test_an_unreachable_peer_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "1.dcm")
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}) as (peer, _):
        pass
    with pytest.raises(AssociationFailed, match="SINK at 127.0.0.1"):
        send(peer, tmp_path)


def test_heads_without_uids_are_completed_from_the_data_set(tmp_path: Path) -> None:
    data = written(tmp_path / "1.dcm")
    (tmp_path / "bare.dcm").write_bytes(data)
    bare, whole = file_scu.read_head(tmp_path / "bare.dcm"), file_scu.read_head(tmp_path / "1.dcm")
    assert (bare.sop_instance_uid, bare.transfer_syntax_uid) == (whole.sop_instance_uid, whole.transfer_syntax_uid)
    assert (bare.data_set_offset, bare.data_set_bytes) == (0, len(data))
    with pytest.raises(DataSetError):
        file_scu.read_head(tmp_path)


@pytest.mark.parametrize("rest", [0, 3, 7, 11, 2048])
def test_a_file_of_another_native_syntax_is_converted_while_it_is_sent(tmp_path: Path, rest: int) -> None:
    data = written(tmp_path / "a", pixels=3 << 20)
    with (tmp_path / "a").open("ab") as file:
        file.write(bytes(rest))
    with sink({CTImageStorage: [ImplicitVRLittleEndian]}) as (peer, received):
        summary = send(peer, tmp_path / "a")
    assert (summary.sent, summary.failed) == (1, [])
    ((syntax, came),) = received.values()
    assert syntax == ImplicitVRLittleEndian
    assert came == convert(data, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


def test_a_file_of_odd_length_is_sent_with_its_last_element_padded(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with (tmp_path / "a").open("ab") as file:
        file.write(b"\xe0\x7f\x10\0OB\0\0\5\0\0\0\1\2\3\4\5")
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}) as (peer, received):
        assert send(peer, tmp_path / "a").sent == 1
    ((_, came),) = received.values()
    assert came.endswith(b"\xe0\x7f\x10\0OB\0\0\6\0\0\0\1\2\3\4\5\0")


def test_in_a_file_of_odd_length_the_odd_value_is_padded(tmp_path: Path) -> None:
    written(tmp_path / "a")
    tail = b"\xe0\x7f\x10\0OB\0\0\4\0\0\0\1\2\3\4"
    with (tmp_path / "a").open("ab") as file:
        file.write(b"\x40\0\0\x24LO\3\0odd" + tail)
    with sink({CTImageStorage: [ExplicitVRLittleEndian]}) as (peer, received):
        assert send(peer, tmp_path / "a").sent == 1
    ((_, came),) = received.values()
    assert came.endswith(b"\x40\0\0\x24LO\4\0odd " + tail)
