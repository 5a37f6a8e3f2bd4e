"""`filmroom cluster` against a real PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.archive.layout import existing
from engine.cli import exit_codes, tables
from engine.cli.commands.cluster import COLUMNS
from engine.cluster.cluster import Cluster
from tests.cli.commands import run
from tests.cluster.clusters import OVER_S, TERM_S, append, group
from tests.cluster.postgres import Postgres, database, server

__all__ = ["database", "server"]


def configure(folder: Path, server: Postgres, database: str) -> None:
    (folder / "filmroom.toml").write_text(
        f'[cluster]\ndatabase = "{server.words(database)}"\nnode = "one"\ntimeout_s = 60.0\n'
    )


def test_the_nodes_of_an_archive_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: None, server: Postgres, database: str
) -> None:
    configure(tmp_path, server, database)
    code, _, err = run(capsys, "cluster", "status")
    assert code == exit_codes.FAILED and "filmroom cluster init" in err
    code, out, _ = run(capsys, "cluster", "init", "--json")
    assert (code, json.loads(out)["tables"]) == (exit_codes.OK, "made")
    assert json.loads(run(capsys, "cluster", "init", "--json")[1])["tables"] == "there already"

    archive_id = existing(tmp_path / "filmroom-data").archive_id
    with Cluster(server.settings(database), archive_id) as cluster:
        cluster.nodes.join("pacs-1", "pacs-1.example:11112", TERM_S)
        cluster.nodes.join("pacs-2", "pacs-2.example:11112", OVER_S)
        append(cluster, 1, group(1), group(2))
        cluster.nodes.heartbeat(1, 1, TERM_S, {}, 0.0012)
    code, out, err = run(capsys, "cluster", "status", "--json")
    assert code == exit_codes.FAILED and "has fsync off" in err
    rows = [json.loads(line) for line in out.splitlines()]
    names = ("node", "slot", "state", "epoch", "last_number", "behind", "clock_offset_s")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("pacs-1", 1, "active", 1, 2, 0, 0.001),
        ("pacs-2", 2, "silent", 1, 0, 2, None),
    ]
    assert "pacs-2.example:11112" in run(capsys, "cluster", "status")[1]


def test_without_a_database_it_says_what_to_set(capsys: pytest.CaptureFixture[str], filled: None) -> None:
    code, _, err = run(capsys, "cluster", "status")
    assert code == exit_codes.CONFIGURATION and "[cluster] names no database" in err


def test_a_server_that_would_not_join_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "filmroom.toml").write_text('[cluster]\ndatabase = "host=nowhere"\nnode = "one"\n')
    code, _, err = run(capsys, "serve")
    assert code == exit_codes.CONFIGURATION and "[object_store]" in err


def test_a_database_that_does_not_answer_is_unavailable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: None
) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    (tmp_path / "filmroom.toml").write_text(f'[cluster]\ndatabase = "host={tmp_path}"\nnode = "one"\n')
    code, _, err = run(capsys, "cluster", "status")
    assert code == exit_codes.UNAVAILABLE and "does not let us in" in err


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_on_a_terminal(width: int) -> None:
    row = ["pacs-2", "65533", "draining", "-1234.5", "12", "123456789", "1234567", "-0.012", "pacs-2.example:11112"]
    head, body = tables.lines(COLUMNS, [row], width)
    assert all(len(line) <= width for line in (*head, *body))
    assert all(any(value in line for line in body) for value in row[:8])


def test_an_archive_joins_and_a_lost_node_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: None, server: Postgres, database: str
) -> None:
    bucket = f'[object_store]\nurl = "file://{tmp_path}/bucket"\n'
    configure(tmp_path, server, database)
    code, _, err = run(capsys, "cluster", "join")
    assert code == exit_codes.CONFIGURATION and "[object_store]" in err
    first = 'durable = "object"\n' + (tmp_path / "filmroom.toml").read_text() + bucket
    (tmp_path / "filmroom.toml").write_text(first)
    for _ in range(2):  # again, it changes nothing
        code, out, err = run(capsys, "cluster", "join", "--json")
        assert code == exit_codes.OK, err
        assert {**json.loads(out), "archive_id": ""} == {"node": "one", "slot": 0, "archive_id": "", "nodes": 1}
    (tmp_path / "two.toml").write_text(first.replace('node = "one"', 'node = "two"'))
    second = ("--config", tmp_path / "two.toml", "--data", tmp_path / "two")
    code, out, err = run(capsys, "cluster", "join", *second, "--json")
    assert code == exit_codes.OK, err
    assert json.loads(out)["slot"] == 1
    code, _, err = run(capsys, "cluster", "remove", "one", *second)
    assert code != exit_codes.OK and "alive" in err
    server.execute("update filmroom.nodes set until = now() - interval '1 minute' where slot = 0", database)
    assert run(capsys, "cluster", "remove", "one", *second)[0] == exit_codes.OK
    code, _, err = run(capsys, "cluster", "join")
    assert code != exit_codes.OK and "node one, which is removed: join with an empty folder" in err
    code, out, err = run(capsys, "cluster", "leave", *second, "--json")
    assert code == exit_codes.OK, err
    assert json.loads(out) == {"node": "two", "segments_published": 0}
    code, _, err = run(capsys, "cluster", "join", *second)
    assert code != exit_codes.OK and "node two, which is left: join with an empty folder" in err


def test_the_first_node_of_a_new_archive_begins_with_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Postgres, database: str
) -> None:
    configure(tmp_path, server, database)
    content = (tmp_path / "filmroom.toml").read_text()
    bucket = f'[object_store]\nurl = "file://{tmp_path}/bucket"\n'
    (tmp_path / "filmroom.toml").write_text(f'durable = "object"\n{content}{bucket}')
    code, out, err = run(capsys, "cluster", "init", "--json")
    assert (code, json.loads(out)["tables"]) == (exit_codes.OK, "made"), err
    code, _, err = run(capsys, "cluster", "status")
    assert code != exit_codes.OK and "no node yet: `filmroom cluster join`" in err
    code, out, err = run(capsys, "cluster", "join", "--new", "--json")
    assert (code, json.loads(out)["slot"]) == (exit_codes.OK, 0), err
