"""What is older than keep_days goes, of the own log and of sources' logs, and a verification knows that it went."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from engine.audit import chain, checkpoint
from engine.audit.chain import chain_files, chain_names
from engine.audit.checkpoint import CHECKPOINTS, Notary, checkpoint_files
from engine.audit.keeper import AuditKeeper
from engine.audit.logs import source_root
from engine.audit.pruning import PASS_S, PRUNED, note_pass, prune, until_pass_s
from engine.audit.verify import verify
from engine.audit_settings import Audit
from engine.storage.files import Files
from tests.audit.recording import make_log

LINEAGE = "0123456789abcdef" * 2
ALL_IS_OLD, NOTHING_IS_OLD = -1.0, 1.0
"""Days to keep."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive that was a replica; both logs have a file for each event and each checkpoint."""
    monkeypatch.setattr(chain, "FILE_BYTES_MAX", 1)
    monkeypatch.setattr(checkpoint, "FILE_BYTES_MAX", 1)
    root = source_root(tmp_path / "data", LINEAGE)
    root.mkdir(parents=True)
    make_log(root, (3, 2))
    make_log(tmp_path / "data", (3, 2))
    return tmp_path / "data"


def files_of(root: Path) -> dict[str, int]:
    """The number of files by chain, and of checkpoints."""
    counts = {name: len(chain_files(root, name)) for name in chain_names(root)}
    return counts | {CHECKPOINTS: len(checkpoint_files(root))}


def pruned(data: Path, keep_days: float = ALL_IS_OLD, *, with_sources: bool = True) -> int:
    return prune(data, Notary(data), keep_days, Files(), with_sources=with_sources)


def test_one_file_of_each_chain_goes_a_day_and_the_log_is_whole(data: Path) -> None:
    source = files_of(source_root(data, LINEAGE))
    before = files_of(data)
    assert pruned(data, with_sources=False) == 3
    after = files_of(data)
    assert {name: before[name] - after[name] for name in ("000", "001")} == {"000": 1, "001": 1}
    assert files_of(source_root(data, LINEAGE)) == source
    assert verify(data).problems == []


def test_what_is_not_old_stays(data: Path) -> None:
    before = files_of(data), files_of(source_root(data, LINEAGE))
    assert pruned(data, NOTHING_IS_OLD) == 0
    assert (files_of(data), files_of(source_root(data, LINEAGE))) == before


def test_a_log_of_a_source_goes_to_its_last_file_and_never_looks_damaged(data: Path) -> None:
    root = source_root(data, LINEAGE)
    for _ in range(20):
        pruned(data)
        assert verify(data).problems == []
        if not any(files_of(root).values()):
            break
    assert files_of(root) == {"000": 0, "001": 0, CHECKPOINTS: 0}
    assert files_of(data)["000"] == files_of(data)["001"] == 1, "the last file of an own chain stays"


def test_a_statement_is_still_there_when_the_checkpoint_that_made_it_went(data: Path) -> None:
    pruned(data)
    statement = checkpoint_files(data)[-1]
    while statement.exists():
        pruned(data, with_sources=False)
    assert files_of(source_root(data, LINEAGE))["000"] == 2, "one file of it went, with that statement"
    assert verify(data).problems == []


@pytest.mark.parametrize("name", ["000", "001"])
def test_a_file_of_a_source_that_was_taken_away_is_missed(data: Path, name: str) -> None:
    pruned(data)
    chain_files(source_root(data, LINEAGE), name)[0].unlink()
    assert {problem.kind for problem in verify(data).problems} == {"missing"}


def test_a_checkpoint_of_a_source_that_was_taken_away_is_missed(data: Path) -> None:
    checkpoint_files(source_root(data, LINEAGE))[0].unlink()
    assert {problem.kind for problem in verify(data).problems} == {"missing"}


def test_a_server_that_is_started_again_prunes_once_a_day(data: Path) -> None:
    folder = chain.folder_of(data)
    before = files_of(data)["000"]

    def start_and_end() -> int:
        AuditKeeper(data, lambda: Audit(keep_days=ALL_IS_OLD), "FILMROOM", is_replica=False).close()
        return before - files_of(data)["000"]

    assert [start_and_end() for _ in range(3)] == [1, 1, 1], "started again and again it prunes no more"
    os.utime(folder / PRUNED, (time.time() - PASS_S - 1,) * 2)
    assert [start_and_end(), start_and_end()] == [2, 2], "and the next day, however often it was started"
    assert verify(data).problems == []


def test_a_pass_is_due_when_the_last_one_seems_to_be_still_to_come(data: Path) -> None:
    assert until_pass_s(data, 1000.0) == 0
    note_pass(data, 1e6)
    assert until_pass_s(data, 1e6 + 400) == PASS_S - 400
    assert until_pass_s(data, 1e6 + PASS_S) == until_pass_s(data, 1e6 - 1) == 0
