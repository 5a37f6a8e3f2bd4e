"""`filmroom patient merges` and `unmerge`: what messages merged, and that it is undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.hospital import open_orders
from engine.cli import exit_codes
from engine.orders.registry import NoRules
from engine.orders.values import Identifier, PatientMerge, PatientUpdate, Source
from tests.archive.filled import opened, payload_of, store
from tests.cli.commands import rows, run


def test_a_merge_is_listed_and_undone_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data")
    survivor = PatientUpdate(identifiers=(Identifier("P2"),), attributes={"PatientName": "B"})
    with opened(tmp_path / "data") as archive:
        store(archive, payload_of(1, 1, 1))
        with open_orders(archive, NoRules()) as orders:
            orders.apply(PatientMerge(survivor=survivor, prior=Identifier("P1")), Source(name="KIS", reference="hl7:7"))
    (merge,) = rows(capsys, "patient", "merges", "--data", data)
    assert (merge["prior"], merge["survivor"], merge["messages"], merge["undone_by"]) == ("P1", "P2", ["hl7:7"], "")
    number = str(merge["number"])
    (undone,) = rows(capsys, "patient", "unmerge", number, "--reason", "two persons", "--data", data)
    assert undone["undone_by"] and undone["reason"] == "two persons"
    assert any("came after the merge" in warning for warning in undone["warnings"])
    code, _, err = run(capsys, "patient", "unmerge", number, "--reason", "again", "--data", data)
    assert code != exit_codes.OK and "undone already" in err
    found = rows(capsys, "find", "StudyInstanceUID", "PatientID", "--data", data)
    assert "P1" in str(found)
