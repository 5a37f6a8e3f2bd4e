"""Every change of a log that was signed is found, and named by its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import audit
from engine.audit.chain import HASH_BYTES, chain_files, first_hash, folder_of, next_hash
from engine.audit.checkpoint import CHECKPOINTS, Notary, checkpoint_files
from engine.audit.verify import Report, verify
from tests.audit.recording import make_log, record_of, rewrite, stored


def kinds(report: Report) -> set[str]:
    return {problem.kind for problem in report.problems}


def test_an_untouched_log_is_whole(tmp_path: Path) -> None:
    make_log(tmp_path)
    report = verify(tmp_path)
    assert report.is_whole and not report.problems
    assert (report.events, report.chains, report.checkpoints, report.unsigned) == (9, 2, 2, 0)


def test_the_log_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    make_log(tmp_path)
    for path in folder_of(tmp_path).rglob("*"):
        mode = path.stat().st_mode & 0o777
        public = {"verify-key.pem": 0o640}
        assert mode == (0o700 if path.is_dir() else public.get(path.name, 0o600)), path
    assert folder_of(tmp_path).stat().st_mode & 0o777 == 0o700


def _flip(lines: list[bytes]) -> list[bytes]:
    lines[2] = lines[2].replace(b"DOE^JANE", b"DOE^JOHN")
    return lines


def _delete(lines: list[bytes]) -> list[bytes]:
    return lines[:2] + lines[3:]


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _cut(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def _add(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[1], *lines[2:]]


@pytest.mark.parametrize(
    ("change", "kind", "place"),
    [
        (_flip, "changed", "000/000000000001.events:3"),
        (_delete, "gap", "000/000000000001.events:3"),
        (_swap, "order", "000/000000000001.events:3"),
        (_cut, "cut", "chain 000"),
        (_add, "order", "000/000000000001.events:3"),
    ],
)
def test_a_change_is_found_where_it_is(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], kind: str, place: str
) -> None:
    make_log(tmp_path)
    rewrite(tmp_path, "000", change)
    report = verify(tmp_path)
    assert not report.is_whole
    assert (kind, place) in {(problem.kind, problem.place) for problem in report.problems}


def _rehashed(lines: list[bytes], name: str) -> list[bytes]:
    """A forger's chain: every hash is right."""
    before, out = first_hash(name), []
    for line in lines:
        before = next_hash(before, record_of(line))
        out.append(before.hex().encode() + b" " + record_of(line))
    return out


def test_a_chain_with_new_hashes_is_not_the_signed_one(tmp_path: Path) -> None:
    make_log(tmp_path)
    rewrite(tmp_path, "000", lambda lines: _rehashed(_flip(lines), "000"))
    report = verify(tmp_path)
    assert kinds(report) == {"forged"}


def test_a_chain_with_new_hashes_is_not_found_without_checkpoints(tmp_path: Path) -> None:
    """The control of the test above: it is the signatures that find it."""
    make_log(tmp_path, signed=False)
    rewrite(tmp_path, "000", lambda lines: _rehashed(_flip(lines), "000"))
    assert {problem.kind for problem in verify(tmp_path).problems} == {"missing"}  # the key only


def test_a_missing_chain_and_a_missing_file_are_found(tmp_path: Path) -> None:
    make_log(tmp_path)
    shutil.rmtree(chain_files(tmp_path, "001")[0].parent)
    assert [(problem.kind, problem.place) for problem in verify(tmp_path).problems] == [("missing", "chain 001")]
    (first,) = chain_files(tmp_path, "000")
    lines = first.read_bytes().split(b"\n")
    (first.parent / "000000000004.events").write_bytes(b"\n".join(lines[3:]))
    first.write_bytes(b"\n".join(lines[:3]) + b"\n")
    assert kinds(verify(tmp_path)) == {"missing"}  # in two files it is still whole
    first.unlink()
    report = verify(tmp_path)
    assert any("records 1 to 3" in problem.detail for problem in report.problems)


def test_chains_that_were_exchanged_are_found(tmp_path: Path) -> None:
    make_log(tmp_path, (3, 3))
    one, other = (chain_files(tmp_path, name)[0] for name in ("000", "001"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert {"changed", "forged"} <= kinds(verify(tmp_path))


def test_a_checkpoint_of_another_key_is_forged(tmp_path: Path) -> None:
    make_log(tmp_path)
    key = tmp_path / "kept.pem"
    shutil.copy(folder_of(tmp_path) / "verify-key.pem", key)
    shutil.rmtree(folder_of(tmp_path) / CHECKPOINTS)
    (folder_of(tmp_path) / "signing-key.pem").unlink()
    Notary(tmp_path).sign()
    assert verify(tmp_path).is_whole, "with the key beside it nobody can know"
    assert kinds(verify(tmp_path, key=key)) == {"forged"}


def test_missing_checkpoints_are_found(tmp_path: Path) -> None:
    make_log(tmp_path)
    (path,) = checkpoint_files(tmp_path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(lines[1] + b"\n")
    assert kinds(verify(tmp_path)) == {"missing"}


def test_a_log_that_was_rolled_back_as_a_whole_is_found_by_the_anchor(tmp_path: Path) -> None:
    data, early = tmp_path / "data", tmp_path / "early"
    make_log(data)
    shutil.copytree(data, early)
    recorder = audit.Recorder(data)
    recorder.begin_now(stored("1.2.99"))
    recorder.close()
    Notary(data).sign()
    anchor = [b"<85>1 2026 host filmroom 1 - - " + path.read_bytes() for path in checkpoint_files(data)]
    anchor = [line for block in anchor for line in block.split(b"\n")]
    assert verify(data, anchor=anchor).is_whole
    assert verify(early).is_whole, "by itself it looks whole"
    report = verify(early, anchor=anchor)
    assert "rolled back" in kinds(report) and not report.is_whole


def test_a_clock_that_was_set_back_is_a_suspicion(tmp_path: Path) -> None:
    make_log(tmp_path)
    recorder = audit.Recorder(tmp_path)
    recorder.begin_now(stored(time_ns=1_700_000_000_000_000_000))
    recorder.close()
    report = verify(tmp_path)
    assert kinds(report) == {"clock"} and report.is_whole


def test_a_torn_last_record_is_cut_off_and_the_chain_goes_on(tmp_path: Path) -> None:
    make_log(tmp_path, (3,))
    (path,) = chain_files(tmp_path, "000")
    with path.open("ab") as file:
        file.write(b"0" * HASH_BYTES + b' {"n":4,"t":"20')
    assert verify(tmp_path).is_whole
    recorder = audit.Recorder(tmp_path)
    recorder.begin_now(stored("1.2.9"))
    recorder.close()
    report = verify(tmp_path)
    assert report.is_whole and report.events == 5  # with the record that bytes were cut off


def test_a_damaged_end_is_left_as_evidence(tmp_path: Path) -> None:
    make_log(tmp_path, (3,))
    rewrite(tmp_path, "000", lambda lines: [*lines[:-1], lines[-1].replace(b"DOE", b"ROE")])
    content = chain_files(tmp_path, "000")[0].read_bytes()
    recorder = audit.Recorder(tmp_path)
    recorder.begin_now(stored("1.2.9"))
    recorder.close()
    assert chain_files(tmp_path, "000")[0].read_bytes() == content
    assert len(chain_files(tmp_path, "001")) == 1
