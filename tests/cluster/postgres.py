"""PostgreSQL for tests: one server for all processes of a run, on a Unix socket, and servers of one's own to kill.

`server()` starts the shared one at the first use; it ends with the last process of the run, also when that was killed:
each process holds a shared lock, and who waits for the exclusive one then stops it. `database` gives each test an empty
database. `private` copies the folder of a server that has never run, which takes a tenth of the time of initdb.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.cluster.settings import ClusterSettings

SETTINGS = [
    "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60",
    "-c", "autovacuum=off", "-c", "max_wal_senders=2", "-c", "logging_collector=off", "-c", "jit=off",
]  # fmt: skip
_names = itertools.count(1)


@cache
def programs() -> Path | None:
    """The folder of initdb and postgres; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    postgres = shutil.which("postgres")
    return Path(postgres).parent if postgres else None


def needed() -> None:
    """Skips the test that calls it where PostgreSQL or its driver is missing."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed")
    if os.geteuid() == 0 and _user() is None:
        pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


@cache
def _user() -> str | None:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _identity() -> dict[str, Any]:
    """How a process is started as somebody other than root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(_user() or "")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "umask": 0o077}


def _run(*command: str | Path, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **_identity())
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="filmroom-pg-"))  # a short name: sockets allow 107 characters
    if identity := _identity():
        os.chown(folder, identity["user"], identity["group"])
    return folder


@dataclass
class Postgres:
    """A server: its socket is in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 5432

    def start(self, *settings: str) -> None:
        """Starts it and waits until it answers."""
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.folder / "data", "-k", self.folder, "-p", str(self.port),  # type: ignore[operator]
                 *SETTINGS, *settings],
                cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                **_identity(),
            )  # fmt: skip
        import psycopg

        while True:
            assert self.process.poll() is None, log.read_text(errors="replace")
            try:
                psycopg.connect(self.words("postgres"), connect_timeout=10).close()
            except psycopg.OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.03)
                continue
            return

    def words(self, database: str) -> str:
        """For [cluster] database."""
        return f"host={self.folder} port={self.port} user=filmroom dbname={database}"

    def settings(self, name: str, **others: Any) -> ClusterSettings:
        """With a limit that a busy machine keeps."""
        return ClusterSettings(**{"database": self.words(name), "node": "one", "timeout_s": 60.0, **others})

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """As somebody else than the code under test."""
        import psycopg

        with psycopg.connect(self.words(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def signal_all(self, number: int) -> None:
        """To the server and its sessions."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in [self.process.pid, *map(int, children)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """As when its machine loses power, but for the files."""
        assert self.process is not None
        self.signal_all(signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> None:
        """In order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def _initdb(folder: Path) -> None:
    _run(programs() / "initdb", "-D", folder / "data", "-U", "filmroom", "-A", "trust", "--no-locale", "-E", "UTF8",  # type: ignore[operator]
         "--no-sync", "--no-instructions", folder=folder)  # fmt: skip


def _shared(base: Path) -> Postgres:
    users = (base / "postgres.users").open("a")
    with (base / "postgres.start").open("a") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        _held.append(users)
        description = base / "postgres.json"
        if description.exists():
            return Postgres(Path(json.loads(description.read_text())["folder"]))
        postgres = Postgres(_new_folder())
        _initdb(postgres.folder)
        _run("cp", "-a", "data", "unused", folder=postgres.folder)
        postgres.start()
        assert postgres.process is not None
        keeper = subprocess.Popen(
            ["flock", "--exclusive", users.name, "sh", "-c",
             f"kill -QUIT {postgres.process.pid}; while kill -0 {postgres.process.pid}; do sleep 0.1; done; "
             f"rm -rf {postgres.folder}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        _held.append(keeper)
        description.write_text(json.dumps({"folder": str(postgres.folder)}))
        return postgres


_held: list[Any] = []
"""Until this process ends."""
_of_this_process: list[Postgres] = []


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Postgres:
    """The server of the run; nobody stops it."""
    needed()
    if not _of_this_process:
        base = tmp_path_factory.getbasetemp()
        _of_this_process.append(_shared(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base))
    return _of_this_process[0]


@pytest.fixture
def database(server: Postgres) -> str:
    """The name of an empty database of the shared server."""
    name = f"test_{os.getpid()}_{next(_names)}"
    server.execute(f"create database {name} template template0 strategy wal_log")
    return name


@contextmanager
def private(server: Postgres, *settings: str, of: Path | None = None) -> Iterator[Postgres]:
    """A server of one's own, which never ran, or a copy of the data folder `of` of one that has stopped."""
    postgres = Postgres(_new_folder())
    source = of or server.folder / "unused"
    _run("cp", "-a", source, postgres.folder / "data", folder=postgres.folder)
    try:
        postgres.start(*settings)
        yield postgres
    finally:
        if postgres.process is not None and postgres.process.poll() is None:
            postgres.signal_all(signal.SIGCONT)
            postgres.kill()
        shutil.rmtree(postgres.folder, ignore_errors=True)
