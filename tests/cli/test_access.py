"""engine.cli: who may see what, and why, from the rules and accounts as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.accounts import users
from engine.accounts.accounts import Accounts
from engine.accounts.records import User
from engine.archive.archive import Archive
from engine.cli import exit_codes
from engine.config import Config
from tests import samples
from tests.cli.commands import rows, run

CONFIGURATION = """
[[role]]
name = "ward"
may = ["query", "retrieve"]
studies = [{institution = "St. M*"}]
[[peer]]
aet = "WARD"
role = "ward"
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filmroom.toml").write_text(CONFIGURATION)
    data = tmp_path / "filmroom-data"
    with Archive.open(data, create=True) as opened:
        opened.store(samples.part10(samples.instance(1, InstitutionName="St. Mary")))
        opened.store(samples.part10(samples.instance(2, InstitutionName="Elsewhere")))
    accounts = Accounts.open(data, Config)
    users.add(accounts.database, User(name="anna", roles=("ward",)))
    accounts.close()
    return data


def test_an_explanation_names_the_rule_that_decides(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = {row["action"]: row for row in rows(capsys, "access", "explain", "anna", f"{samples.ROOT}.1")}
    hidden = {row["action"]: row for row in rows(capsys, "access", "explain", "anna", f"{samples.ROOT}.2")}
    assert (seen["retrieve"]["allowed"], seen["retrieve"]["why"]) == (True, "institution is st. m*")
    assert (hidden["retrieve"]["allowed"], hidden["retrieve"]["why"]) == (
        False,
        "not in scope: institution is st. m*",
    )
    assert (seen["delete"]["allowed"], seen["delete"]["why"]) == (False, "no role or grant to delete")
    code, _, err = run(capsys, "access", "explain", "anna", "1.2.3")
    assert code == exit_codes.FAILED and "1.2.3" in err
    code, _, err = run(capsys, "access", "explain", "nobody", f"{samples.ROOT}.1")
    assert code and "there is no user nobody" in err


def test_a_report_lists_users_and_peers(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_user, of_peer = rows(capsys, "access", "report")
    assert (of_user["who"], of_user["kind"], of_user["roles"]) == ("anna", "user", ["ward"])
    assert (of_peer["who"], of_peer["kind"], of_peer["roles"]) == ("WARD", "peer", ["ward"])
    for row in (of_user, of_peer):
        assert row["may"] == ["query", "retrieve"]
        assert row["scope"] == "institution is st. m*"
