"""The one place where the command line reaches the engine: each function loads what it needs and calls it.

Nothing here writes to the terminal. Commands that look into the archive open it directly, as keeper when no server
runs and as its guest when one does, so that they work either way.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.cli import query
from engine.cli.output import Progress
from engine.config import Config, Peer
from engine.errors import QueryError

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.exporter import ExportSummary
    from engine.archive.importer import ImportSummary
    from engine.archive.verify import CheckReport
    from engine.cli.options import Settings
    from engine.index.types import Instance, Query
    from engine.services.file_scu import SendSummary

Result = TypeVar("Result")

UIDS_AT_ONCE = 500
"""Studies, series or instances whose instances are looked up in one read transaction."""


# The server --------------------------------------------------------------------------------------


def serve(settings: Settings) -> int:
    """Runs the server until it is told to stop."""
    from engine import app

    return app.serve(settings.read(), settings.read)


def control(config: Config, command: str) -> dict[str, Any]:
    """Asks the running server. Raises ControlUnavailable."""
    from engine import control as channel

    return channel.request(config.data, {"command": command})


def needs_restart(answer: dict[str, Any]) -> list[str]:
    """The changed keys that a reload does not take over, from its answer."""
    return [str(key) for key in answer.get("restart_needed", [])]


# The archive -------------------------------------------------------------------------------------


@contextmanager
def opened(
    config: Config, *, role: str = "auto", create: bool = False, progress: Progress | None = None
) -> Iterator[Archive]:
    """The archive of a configuration, closed at the end."""
    from engine.archive.archive import Archive

    archive = Archive.open(config.data, role=role, create=create, progress=progress)
    try:
        yield archive
    finally:
        archive.close()


def find(config: Config, wanted: query.Keys, limit: int | None) -> Iterator[dict[int, bytes]]:
    """The matches, each as tag → UTF-8 text."""
    with opened(config) as archive:
        for match in archive.find(_query(wanted, limit)):
            yield match.attributes


def archive_stats(config: Config) -> dict[str, int]:
    """What the archive holds."""
    with opened(config) as archive:
        return archive.stats()


def import_paths(config: Config, paths: list[Path], jobs: int | None, progress: Progress) -> ImportSummary:
    """Stores files, folders, zip archives and DICOMDIR media, by the rules that hold for C-STORE too."""
    from engine.archive import importer
    from engine.archive.archive import StorageOptions

    with opened(config, create=True, progress=progress) as archive:
        archive.writer(
            f"import-{os.getpid()}",
            StorageOptions(
                segment_bytes=config.storage.segment_bytes, disk_reserve_bytes=config.limits.disk_reserve_bytes
            ),
        )
        return importer.import_paths(
            archive, paths, jobs=jobs or config.workers, progress=progress, policy=config.duplicates
        )


NOT_DICOM = "not DICOM"
"""How the reason begins when a refused file is none of ours."""


def import_failed(summary: ImportSummary) -> bool:
    """Whether a DICOM file is not in the archive; other files on a medium are no failure."""
    return any(not reason.startswith(NOT_DICOM) for _, reason in summary.refused)


def export(
    config: Config, wanted: list[query.Keys], target: Path, form: str, progress: Progress
) -> ExportSummary | None:
    """Writes what matches; None when nothing does."""
    from engine.archive import exporter

    with opened(config) as archive:
        instances = _matching_instances(archive, wanted)
        if not instances:
            return None
        return exporter.export(archive, instances, target, form=form, progress=progress)


def _matching_instances(archive: Archive, wanted: list[query.Keys]) -> list[Instance]:
    """The instances of everything that matches, each once: the query gives the UIDs, these name the instances."""
    from engine.index.plan import UNIQUE
    from engine.index.types import Level

    found: dict[str, Instance] = {}
    for keys in wanted:
        asked = _query(keys, None)
        # PatientID alone does not tell patients apart; their studies do.
        asked = replace(asked, level=max(asked.level, Level.STUDY))
        unique = UNIQUE[asked.level]
        matches = archive.find(replace(asked, keys={unique: b"", **asked.keys}))
        while some := [match.attributes[unique] for match in itertools.islice(matches, UIDS_AT_ONCE)]:
            named = replace(asked, keys={unique: b"\\".join(some)})
            found |= {instance.sop_instance_uid: instance for instance in archive.instances(named)}
    return list(found.values())


def check(config: Config, payloads: bool, progress: Progress) -> CheckReport:
    """Compares the log with the index."""
    from engine.archive import verify

    with opened(config, progress=progress) as archive:
        return verify.check(archive, payloads=payloads, progress=progress)


def rebuild_index(config: Config, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Makes the index anew; what was done, and what is damaged."""
    from engine.archive.archive import Archive

    report = Archive.rebuild_index(config.data, progress=progress)
    return report.summary(), [str(finding) for finding in report.findings]


def examine(config: Config, *, measure: bool, progress: Progress) -> list[dict[str, Any]]:
    """What the doctor finds, each finding as plain data."""
    from engine.doctor import examination

    findings = examination.examine(
        config, measure_bytes=examination.MEASURE_BYTES if measure else 0, progress=progress
    )
    return [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]


def _query(wanted: query.Keys, limit: int | None) -> Query:
    """Raises QueryError."""
    from engine.index.plan import COMPUTED, level_of
    from engine.index.types import Level, Query, Root

    level = Level["IMAGE" if wanted.level == "instance" else wanted.level.upper()]
    for tag, value in wanted.values.items():
        # C-FIND passes over such a key (PS3.4 C.2.2.1.3); who types it wants fewer matches, and exports fewer.
        if value and (level_of(tag) is None or COMPUTED.get(tag, level) > level):
            raise QueryError(f"{query.name_of(tag)} is not indexed at the {wanted.level} level: nothing matches it")
    return Query(
        # The root that has every level; the two give the same answers at the levels that both have.
        root=Root.PATIENT,
        level=level,
        keys={tag: value.encode() for tag, value in wanted.values.items()},
        character_set=b"ISO_IR 192",
        limit=limit,
        relational=True,
    )


# Peers -------------------------------------------------------------------------------------------


def echo(peer: Peer, config: Config) -> None:
    """C-ECHO. Raises AssociationFailed."""
    from engine.net import client

    _run(client.echo(peer, config))


def send(peer: Peer, config: Config, paths: list[Path], progress: Progress) -> SendSummary:
    """C-STORE of files. Raises AssociationFailed when nothing could be sent at all."""
    from engine.services import file_scu

    return _run(file_scu.send_files(peer, config, paths, progress))


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
