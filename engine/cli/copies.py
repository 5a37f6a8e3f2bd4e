"""The part of `backend` for backups and replicas.

Nothing here writes to the terminal. Backup and replication take no role in the archive: they only read its log.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.output import Progress
from engine.config import Config
from engine.errors import ReplicationFailed

if TYPE_CHECKING:
    from engine.archive.copies.replica import Destination
    from engine.archive.copies.replication_status import Status
    from engine.archive.layout import Layout

REMOTE = re.compile(r"tls://(?P<host>\[[0-9a-fA-F:]+\]|[^\[\]:/@]+):(?P<port>[0-9]{1,5})/?")


def backup(
    config: Config, target: Path, keep: int | None, bytes_per_s: int, progress: Progress, *, join: bool
) -> dict[str, Any]:
    """Updates a backup. Raises BackupError."""
    from engine.archive.copies import backup as backups
    from engine.archive.copies import backup_notes

    layout = _layout(config)
    report = backups.back_up(layout, target, keep=keep, join=join, bytes_per_s=bytes_per_s, progress=progress)
    backup_notes.note_taken(layout, target, report.manifest)
    return asdict(report)


def backup_states(target: Path) -> list[dict[str, Any]]:
    """The states that a backup holds, the oldest first. Raises BackupError."""
    from engine.archive.copies import histories

    return histories.listed(target)


def verify_backup(
    source: Path, at: datetime | None, lineage: str | None, bytes_per_s: int, progress: Progress
) -> dict[str, Any]:
    """Verifies a backup; returns its contents and the damage. Raises BackupError."""
    from engine.archive.copies import backup_check, backup_notes

    report = backup_check.verify_backup(source, at=at, lineage=lineage, bytes_per_s=bytes_per_s, progress=progress)
    if not report.findings and at is None and lineage is None:
        backup_notes.note_verified(source)
    return asdict(report)


def restore(
    source: Path,
    data: Path,
    at: datetime | None,
    lineage: str | None,
    *,
    salvage: bool,
    destroyed_keys: Path | None,
    bytes_per_s: int,
    progress: Progress,
) -> dict[str, Any]:
    """Restores an archive from a backup. Raises BackupError."""
    from engine.archive.copies import restore as restores

    report = restores.restore(
        source,
        data,
        at=at,
        lineage=lineage,
        salvage=salvage,
        destroyed_keys=destroyed_keys,
        bytes_per_s=bytes_per_s,
        progress=progress,
    )
    return asdict(report)


def promote(config: Config, progress: Progress) -> dict[str, Any]:
    """Turns a replica into an archive. Raises ReplicationFailed, ArchiveInUse."""
    from engine.archive.copies import replica

    layout = replica.promote(config.data, progress=progress)
    return {"data": str(layout.data), "archive_id": layout.archive_id.hex(), "lineage": layout.lineage}


def replicate(
    config: Config,
    target: str,
    *,
    peer_certificates: Sequence[str],
    bytes_per_s: int,
    interval_s: float,
    once: bool,
    anew: bool,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Replicates until SIGTERM or Ctrl-C; with `once`, until everything present has been shipped.

    Passes each status to `show`. Raises ReplicationFailed.
    """
    from engine.archive.copies.replication import REMOVE_AFTER_S, Replication
    from engine.archive.copies.replication_status import Status
    from engine.rate_limiter import RateLimiter

    layout = _layout(config)
    status_path = _status_path(layout.data, target)
    status = Status(target)

    def on_status(status: Status) -> None:
        show(status.describe(status.updated_s))

    connect = _connector(config, layout, target, peer_certificates, anew or not os.path.exists(status_path))
    replication = Replication(
        layout,
        connect,
        status,
        rate_limiter=RateLimiter(bytes_per_s),
        status_path=status_path,
        on_status=on_status,
        # A run with --once does not wait for readers of the replica.
        remove_after_s=0.0 if once else REMOVE_AFTER_S,
        gives_receipts=True,
    )
    if once:
        try:
            while not replication.run_once():
                if status.findings:
                    raise ReplicationFailed("; ".join(status.findings), is_final=True)
        finally:
            replication.close()
        return
    with _stop_event() as stop:
        replication.run(stop, interval_s)


def _connector(
    config: Config, layout: Layout, target: str, peer_certificates: Sequence[str], create: bool
) -> Callable[[], Destination]:
    """Returns a function that opens the destination.

    Only its first call may create a directory: later, a missing one may be a mount that is gone.
    """
    remote = REMOTE.fullmatch(target)
    opened = False

    def to_directory() -> Destination:
        from engine.archive.copies.replica import Replica

        nonlocal opened
        path = Path(target)
        if path.resolve().is_relative_to(layout.data.resolve()):
            raise ReplicationFailed(f"{target} lies in the data directory", is_final=True)
        replica = Replica(path, layout.archive_id, layout.lineage, create=create and not opened)
        opened = True
        return replica

    if remote is None:
        if "://" in target:
            raise ReplicationFailed(f"{target} is neither a folder nor tls://HOST:PORT", is_final=True)
        return to_directory
    from engine.archive.copies.replica_link import RemoteReplica
    from engine.archive.copies.replica_tls import Credentials

    host, port = remote["host"].strip("[]"), int(remote["port"])
    credentials = Credentials(config.tls, peer_certificates, is_server=False, host=host)
    return lambda: RemoteReplica(host, port, credentials, layout.archive_id, layout.lineage)


def listen(config: Config, host: str, port: int, peer_certificates: Sequence[str], show: Callable[[str], None]) -> None:
    """Receives a replication into the data directory until SIGTERM or Ctrl-C."""
    from engine.archive.copies.replica_listener import Listener
    from engine.archive.copies.replica_tls import Credentials

    listener = Listener(host, port, config.data, Credentials(config.tls, peer_certificates, is_server=True))
    show(f"filmroom replicate: listening on {host}:{listener.port}, replica in {config.data}")
    with _stop_event(listener.close) as stop:
        listener.run(stop, show)


def replication_status(config: Config, target: str | None) -> list[dict[str, Any]]:
    """The replications of an archive with their present lag; of a replica, the last status from its source."""
    from engine.archive.copies import lag

    layout = _layout(config)
    return lag.states(layout, [_status_path(layout.data, target)] if target is not None else None)


def is_troubled(status: dict[str, Any]) -> bool:
    """Whether a replication needs attention."""
    return status["state"] in ("behind, not running", "waiting") or bool(status.get("findings"))


def _status_path(data: Path, target: str) -> str:
    """The status file of a destination, named by a hash, since a destination is not a file name."""
    return str(data / f"replication-{blake2b(target.encode(), digest_size=8).hexdigest()}.json")


def _layout(config: Config) -> Layout:
    from engine.archive import layout

    return layout.existing(config.data)


@contextmanager
def _stop_event(wake: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that a write in progress is finished in order."""
    stop = threading.Event()

    def on_signal(signum: int, frame: object) -> None:
        stop.set()
        wake()

    before = {signum: signal.signal(signum, on_signal) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
