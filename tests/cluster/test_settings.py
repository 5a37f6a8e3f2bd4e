"""[cluster] in a file: a password has no place there, and a node needs a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cluster.cluster import Cluster
from engine.cluster.database import Database
from engine.cluster.settings import ClusterSettings
from engine.errors import ClusterError, ConfigError


@pytest.mark.parametrize(
    "database",
    ["host=a password=secret", "host=a PASSWORD = 'secret'", "postgresql://me:secret@a/b", "postgres://a/b?password=x"],
)
def test_a_password_in_the_configuration_is_refused_and_not_repeated(database: str) -> None:
    with pytest.raises(ValueError, match="password_file") as refused:
        ClusterSettings(database=database, node="a")
    assert "secret" not in str(refused.value)


def test_a_database_needs_a_node() -> None:
    ClusterSettings()
    ClusterSettings(database="postgresql://me@a:5432/b", node="a")
    with pytest.raises(ValueError, match="name this server"):
        ClusterSettings(database="host=a")


def test_without_a_database_a_server_is_alone() -> None:
    with pytest.raises(ConfigError, match="alone"):
        Cluster(ClusterSettings(), bytes(16))


def test_without_the_driver_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cluster import driver

    driver.psycopg.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    try:
        with pytest.raises(ClusterError, match=r"pip install 'filmroom\[cluster\]'"):
            Database(ClusterSettings(database="host=a", node="a"))
    finally:
        driver.psycopg.cache_clear()


def test_words_that_libpq_does_not_know_are_named() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    for database in ("hots=a", "host=a,b hostaddr=::1", "host=a,b port=1,2,3"):
        with pytest.raises(ConfigError, match=r"\[cluster\] database"):
            Database(ClusterSettings(database=database, node="a"))


def test_the_password_file_is_for_its_owner_only(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    from engine.cluster.database import hosts

    file = tmp_path / "password"
    settings = ClusterSettings(database="host=a,b port=1", node="a", password_file=file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        hosts(settings)
    file.write_bytes(b"secret\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        hosts(settings)
    file.chmod(0o600)
    assert [(each["host"], each["port"], each["password"]) for each in hosts(settings)] == [
        ("a", "1", "secret"),
        ("b", "1", "secret"),
    ]
    for wrong in (b"\n", b"x" * 2000, b"\xff"):
        file.write_bytes(wrong)
        with pytest.raises(ConfigError) as refused:
            hosts(settings)
        assert "xxx" not in str(refused.value)
