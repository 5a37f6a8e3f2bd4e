"""engine.net.trace: what a wire trace says of an association, what it leaves out, and that it never hurts one."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from engine.dimse import messages
from engine.errors import ConfigError
from engine.net.trace import Trace, TraceFolder, make_folder
from engine.ul import pdu
from engine.ul.pdu import AssociateAC, AssociateRQ, PresentationContextRQ, UserIdentityRQ, UserInformation

RQ = AssociateRQ(
    called_ae_title="FILMROOM",
    calling_ae_title="WORKSTATION",
    presentation_contexts=(PresentationContextRQ(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),),
    user_information=UserInformation(user_identity_rq=UserIdentityRQ(2, True, b"radiologist", b"secret")),
)


def written(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.iterdir()
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def traced(folder: Path) -> Trace:
    trace = TraceFolder(folder, worker=3).association("10.0.0.7")
    assert trace is not None
    return trace


def test_an_association_is_a_file_of_decoded_pdus_and_messages(tmp_path: Path) -> None:
    trace = traced(tmp_path / "trace")
    request = pdu.encode(RQ)
    trace.pdu("in", request[0], request[6:])
    trace.sent(pdu.encode(AssociateAC(titles=request[10:74], presentation_contexts=())))
    trace.command("in", 1, messages.CEchoRQ(7).encode())
    trace.data_set("in", 1, 526_000, True)
    trace.close("released by the peer")
    rq, ac, echo, data_set, end = written(tmp_path / "trace")
    assert (rq["direction"], rq["pdu"], rq["peer"]) == ("in", "AssociateRQ", "10.0.0.7")
    assert rq["presentation_contexts"][0]["abstract_syntax"] == "1.2.840.10008.1.1"
    assert (ac["direction"], ac["pdu"]) == ("out", "AssociateAC")
    assert (ac["called_ae_title"], ac["calling_ae_title"]) == ("FILMROOM", "WORKSTATION")
    assert (echo["message"], echo["message_id"]) == ("CEchoRQ", 7)
    assert data_set["data_set_bytes"] == 526_000
    assert end["ended"] == "released by the peer"


def test_passcodes_stay_out_and_the_file_is_for_its_owner_and_group(tmp_path: Path) -> None:
    trace = traced(tmp_path / "trace")
    request = pdu.encode(RQ)
    trace.pdu("in", request[0], request[6:])
    trace.close("")
    (path,) = (tmp_path / "trace").iterdir()
    assert b"secret" not in path.read_bytes()
    assert b"radiologist" not in path.read_bytes()
    assert not stat.S_IMODE(path.stat().st_mode) & 0o007


def test_invalid_bytes_are_traced_as_an_error(tmp_path: Path) -> None:
    trace = traced(tmp_path)
    trace.pdu("in", 1, b"\x00\x01")
    trace.command("in", 1, b"\xff")
    trace.close("")
    bad_pdu, bad_command, _ = written(tmp_path)
    assert bad_pdu["error"]
    assert bad_command["command"] == "ff"


def test_a_folder_that_cannot_be_created_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"log\.wire_trace: the folder .*file cannot be made"):
        make_folder(tmp_path / "file")


class _FullDisk(io.RawIOBase):
    """Takes nothing more."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_the_trace_and_not_the_association() -> None:
    trace = Trace(_FullDisk(), "10.0.0.7")  # type: ignore[arg-type]
    trace.data_set("in", 1, 10, True)
    trace.data_set("in", 1, 10, True)
    trace.close("released by the peer")


def test_an_association_is_not_traced_if_its_file_cannot_be_created(tmp_path: Path) -> None:
    traces = TraceFolder(tmp_path / "trace", 0)
    (tmp_path / "trace").rmdir()
    assert traces.association("10.0.0.7") is None
