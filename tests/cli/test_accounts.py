"""The commands user, key, share and grant on an archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.accounts import keys, links, passwords, shares, tokens
from engine.accounts.database import Database
from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import rows, run

STUDY = f"{samples.ROOT}.1"

pytestmark = pytest.mark.usefixtures("filled")


def test_a_user_is_added_with_a_link_changed_disabled_and_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (added,) = rows(capsys, "user", "add", "Anna", "--role", "radiologist", "--referrer", "DOE^ANNA")
    assert added["link"].startswith("http://127.0.0.1:8080/#/welcome/") and added["state"] == "invited"
    database = Database(tmp_path / "filmroom-data" / "accounts")
    token = added["link"].rpartition("/")[2]
    assert links.show(database, token).user == "Anna"
    links.follow(database, token, "", passwords.hash_of("a long password"))
    database.close()
    (row,) = rows(capsys, "user", "list")
    assert (row["name"], row["roles"], row["state"]) == ("Anna", ["radiologist"], "active")
    assert rows(capsys, "user", "roles", "anna", "full", "auditor")[0]["roles"] == ["auditor", "full"]
    assert rows(capsys, "user", "disable", "anna")[0]["state"] == "disabled"
    assert rows(capsys, "user", "enable", "anna")[0]["state"] == "active"
    assert rows(capsys, "user", "sessions") == []
    assert run(capsys, "user", "revoke", "anna")[0] == exit_codes.FAILED
    assert rows(capsys, "user", "remove", "anna") == [{"removed": "anna"}]
    assert rows(capsys, "user", "list") == []


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("user", "add", "x", "--role", "nonsense"), exit_codes.USAGE, "there is no role 'nonsense'"),
        (("user", "add", "a b"), exit_codes.USAGE, "a user name has"),
        (("user", "disable", "nobody"), exit_codes.USAGE, "there is no user"),
        (("user", "link", "nobody"), exit_codes.USAGE, "there is no user"),
        (("key", "add", "nobody", "k"), exit_codes.USAGE, "there is no user"),
        (("key", "revoke", "0" * 24), exit_codes.FAILED, "no such key"),
        (("share", "add"), exit_codes.USAGE, "names a study"),
        (("share", "revoke", "x"), exit_codes.FAILED, "no such link"),
        (("grant", "add", "nobody", "--study", STUDY, "--reason", "r"), exit_codes.USAGE, "there is no user"),
        (("grant", "revoke", "x"), exit_codes.FAILED, "no such grant"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: tuple[str, ...], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "") and reason in err


def test_a_first_password_is_read_from_a_file_and_must_be_changed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("correct horse battery\n")
    (tmp_path / "easy").write_text("password1234\n")
    assert run(capsys, "user", "add", "easy", "--password-file", "easy")[0] == exit_codes.USAGE
    assert rows(capsys, "user", "add", "bob", "--password-file", "password")[0]["link"] is None
    database = Database(tmp_path / "filmroom-data" / "accounts")
    with database.read() as txn:
        user = database.users.get(txn, b"bob")
    database.close()
    assert user is not None and user.must_change_password
    assert passwords.matches(user.password, "correct horse battery")


def test_keys_shares_and_grants_are_made_listed_and_revoked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows(capsys, "user", "add", "anna", "--role", "full")
    (key,) = rows(capsys, "key", "add", "anna", "gateway", "--action", "store")
    (share,) = rows(capsys, "share", "add", "--study", STUDY, "--for", "Dr. X", "--uses", "2")
    (grant,) = rows(capsys, "grant", "add", "anna", "--patient", "P2^^^HOSP", "--reason", "second opinion")
    assert key["key"].startswith(keys.PREFIX) and "/s/" in share["link"]
    database = Database(tmp_path / "filmroom-data" / "accounts")
    assert shares.show(database, share["link"].rpartition("/")[2]).studies == (STUDY,)
    assert tokens.id_of(tokens.digest_of(key["key"])) == key["id"]
    database.close()
    assert [row["name"] for row in rows(capsys, "key", "list")] == ["gateway"]
    assert [(row["what"], row["uses"]) for row in rows(capsys, "share", "list")] == [([STUDY], "0 of 2")]
    assert [row["what"] for row in rows(capsys, "grant", "list")] == [["patient P2^^^HOSP"]]
    for name, row in (("key", key), ("share", share), ("grant", grant)):
        assert rows(capsys, name, "revoke", row["id"]) == [{"revoked": row["id"]}]
    assert rows(capsys, "key", "list") == rows(capsys, "grant", "list") == []
    assert [row["until"] for row in rows(capsys, "share", "list")] == ["revoked"]


def test_a_single_series_is_shared_by_its_uid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (share,) = rows(capsys, "share", "add", "--series", f"{STUDY}.1")
    database = Database(tmp_path / "filmroom-data" / "accounts")
    stored = shares.show(database, share["link"].rpartition("/")[2])
    database.close()
    assert (stored.studies, stored.series) == ((), ((STUDY, f"{STUDY}.1"),))
    assert [row["what"] for row in rows(capsys, "share", "list")] == [[f"series {STUDY}.1"]]
    code, _, err = run(capsys, "share", "add", "--series", "1.2.3.404")
    assert code == exit_codes.FAILED and "1.2.3.404" in err


def test_without_an_archive_nothing_is_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "user", "list", "--data", str(tmp_path / "none"))
    assert code == exit_codes.UNAVAILABLE and "holds no archive" in err
    assert not (tmp_path / "none").exists()


def test_a_backup_has_the_accounts_and_a_restore_brings_them_back(capsys: pytest.CaptureFixture[str]) -> None:
    rows(capsys, "user", "add", "anna", "--role", "full")
    rows(capsys, "grant", "add", "anna", "--study", STUDY, "--reason", "second opinion")
    assert run(capsys, "backup", "copy")[0] == exit_codes.OK
    rows(capsys, "user", "remove", "anna")
    assert run(capsys, "restore", "copy", "--data", "again")[0] == exit_codes.OK
    assert [row["name"] for row in rows(capsys, "user", "list", "--data", "again")] == ["anna"]
    assert len(rows(capsys, "grant", "list", "--data", "again")) == 1
    assert run(capsys, "check", "--data", "again")[0] == exit_codes.OK
