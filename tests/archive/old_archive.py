"""Makes `written_by_40d30ac.tar.xz`: archives that commit 40d30ac wrote, and what it said of them.

    git worktree add /tmp/old 40d30ac
    .venv/bin/python -m tests.archive.old_archive /tmp/old

Everything in it was made by that commit's own commands. `test_old_archive` opens it; make it again only if a fault of
this script is found, never to let the test pass.

    stopped/     every segment sealed, the server ended by SIGTERM
    killed/      the same archive later: more instances, a deletion, then kill -9
    safe/        a backup of `stopped`
    said.json    what the commit answered for `stopped` and for `killed`: LISTS, and the sha256 of each data set
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from engine.dicom import part10
from tests import samples
from tests.system import server

TARGET = Path(__file__).with_name("written_by_40d30ac.tar.xz")
ROOT = samples.ROOT
WHY = ("--reason", "recorded")
LEFT_OUT = {"ballast", "lock.mdb"}
"""32 MiB of nothing, and what belongs to the processes of a machine."""

SETTINGS = """
[limits]
disk_reserve_bytes = 0
stream_threshold_bytes = 524288
[storage]
segment_bytes = 1048576
prewrite_bytes = 0
[[attribute]]
tag = "StudyStatusID"
level = "study"
indexed = true
[[attribute]]
tag = "0019,xxA3"
creator = "ACME 1.0"
vr = "LO"
level = "series"
"""

LISTS = {
    "studies": (
        "find",
        *("-r", "StudyInstanceUID", "-r", "PatientID", "-r", "IssuerOfPatientID", "-r", "PatientName"),
        *("-r", "AccessionNumber", "-r", "StudyDescription", "-r", "StudyStatusID"),
        *("-r", "NumberOfStudyRelatedInstances"),
    ),
    "series": ("find", "-l", "series", "-r", "SeriesInstanceUID", "-r", "Modality", "-r", "SeriesDescription"),
    "private": ("find", "-l", "series", "-r", "SeriesInstanceUID", "0019,0010=ACME 1.0", "0019,10A3=head coil"),
    "instances": ("find", "-l", "instance", "-r", "SOPInstanceUID", "-r", "InstanceNumber", "-r", "SOPClassUID"),
    "patients": ("find", "-l", "patient", "-r", "PatientID", "-r", "PatientName", "-r", "IssuerOfPatientID"),
    "holds": ("hold", "list"),
    "corrections": ("corrections",),
    "quarantine": ("quarantine", "list"),
    "conflicts": ("conflicts",),
}


class Old:
    """The commands of a checkout of that commit, on one archive."""

    def __init__(self, checkout: Path, data: Path) -> None:
        self.checkout = checkout.resolve()
        """Where everything runs: the children of that commit import from the folder in which they are started."""
        self.program = str(self.checkout / "tools" / "filmroom")
        self.data = data
        self.settings = data.parent / "filmroom.toml"
        self.settings.write_text(SETTINGS)

    def run(self, *words: str | Path, exit_codes: tuple[int, ...] = (0,)) -> str:
        where = ("--config", str(self.settings), *(() if words[0] == "send" else ("--data", str(self.data))))
        command = [self.program, *map(str, words), *where]
        done = subprocess.run(command, cwd=self.checkout, capture_output=True, text=True, check=False)
        assert done.returncode in exit_codes, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def said(self) -> dict[str, object]:
        """All that is compared later."""
        lists = {name: self.run(*words, "--json") for name, words in LISTS.items()}
        out = self.data.parent / "out"
        shutil.rmtree(out, ignore_errors=True)
        self.run("export", out, "PatientID=*")
        sums = {}
        for path in sorted(out.rglob("*.dcm")):
            body = path.read_bytes()
            meta = part10.read_file_meta(body)
            data_set = hashlib.sha256(body[meta.data_set_offset :]).hexdigest()
            sums[meta.media_storage_sop_instance_uid] = [meta.transfer_syntax_uid, data_set]
        rows = {name: _rows(text) for name, text in lists.items()}
        return {**rows, "data_sets": sums}

    def serve(self, port: int) -> subprocess.Popen[bytes]:
        words = ("serve", "--data", self.data, "--config", self.settings, "--dicom-port", port, "--host", "127.0.0.1")
        command = [self.program, *map(str, words)]
        process = subprocess.Popen(command, cwd=self.checkout, stderr=subprocess.DEVNULL, start_new_session=True)
        asked = [self.program, "echo", f"FILMROOM@127.0.0.1:{port}"]
        server.wait_for(
            lambda: not subprocess.run(asked, cwd=self.checkout, capture_output=True, check=False).returncode,
            timeout_s=60,
            what="an answer of the server",
        )
        return process


def _rows(text: str) -> list[object]:
    """Of JSON lines or of one array."""
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def first(folder: Path) -> list[Path]:
    """Studies 1 to 5: several series, syntaxes, character sets, issuers, extra and private attributes."""
    rle = samples.instance(
        4, sop_class_uid=SecondaryCaptureImageStorage, modality="OT", patient_id="P4", patient_name="Müller^Jörg"
    )
    rle.compress(RLELossless)
    plain = [samples.instance(1, series, number) for series in (1, 2) for number in (1, 2, 3)]
    native = (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    other = [
        *(
            samples.instance(2, 1, number, patient_id="P2", IssuerOfPatientID="H1", transfer_syntax=syntax)
            for number, syntax in enumerate(native, 1)
        ),
        samples.instance(3, 1, 1, patient_id="P3", patient_name="Émile^Zoë", StudyStatusID="READ"),
        rle,
        *(samples.instance(5, 1, n, patient_id="P5", patient_name=f"Ill^Spelt{n}") for n in (1, 2)),
        *(samples.instance(9, 1, n, patient_id="P9") for n in (1, 2, 3)),
    ]
    private = samples.instance(3, 2, 1, patient_id="P3", patient_name="Émile^Zoë", sop_class_uid=samples.MR)
    private.add_new(0x00190010, "LO", "ACME 1.0")
    private.add_new(0x001910A3, "LO", "head coil")
    return samples.write(folder, *plain, *other, private)


def cut(folder: Path) -> None:
    """A file that ends within Pixel Data: that commit took it for whole."""
    path = samples.write(folder, samples.instance(6, patient_id="P6"))[0]
    path.write_bytes(path.read_bytes()[:-200])


def large(number: int) -> Dataset:
    """Long enough to stream into a segment of its own."""
    return samples.instance(7, 1, number, patient_id="P7", pixels=bytes(600_000))


def make(checkout: Path, folder: Path, port: int) -> dict[str, object]:
    """Fills `folder` with what the head lists but the file."""
    old = Old(checkout, folder / "stopped")
    first(folder / "first")
    old.run("import", folder / "first")
    cut(folder / "cut")
    old.run("import", folder / "cut")
    others = [samples.instance(1, series, number, pixels=bytes(512)) for series, number in ((1, 1), (2, 2))]
    samples.write(folder / "versions", *others)
    old.run("import", folder / "versions", exit_codes=(0, 1))
    old.run("hold", "set", "--study", f"{ROOT}.3", *WHY)
    old.run("hold", "set", "--study", f"{ROOT}.5", *WHY)
    old.run("hold", "release", "--study", f"{ROOT}.5", *WHY)
    old.run("delete", "--study", f"{ROOT}.9", "--yes", *WHY)
    old.run("delete", "--instance", f"{ROOT}.1.1.3", "--yes", *WHY)
    old.run("patient", "merge", "P4", "P1", *WHY)
    old.run("study", "move", f"{ROOT}.5", "P3", *WHY)
    old.run("correct", "--study", f"{ROOT}.2", "AccessionNumber=A99", "StudyDescription=", *WHY)
    old.run("correct", "--series", f"{ROOT}.1.2", "SeriesDescription=wrong", *WHY)
    old.run("undo", json.loads(old.run("corrections", "--json").splitlines()[-1])["number"], *WHY)
    old.run("compact", "--all")
    serving = old.serve(port)
    try:
        samples.write(folder / "more", *(large(number) for number in (1, 2, 3)))
        no_study = samples.instance(8, patient_id="P8")
        del no_study.StudyInstanceUID
        samples.write(folder / "none", no_study)
        old.run("send", f"FILMROOM@127.0.0.1:{port}", folder / "more")
        old.run("send", f"FILMROOM@127.0.0.1:{port}", folder / "none", exit_codes=(0, 1))
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(60)
    old.run("delete", "--instance", f"{ROOT}.7.1.2", "--yes", *WHY)
    old.run("backup", folder / "safe")
    said: dict[str, object] = {"stopped": old.said()}

    killed = Old(checkout, folder / "killed")
    shutil.copytree(old.data, killed.data, symlinks=True)
    serving = killed.serve(port)
    samples.write(folder / "late", *(samples.instance(10, 1, n, patient_id="P10") for n in (1, 2, 3)))
    killed.run("send", f"FILMROOM@127.0.0.1:{port}", folder / "late")
    killed.run("delete", "--instance", f"{ROOT}.10.1.2", "--yes", *WHY)
    os.killpg(serving.pid, signal.SIGKILL)
    serving.wait(60)
    shutil.copytree(killed.data, folder / "kept", ignore=shutil.ignore_patterns("*.sock"))
    said["killed"] = killed.said()  # opens it, which recovers it
    shutil.rmtree(killed.data)
    (folder / "kept").rename(killed.data)
    return said


def pack(folder: Path, said: dict[str, object]) -> None:
    (folder / "said.json").write_text(json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False))
    with tarfile.open(TARGET, "w:xz", preset=9) as tar:
        for name in ("stopped", "killed", "safe", "said.json"):
            tar.add(folder / name, name, filter=_kept)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(member.name).name in LEFT_OUT or not (member.isfile() or member.isdir()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the archive of commit 40d30ac again.")
    parser.add_argument("checkout", type=Path, help="a work tree of 40d30ac")
    parser.add_argument("--port", type=int, default=11112)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(folder, make(options.checkout, folder, options.port))
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
