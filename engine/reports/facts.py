"""What the papers are made from: the configuration, the archive, and what the doctor finds, all read now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from engine import __version__
from engine.accounts import database, users
from engine.accounts.accounts import Accounts
from engine.accounts.records import User
from engine.archive.admin import encryption, upkeep
from engine.archive.archive import Archive
from engine.audit import verify
from engine.audit.chain import chain_files
from engine.audit.logs import chains
from engine.config import Config
from engine.doctor import examination
from engine.doctor.finding import Finding, Verdict


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at a server."""

    config: Config
    made: datetime
    findings: Sequence[Finding] = ()
    """Of `filmroom doctor --security`."""
    stats: Mapping[str, int] = field(default_factory=dict)
    """Empty: there is no archive yet."""
    scrub: Mapping[str, Any] = field(default_factory=dict)
    backups: Sequence[Mapping[str, Any]] = ()
    """The latest first."""
    replications: Sequence[Mapping[str, Any]] = ()
    damage: Sequence[Mapping[str, Any]] = ()
    users: Sequence[User] = ()
    encryption: Mapping[str, Any] = field(default_factory=dict)
    """As of `filmroom encryption status`; empty: there is no archive yet."""
    audit: verify.Report | None = None
    """None: there is no log yet, or it is too long to be verified meanwhile."""

    @property
    def needs_login(self) -> bool:
        """Whether HTTP is of use only to those who prove who they are."""
        http = self.config.http
        return http.login == "required" or (http.login == "auto" and bool(self.users))

    @property
    def subtitle(self) -> str:
        """Of which server and time a paper is."""
        made = self.made.isoformat(sep=" ", timespec="seconds")
        return f"Filmroom {__version__}, AE title {self.config.aet}, archive {self.config.data}, made {made}"

    @property
    def problems(self) -> list[Finding]:
        """The findings that are not good."""
        return [finding for finding in self.findings if finding.verdict is not Verdict.GOOD]


AUDIT_BYTES_MAX: Final = 256 << 20
"""A longer log takes half a minute and more: `filmroom audit verify`."""


def gather(config: Config) -> Facts:
    """Looks at everything. Raises EngineError if there is an archive that cannot be opened."""
    facts: dict[str, Any] = {}
    if (config.data / "archive.json").exists():
        archive = Archive.open(config.data)
        try:
            facts = {
                "stats": archive.stats(),
                "scrub": upkeep.scrub_status(archive, config.scrub),
                "backups": archive.backup_states(),
                "replications": archive.replication_states(),
                "damage": upkeep.damage(archive),
            }
        finally:
            archive.close()
        facts |= {
            "users": _users(config),
            "audit": _verified_audit(config),
            "encryption": encryption.status(config.data),
        }
    made = datetime.fromtimestamp(time.time(), UTC)
    return Facts(config=config, made=made, findings=examination.examine_security(config), **facts)


def _users(config: Config) -> list[User]:
    if not (config.data / database.FOLDER / database.FILE).exists():
        return []  # an archive of before, which nobody has opened since for writing
    accounts = Accounts.open(config.data, lambda: config, read_only=True)
    try:
        return users.listed(accounts.database)
    finally:
        accounts.close()


def _verified_audit(config: Config) -> verify.Report | None:
    files = [path for chain in chains(config.data).values() for path in chain_files(*chain)]
    if not files or sum(path.stat().st_size for path in files) > AUDIT_BYTES_MAX:
        return None
    return verify.verify(config.data)
