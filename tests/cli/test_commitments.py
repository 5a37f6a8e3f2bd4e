"""`filmroom commitments`: what waits is listed, tried again, dropped, with a server or without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import cli
from engine.archive.archive import Archive
from engine.archive.commitment.transactions import Attempts, Transaction, Transactions
from engine.cli import exit_codes
from engine.storage.files import Files

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def transactions(tmp_path: Path) -> Transactions:
    """Of an empty archive."""
    Archive.open(tmp_path / "data", role="keeper", create=True).close()
    return Transactions(tmp_path / "data", Files())


def add(transactions: Transactions, number: int, count: int = 2) -> str:
    references = [(CT, f"1.2.{instance}") for instance in range(count)]
    transaction = Transaction.of(f"1.9.{number}", "MODALITY", 1_750_000_000 * 10**9 + number, references)
    with transactions.add(transaction, count_max=10, reserve_bytes=0) as claim:
        return claim.identifier


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run(["commitments", *arguments, "--data", "data"])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_waits_is_listed_the_oldest_first(capsys: pytest.CaptureFixture[str], transactions: Transactions) -> None:
    assert run(capsys, "list", "--json") == (exit_codes.OK, "", "")
    second, first = add(transactions, 2), add(transactions, 1, 5)
    transactions.save_attempts({second: Attempts(3, 1_760_000_000 * 10**9, "nobody is there")})
    code, out, _ = run(capsys, "list", "--json")
    assert code == exit_codes.OK
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == [first, second]
    assert [(row["instances"], row["attempts"], row["error"]) for row in rows] == [
        (5, 0, ""),
        (2, 3, "nobody is there"),
    ]
    assert rows[0]["next_attempt"] is None
    assert rows[1]["next_attempt"].startswith("2025-10-09")
    code, out, _ = run(capsys, "list")
    assert (code, len(out.splitlines())) == (exit_codes.OK, 3)
    assert "1.9.2" in out


def test_a_retry_is_left_for_the_server(capsys: pytest.CaptureFixture[str], transactions: Transactions) -> None:
    first, second = add(transactions, 1), add(transactions, 2)
    assert run(capsys, "retry", first, "--json")[:2] == (exit_codes.OK, '{"retried":1}\n')
    assert transactions.take_retries() == [first]
    assert run(capsys, "retry")[0] == exit_codes.OK
    assert sorted(transactions.take_retries()) == sorted([first, second])
    code, _, err = run(capsys, "retry", "nonsense")
    assert code == exit_codes.USAGE
    assert "nonsense" in err


def test_one_is_dropped_unless_somebody_works_on_it(
    capsys: pytest.CaptureFixture[str], transactions: Transactions
) -> None:
    first, second = add(transactions, 1), add(transactions, 2)
    assert run(capsys, "drop", first)[0] == exit_codes.OK
    assert list(Transactions(Path("data"), Files()).headings()) == [second]
    assert run(capsys, "drop", first)[0] == exit_codes.USAGE
    with transactions.claim(second):  # type: ignore[union-attr]
        code, _, err = run(capsys, "drop", second)
    assert code == exit_codes.USAGE
    assert "is being reported" in err


def test_a_damaged_one_is_shown_as_such(capsys: pytest.CaptureFixture[str], transactions: Transactions) -> None:
    identifier = add(transactions, 1)
    Path(transactions.folder, f"{identifier}.json").write_bytes(b"{}")
    code, out, _ = run(capsys, "list", "--json")
    assert code == exit_codes.OK
    assert "damaged" in json.loads(out)["error"]
    assert run(capsys, "drop", identifier)[0] == exit_codes.OK
