"""The logs of an archive that was a replica: its own and its source's are read and verified side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.audit.chain import chain_files, folder_of
from engine.audit.checkpoint import VERIFY_KEY, checkpoint_files
from engine.audit.logs import chains, source_root, source_roots
from engine.audit.search import Condition, search
from engine.audit.verify import verify
from tests.audit.recording import events, make_log, rewrite

LINEAGE = "0123456789abcdef" * 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Its source has recorded nine events, and it has recorded five of its own in chains of the same names."""
    root = source_root(tmp_path / "data", LINEAGE)
    root.mkdir(parents=True)
    make_log(root)
    make_log(tmp_path / "data", (3, 2))
    return tmp_path / "data"


def test_each_chain_has_a_label_of_its_own(data: Path) -> None:
    (data / "sources" / "lost+found").mkdir()
    assert list(chains(data)) == ["000", "001", f"{LINEAGE}/000", f"{LINEAGE}/001"]
    assert list(source_roots(data)) == [LINEAGE]


@pytest.mark.parametrize("page", [1, 4, 100])
def test_a_search_finds_every_event_once(data: Path, page: int) -> None:
    found, older = [], ""
    while True:
        answer = search(data, Condition(), page, older)
        found += answer.events
        if answer.older is None:
            break
        older = answer.older
    expected = events(data) + events(source_root(data, LINEAGE))
    assert len(found) == len(expected) == 14
    assert {(each["chain"], each["n"]) for each in found} == {
        *((f"00{chain}", n) for chain, count in enumerate((3, 2)) for n in range(1, count + 1)),
        *((f"{LINEAGE}/00{chain}", n) for chain, count in enumerate((5, 4)) for n in range(1, count + 1)),
    }
    assert [each["t"] for each in found] == sorted((each["t"] for each in expected), reverse=True)


def test_both_logs_are_verified(data: Path) -> None:
    report = verify(data)
    assert report.is_whole and not report.problems
    assert (report.events, report.chains, report.checkpoints, report.unsigned) == (14, 4, 4, 0)


@pytest.mark.parametrize("name", ["000", "001"])
def test_a_change_in_the_log_of_the_source_is_found_there(data: Path, name: str) -> None:
    root = source_root(data, LINEAGE)
    rewrite(root, name, lambda lines: [lines[0].replace(b"DOE", b"ROE"), *lines[1:-1]])
    problems = {(each.kind, each.place) for each in verify(data).problems}
    assert problems == {
        ("changed", f"{LINEAGE}/{name}/000000000001.events:1"),
        ("cut", f"chain {LINEAGE}/{name}"),
    }


def test_a_log_of_a_source_without_its_key_is_not_whole(data: Path) -> None:
    (folder_of(source_root(data, LINEAGE)) / VERIFY_KEY).unlink()
    (problem,) = verify(data).problems
    assert problem.kind == "missing" and LINEAGE in problem.place


def test_a_given_key_must_be_that_of_every_log(data: Path, tmp_path: Path) -> None:
    own, other = (folder_of(root) / VERIFY_KEY for root in (data, source_root(data, LINEAGE)))
    assert {each.kind for each in verify(data, key=own).problems} == {"forged"}
    both = tmp_path / "both.pem"
    both.write_bytes(own.read_bytes() + other.read_bytes())
    assert verify(data, key=both).is_whole
    other.write_bytes(b"no key")  # it only tells whose a checkpoint of the collector is
    assert verify(data, key=both).is_whole


def test_what_the_collector_has_of_each_log_is_compared_with_that_log(data: Path) -> None:
    root = source_root(data, LINEAGE)
    lines = [
        line for each in (data, root) for path in checkpoint_files(each) for line in path.read_bytes().splitlines()
    ]
    report = verify(data, anchor=lines)
    assert report.is_whole and report.anchors == 4
    for path in chain_files(root, "000"):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    (path,) = checkpoint_files(root)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    report = verify(data, anchor=lines)
    assert {(each.kind, each.place) for each in report.problems} == {
        ("rolled back", f"the collector's checkpoint {LINEAGE}/2"),
        ("cut", f"chain {LINEAGE}/000"),
    }
