"""Large objects that are no images, and files that were cut, with the tools that hospitals use."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE

from tests import peer, samples
from tests.peer import CT, EXPLICIT, Peer
from tests.system.server import Server, running

PDF, STL, RAW = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.3", "1.2.840.10008.5.1.4.1.1.66"
CONFIG = """[limits]
stream_threshold_bytes = 65536
disk_reserve_bytes = 0
[storage]
segment_bytes = 1048576
[[peer]]
aet = "CUTTER"
accept_truncated = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("documents") / "data", config=CONFIG, workers=1) as started:
        yield started


def document(sop_class_uid: str, number: int, size: int) -> pydicom.Dataset:
    """A large value below the last of the attributes that the index keeps, and one of these behind it."""
    ds = samples.instance(950, 1, number)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
    del ds.PixelData
    if sop_class_uid == RAW:
        ds.add_new(0x00290010, "LO", "ACME")
        ds.add_new(0x00291010, "OB", bytes(size))
    else:
        ds.add_new(0x00420011, "OB", bytes(size))
    ds.add_new(0x00700084, "PN", "Last^Wanted")
    return ds


def stored(server: Server, ds: pydicom.Dataset, aet: str = "SCU") -> int:
    """The status of pynetdicom's C-STORE."""
    ae = AE(ae_title=aet)
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", server.port)
    assert association.is_established
    status = association.send_c_store(ds)
    association.release()
    return int(status.Status)


@pytest.mark.parametrize("sop_class_uid", [PDF, STL, RAW])
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_document_is_stored_whatever_its_size(server: Server, sop_class_uid: str, size: int) -> None:
    number = 10 * (PDF, STL, RAW).index(sop_class_uid) + (size > 1000) + 1
    assert stored(server, document(sop_class_uid, number, size)) == 0


@pytest.mark.skipif(shutil.which("storescu") is None, reason="no DCMTK here")
def test_storescu_stores_a_document(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "document.dcm"
    path.write_bytes(samples.part10(document(PDF, 50, 1_000_000)))
    command = ["storescu", "127.0.0.1", str(server.port), str(path)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("size", [600, 600_000])
def test_a_data_set_that_was_cut_is_refused_unless_its_sender_may_cut(server: Server, size: int) -> None:
    ds = samples.instance(950, 2, size, pixels=bytes(size))
    uid, whole = str(ds.SOPInstanceUID), samples.encoded(ds)
    for title, data, expected in (
        (b"SCU", whole[:-100], 0xC000),
        (b"CUTTER", whole[:-100], 0xB006),
        (b"SCU", whole, 0),
    ):
        with Peer(server.port) as script:
            script.associate((1, CT, [EXPLICIT]), calling=title)
            script.send(peer.message(1, peer.c_store_rq(1, CT, uid), data))
            assert script.expect_message().status() == expected
            script.release()
