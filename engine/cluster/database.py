"""The database: connections to the primary of PostgreSQL, and what its answers mean.

    none ──survey: hosts, one after another; the primary with the newest timeline──► connected
     ▲                                                                                  │
     └── lost, no answer in time, a newer timeline elsewhere, another cluster ◄─────────┘

A server is believed if it is not in recovery (a standby), is of the cluster that was met first, and its timeline is not
older than one that this process has seen: a primary that was replaced may live on, and would answer questions with what
it had then. `look` finds that on a connection that stands; nodes call it with each sign of life.

A statement that asks is repeated once on a new connection. One that changes something never is: when the connection
ends before the answer, `UnknownOutcome` says that it may have taken place, or may yet. An answer with a warning about
the wait for a standby counts as that too: PostgreSQL says "success" when somebody cancels the wait.

Each thread has a connection of its own. Open a `Database` after a fork, never before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from engine import log
from engine.cluster import driver
from engine.cluster.driver import Connection, Diagnostic
from engine.cluster.settings import ClusterSettings
from engine.errors import (
    ChainTrimmed,
    ClusterError,
    ClusterUnreachable,
    ConfigError,
    EngineError,
    Fenced,
    LeaseLost,
    UnknownOutcome,
    WrongNumber,
)

logger = log.get("cluster.database")

PASSWORD_BYTES_MAX = 1024
_IDENTITY: Final = """
    select pg_is_in_recovery(), pg_backend_pid(),
        case when pg_is_in_recovery() then 0
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
        (select system_identifier from pg_control_system()),
        current_setting('server_version_num')::int,
        current_setting('fsync'), current_setting('full_page_writes'),
        current_setting('synchronous_commit')"""
_OLDEST_SERVER = 130000
_REFUSALS: Final[Mapping[str, Callable[[str, int], EngineError]]] = {
    "FR001": lambda message, _: Fenced(message),
    "FR002": WrongNumber,
    "FR003": ChainTrimmed,
    "FR004": lambda message, _: LeaseLost(message),
    "FR005": lambda message, _: ClusterError(message),
}
"""SQLSTATE of `schema.sql` → error."""
_NO_SCHEMA = {"3F000", "42P01", "42883"}
"""No such schema, table or function."""
_NEVER_BY_WAITING = {"28", "3D", "42", "22", "23", "0A"}
"""Classes of errors that do not go away: permissions, no such database, mistakes in a statement or a value."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself."""

    where: str
    is_in_recovery: bool
    timeline: int
    """Raised by each promotion; 0 in recovery."""
    system_identifier: int
    """The same for a primary and its standbys."""
    version: int
    fsync: bool
    full_page_writes: bool
    synchronous_commit: bool
    """What the server has by default; our own sessions have it on."""

    @property
    def warnings(self) -> list[str]:
        """What is set so that a power cut may lose what nodes were told is kept."""
        wrong = {
            "fsync": self.fsync,
            "full_page_writes": self.full_page_writes,
            "synchronous_commit": self.synchronous_commit,
        }
        return [f"{self.where} has {name} off" for name, is_on in wrong.items() if not is_on]


class _Session:
    """A connection with what is known of its server."""

    def __init__(self, connection: Connection, server: Server) -> None:
        self.connection = connection
        self.server = server
        self.has_doubt = False
        connection.add_notice_handler(self._notice)

    def _notice(self, diagnostic: Diagnostic) -> None:
        # 01000: "canceling wait for synchronous replication", after which the answer is that of a success.
        if diagnostic.sqlstate == "01000":
            self.has_doubt = True


class Database:
    """The database that [cluster] names. Thread-safe."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Connects at the first statement. Raises ConfigError for words that libpq does not know, or a password file
        that cannot be read; ClusterError without the package psycopg."""
        self._name = f"filmroom {settings.node}".strip()
        self._hosts = hosts(settings)
        self.timeout_s = settings.timeout_s
        """Seconds for each answer."""
        self._own = threading.local()
        self._lock = threading.Lock()
        self._sessions: set[_Session] = set()
        self._timeline = 0
        self._system_identifier = 0
        self._has_warned = False
        self._is_closed = False

    def ask(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement that changes nothing. Raises ClusterUnreachable, ClusterError, and by SQLSTATE what
        `schema.sql` refuses."""
        try:
            return self._run(statement, values)
        except _ConnectionEnded:
            pass
        try:
            return self._run(statement, values)
        except _ConnectionEnded as error:
            raise ClusterUnreachable(str(error)) from error

    def change(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement that changes something. Raises UnknownOutcome besides what `ask` raises."""
        try:
            return self._run(statement, values, changes=True)
        except _ConnectionEnded as error:
            raise UnknownOutcome(f"{error}, and what became of the change is not known") from error

    def look(self) -> Server:
        """Asks all hosts which is the primary now, and leaves a connection to another. Raises ClusterUnreachable."""
        found = self._survey()
        found.connection.close()
        return found.server

    def look_around(self) -> None:
        """`look`, if there is more than one host to ask. Raises ClusterUnreachable."""
        if len(self._hosts) > 1:
            self.look()

    def servers(self) -> list[Server | ClusterUnreachable]:
        """What each host says of itself, for people: standbys and replaced primaries too."""
        answers: list[Server | ClusterUnreachable] = []
        for session in self._open_all(0.0):
            if isinstance(session, ClusterUnreachable):
                answers.append(session)
            else:
                session.connection.close()
                answers.append(session.server)
        return answers

    def open(self, limit_s: float = 0.0) -> Connection:
        """A connection of the caller's own, for LISTEN and for several statements in a transaction, with a limit of
        its own for each answer. The caller closes it. Raises ClusterUnreachable."""
        return self._survey(limit_s).connection

    def close(self) -> None:
        """Ends all connections, those of other threads too."""
        self._is_closed = True
        with self._lock:
            sessions, self._sessions = self._sessions, set()
        for session in sessions:
            session.connection.close()

    def _run(self, statement: str, values: Sequence[object], *, changes: bool = False) -> list[tuple[Any, ...]]:
        session = self._session()
        session.has_doubt = False
        try:
            cursor = session.connection.execute(statement, values, prepare=True, binary=True)
            rows = cursor.fetchall() if cursor.description else []
        except driver.psycopg().Error as error:
            is_over = session.connection.closed or session.connection.broken
            if is_over:
                self._leave(session)
                raise _ConnectionEnded(
                    f"the connection to {session.server.where} ended: {driver.first_line(error)}"
                ) from error
            raise _meaning(error, session.server.where) from error
        except BaseException:
            # Ctrl-C, or a time limit of a test: the answer to this statement must not be taken for that to the next.
            self._leave(session)
            raise
        if changes and session.has_doubt:
            raise UnknownOutcome(
                f"{session.server.where} has not waited for its standby: a fail-over may lose the change"
            )
        return rows

    def _session(self) -> _Session:
        session: _Session | None = getattr(self._own, "session", None)
        if session is not None and session.server.timeline < self._timeline:
            self._leave(session)
            session = None
        if session is None or session.connection.closed:
            session = self._survey()
            self._own.session = session
            with self._lock:
                self._sessions.add(session)
        return session

    def _leave(self, session: _Session) -> None:
        session.connection.close()
        with self._lock:
            self._sessions.discard(session)
        self._own.session = None

    def _survey(self, limit_s: float = 0.0) -> _Session:
        """A connection to the primary with the newest timeline."""
        if self._is_closed:
            raise ClusterUnreachable("the connections to PostgreSQL have been closed")
        best: _Session | None = None
        reasons = []
        for session in self._open_all(limit_s):
            if isinstance(session, ClusterUnreachable):
                reasons.append(str(session))
                continue
            reason = self._doubt(session.server)
            if reason or (best is not None and session.server.timeline <= best.server.timeline):
                reasons.append(reason or f"{session.server.where} was replaced as primary")
                session.connection.close()
                continue
            if best is not None:
                best.connection.close()
            best = session
        if best is None:
            raise ClusterUnreachable("; ".join(reasons))
        with self._lock:
            if best.server.timeline >= self._timeline:
                self._timeline = best.server.timeline
                self._system_identifier = best.server.system_identifier
                is_new, self._has_warned = not self._has_warned, True
                reason = ""
            else:
                is_new, reason = False, f"{best.server.where} was replaced as primary"
        if reason:
            best.connection.close()
            raise ClusterUnreachable(reason)
        if is_new:
            for warning in best.server.warnings:
                logger.warning("PostgreSQL may lose what it has acknowledged", reason=warning)
        return best

    def _open_all(self, limit_s: float) -> list[_Session | ClusterUnreachable]:
        """A connection to each host, or why there is none; all at once, since a dead one takes the whole limit."""

        def attempt(words: dict[str, str]) -> _Session | ClusterUnreachable:
            try:
                return self._open(words, limit_s)
            except ClusterUnreachable as error:
                return error.without_frames()

        if len(self._hosts) == 1:
            return [attempt(self._hosts[0])]
        with ThreadPoolExecutor(len(self._hosts)) as pool:
            return list(pool.map(attempt, self._hosts))

    def _open(self, words: dict[str, str], limit_s: float = 0.0) -> _Session:
        connection = driver.connect(words, self._name, limit_s or self.timeout_s)
        where = driver.where(words)
        try:
            (row,) = connection.execute(_IDENTITY).fetchall()
            if row[-1] in ("off", "local"):
                # What is announced must not be forgotten, whatever the server does for others.
                connection.execute("set synchronous_commit = on")
        except driver.psycopg().Error as error:
            connection.close()
            raise ClusterUnreachable(f"{where} does not answer: {driver.first_line(error)}") from error
        is_in_recovery, backend_pid, timeline, system_identifier, version, fsync, full_page_writes, commit = row
        if backend_pid != connection.info.backend_pid:
            connection.close()
            raise ClusterUnreachable(
                f"{where} is a pooler (PgBouncer or the like), which breaks what follows on a connection: "
                "name PostgreSQL itself"
            )
        if version < _OLDEST_SERVER:
            connection.close()
            raise ClusterUnreachable(f"{where} has version {version // 10000}: 13 or newer is needed")
        server = Server(
            where, is_in_recovery, timeline, system_identifier, version,
            fsync == "on", full_page_writes == "on", commit not in ("off", "local"),
        )  # fmt: skip
        return _Session(connection, server)

    def _doubt(self, server: Server) -> str:
        """Why a server is not the primary that counts; "" if it is."""
        if server.is_in_recovery:
            return f"{server.where} is a standby"
        if self._system_identifier not in (0, server.system_identifier):
            return f"{server.where} belongs to another cluster of PostgreSQL than before"
        if server.timeline < self._timeline:
            return f"{server.where} was replaced as primary: it has timeline {server.timeline}, not {self._timeline}"
        return ""


class _ConnectionEnded(Exception):
    """The connection ended before the answer came."""


def _meaning(error: Any, where: str) -> EngineError:
    """The error of ours that an answer of PostgreSQL stands for."""
    code = error.sqlstate or ""
    diagnostic: Diagnostic = error.diag
    if refusal := _REFUSALS.get(code):
        detail = diagnostic.message_detail or ""
        return refusal(diagnostic.message_primary or "", int(detail) if detail.lstrip("-").isdigit() else 0)
    if code in _NO_SCHEMA:
        return ClusterError(f"{where} has no tables of Filmroom: run `filmroom cluster init`")
    # No value of a row: DETAIL may have one, the first line has none.
    said = f"{where} answers {diagnostic.message_primary or driver.first_line(error)} ({code or 'no code'})"
    return ClusterError(said) if code[:2] in _NEVER_BY_WAITING else ClusterUnreachable(said)


def hosts(settings: ClusterSettings) -> list[dict[str, str]]:
    """The words of libpq for each host, with the password. Raises ConfigError."""
    package = driver.psycopg()
    try:
        words = {key: str(value) for key, value in package.conninfo.conninfo_to_dict(settings.database).items()}
    except package.Error as error:
        raise ConfigError(f"[cluster] database: {driver.first_line(error)}") from error
    if settings.password_file is not None:
        words["password"] = _password(settings)
    # Which of several hosts is the primary, `Database` finds out: libpq takes the first that can write.
    words.pop("target_session_attrs", None)
    words.pop("load_balance_hosts", None)
    lists = {key: words.pop(key).split(",") for key in ("host", "hostaddr", "port") if key in words}
    count = max((len(values) for key, values in lists.items() if key != "port"), default=1)
    for key, values in lists.items():
        if len(values) not in (1, count) or (len(values) == 1 and count > 1 and key != "port"):
            raise ConfigError(f"[cluster] database: {key} has {len(values)} parts, and there are {count} hosts")
    return [
        {**words, **{key: values[min(number, len(values) - 1)] for key, values in lists.items()}}
        for number in range(count)
    ]


def _password(settings: ClusterSettings) -> str:
    path = settings.password_file
    assert path is not None
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"[cluster] password_file: others can read {path}; chmod 600 {path}")
        with path.open("rb") as file:
            data = file.read(PASSWORD_BYTES_MAX + 1)
        if len(data) > PASSWORD_BYTES_MAX or not data.strip():
            raise ConfigError(f"[cluster] password_file: {path} is empty or longer than a password")
        return data.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"[cluster] password_file: {path} cannot be read: {reason}") from error
