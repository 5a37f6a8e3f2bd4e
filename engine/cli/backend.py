"""The one place where the command line reaches the engine: each function loads what it needs and calls it.

Nothing here writes to the terminal. Commands that look into the archive open it directly, as keeper when no server
runs and as its guest when one does, so that they work either way. Modules beside this one do the same for families of
commands: `deletion`, `quarantine`, `commitments`, `corrections`, `copies`, `exchange`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.access import Action, Destination, Kind, PeerRules, Principal
from engine.cli import namespaces, query
from engine.cli.output import Progress
from engine.config import Config, Peer, parse_peer
from engine.dicom import plain_values, tags
from engine.errors import NotAllowed, NotStored

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.interchange.exporter import ExportSummary
    from engine.archive.interchange.importer import ImportSummary
    from engine.archive.verify import CheckReport
    from engine.cli.options import Settings
    from engine.dicom.schema import Schema
    from engine.index.format.types import Instance, Query
    from engine.services.file_scu import SendSummary

Result = TypeVar("Result")

UIDS_AT_ONCE = 500
"""Studies, series or instances whose instances are looked up in one read transaction."""


# The server --------------------------------------------------------------------------------------


def serve(settings: Settings) -> int:
    """Runs the server until it is told to stop."""
    from engine import app

    return app.serve(settings.reading(), settings.reading)


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
    """The archive of a configuration, closed at the end; one that is made here gets the extra attributes of that."""
    from engine.archive import extras
    from engine.archive.archive import Archive
    from engine.stops import put_off_stops

    wanted = extras.configured(config) if create and not (config.data / "archive.json").exists() else None
    archive = namespaces.under_a_free_id(
        lambda: Archive.open(config.data, role=role, create=create, progress=progress, extra_attributes=wanted)
    )
    put_off_stops()
    try:
        yield archive
    finally:
        archive.close()


def find(config: Config, wanted: query.Keys, limit: int | None, offset: int = 0) -> Iterator[dict[int, bytes]]:
    """The matches, each as tag → UTF-8 text."""
    with opened(config) as archive:
        for match in archive.find(query_of(wanted, archive.schema, limit, offset)):
            yield match.attributes


def explain(
    config: Config, wanted: query.Keys, limit: int | None, offset: int = 0
) -> tuple[list[dict[int, bytes]], dict[str, Any]]:
    """The same, all at once, and how they were found: the access, what was read for it, the time."""
    from engine.index.query.explanation import Explanation

    explanation = Explanation()
    with opened(config) as archive:
        began = time.perf_counter()
        matches = archive.find(query_of(wanted, archive.schema, limit, offset), explanation=explanation)
        found = [match.attributes for match in matches]
        took_ms = (time.perf_counter() - began) * 1000
    return found, {**explanation.summary(), "took_ms": round(took_ms, 3)}


def archive_stats(config: Config) -> dict[str, int]:
    """What the archive holds."""
    with opened(config) as archive:
        return in_words(archive.stats())


def changes(config: Config, *, since: str | None, limit: int | None, follow: bool) -> Iterator[dict[str, Any]]:
    """The events of the change feed, each with its cursor; with `follow` without an end."""
    import orjson

    from engine.archive import layout
    from engine.archive.feed.cursor import Cursor
    from engine.archive.feed.subscription import PAGE_EVENTS, Feed

    feed = Feed(layout.existing(config.data))
    try:
        cursor = feed.oldest() if since is None else Cursor.parse(since)
        left = limit
        while left != 0:
            page = feed.read(cursor, PAGE_EVENTS if left is None else min(left, PAGE_EVENTS))
            for number, line in enumerate(page.lines):
                yield {**orjson.loads(line), "cursor": str(page.cursor_at(number))}
            cursor = page.cursor
            left = None if left is None else left - len(page.lines)
            if not page.lines:
                if not follow:
                    return
                feed.wait(cursor)
    finally:
        feed.close()


def webhooks(config: Config) -> list[dict[str, object]]:
    """The machines that the change feed is delivered to, and how far each is."""
    from engine.archive import layout
    from engine.archive.feed.destinations import Destinations

    return [standing.as_dict() for standing in Destinations(layout.existing(config.data)).all()]


def webhook_resume(config: Config, name: str) -> None:
    """Has a parked webhook tried again."""
    from engine.archive import layout
    from engine.archive.feed.destinations import Destinations

    Destinations(layout.existing(config.data)).resume(name)


def in_words(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of the archive in the words that every command has for them."""
    return {_WORDS.get(name, name): count for name, count in counts.items()}


_WORDS = {"kept_aside": "versions", "quarantined": "unparseable"}
"""Versions are instances beside the current one of their UID; unparseable are bytes that were refused."""


def import_paths(
    config: Config, paths: list[Path], jobs: int | None, progress: Progress, *, follow: bool = False
) -> tuple[ImportSummary, bool]:
    """Stores files, folders, archives and DICOMDIR media, by the rules that hold for C-STORE too.

    What was done, and whether it came to its end: False after Ctrl-C.
    """
    from engine.archive.archive import StorageOptions
    from engine.archive.interchange import importer
    from engine.archive.lifecycle import resent

    with opened(config, create=True, progress=progress) as archive:
        archive.writer(
            f"import-{os.getpid()}",
            StorageOptions(
                segment_bytes=config.storage.segment_bytes,
                disk_reserve_bytes=config.limits.disk_reserve_bytes,
                versions_max=config.storage.versions_max,
            ),
        )
        began_ns = time.time_ns()
        summary = importer.ImportSummary()
        try:
            importer.import_paths(
                archive,
                paths,
                jobs=jobs or config.workers,
                progress=progress,
                policy=config.duplicates,
                follow=follow,
                summary=summary,
            )
        except KeyboardInterrupt:
            return summary, False
        if summary.kept_aside:
            # What is to be decoded to be compared, and what came twice in one batch.
            settler = resent.Settler(archive, reserve_bytes=config.limits.disk_reserve_bytes, since_ns=began_ns)
            same = min(settler.run(), summary.kept_aside)
            summary.kept_aside -= same
            summary.duplicates += same
        return summary, True


NOT_DICOM = "not DICOM"
"""How the reason begins when a refused file is none of ours."""


def import_failed(summary: ImportSummary) -> bool:
    """Whether a DICOM file is not in the archive, or nothing of a path; other files on a medium are no failure."""
    return bool(summary.barren) or any(not reason.startswith(NOT_DICOM) for _, reason in summary.refused)


def export(
    config: Config,
    wanted: list[query.Keys],
    target: Path,
    form: str,
    progress: Progress,
    missing: list[str],
    force: bool = False,
) -> tuple[ExportSummary | None, bool]:
    """Writes what matches; None when nothing does; and whether it came to its end: False after Ctrl-C.

    `missing` gets the UIDs that are named and not stored.
    """
    from engine.archive.interchange import exporter

    with opened(config) as archive:
        missing.extend(not_stored(archive, wanted))
        instances = matching_instances(archive, wanted)
        if not instances:
            return None, True
        summary = exporter.ExportSummary()
        try:
            exporter.export(archive, instances, target, form=form, force=force, progress=progress, summary=summary)
        except KeyboardInterrupt:
            return summary, False
        return summary, True


_UID_LEVELS = (
    (tags.StudyInstanceUID, "study"),
    (tags.SeriesInstanceUID, "series"),
    (tags.SOPInstanceUID, "instance"),
)


def not_stored(archive: Archive, wanted: Sequence[query.Keys]) -> list[str]:
    """Of the UIDs that queries name, those of which nothing is stored: "study 1.2.3"."""
    missing = []
    for tag, level in _UID_LEVELS:
        given = [keys.values.get(tag) for keys in wanted]
        named = dict.fromkeys(uid.strip() for value in given if isinstance(value, str) for uid in value.split("\\"))
        uids = [uid for uid in named if uid and uid not in ("*", plain_values.EMPTY_VALUE)]
        for start in range(0, len(uids), UIDS_AT_ONCE):
            some = uids[start : start + UIDS_AT_ONCE]
            keys = query.Keys(level, {tag: "\\".join(some)}, (tag,))
            found = {
                match.attributes[tag].decode("utf-8", "replace")
                for match in archive.find(query_of(keys, archive.schema, None))
            }
            missing += [f"{level} {uid}" for uid in some if uid not in found]
    return missing


def refuse_missing(missing: Sequence[str], instead: str) -> None:
    """Raises NotStored that names each."""
    if missing:
        raise NotStored(f"no {', no '.join(missing)} is stored; {instead}")


def matching(archive: Archive, wanted: Sequence[query.Keys]) -> Iterator[Instance]:
    """The instances of everything that matches, each once."""
    given: set[str] = set()
    for keys in wanted:
        for instance in archive.matching(query_of(keys, archive.schema, None)):
            if len(wanted) == 1 or instance.sop_instance_uid not in given:
                given.add(instance.sop_instance_uid)
                yield instance


def matching_instances(archive: Archive, wanted: Sequence[query.Keys]) -> list[Instance]:
    """The same, all at once."""
    return list(matching(archive, wanted))


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


def reindex(config: Config, progress: Progress) -> dict[str, int]:
    """Brings everything under the extra attributes of the configuration; what was done."""
    from engine.archive import extras
    from engine.archive.archive import Archive
    from engine.archive.lifecycle import reindex as reindexing

    with Archive.open(config.data, progress=progress, extra_attributes=extras.configured(config)) as archive:
        return reindexing.run(archive, progress)


def reindex_status(config: Config) -> dict[str, Any]:
    """How far that is."""
    from engine.archive.lifecycle.reindex import Reindexer

    with opened(config) as archive:
        return Reindexer(archive, bytes_per_s=0).status()


def schema(config: Config) -> Schema:
    """Which attributes the archive of a configuration keeps. Raises StorageError when there is none."""
    from engine.archive import extras

    return extras.schema_of(config.data)


def is_reindexing(config: Config, wanted: query.Keys) -> bool:
    """Whether a query asks for an extra attribute that what is stored has not been looked through for yet."""
    from engine.archive.lifecycle.reindex import Reindexer
    from engine.dicom import extra

    if all(map(extra.is_kept_by_all, wanted.values)):
        return False
    with opened(config) as archive:
        asks = any(tag in archive.schema.level_of and not extra.is_kept_by_all(tag) for tag in wanted.values)
        return asks and bool(Reindexer(archive, bytes_per_s=0).lacking())


def examine(config: Config, *, measure: bool, progress: Progress) -> list[dict[str, Any]]:
    """What the doctor finds, each finding as plain data."""
    from engine.doctor import examination

    findings = examination.examine(config, measure_bytes=examination.MEASURE_BYTES if measure else 0, progress=progress)
    return [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]


# Scrub -------------------------------------------------------------------------------------------


def scrub_status(config: Config) -> dict[str, Any]:
    """How far the scrub is, and what it has found."""
    from engine.archive.admin import upkeep

    with opened(config) as archive:
        return upkeep.scrub_status(archive, config.scrub)


def scrub_run(config: Config, rate_bytes_per_s: int, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """One pass over everything; what it found that was not known, and where the scrub is afterwards."""
    from engine.archive.admin import upkeep
    from engine.archive.lifecycle import scrub

    with opened(config, progress=progress) as archive:
        found = scrub.run_pass(archive, config.scrub, rate_bytes_per_s, progress)
        return [str(damaged) for damaged in found], upkeep.scrub_status(archive, config.scrub)


def damage(config: Config) -> list[dict[str, Any]]:
    """What is known to be damaged, and what is lost for good and not acknowledged."""
    from engine.archive.admin import upkeep

    with opened(config) as archive:
        return upkeep.damage(archive)


def acknowledge_losses(config: Config, segment_ids: list[int] | None) -> list[dict[str, Any]]:
    """Says of what is lost, in these segments or everywhere, that somebody knows; what that was."""
    from engine.archive.admin import upkeep

    with opened(config) as archive:
        chosen = archive.acknowledge_losses(segment_ids, actor=operator())
        return [upkeep.loss_facts(loss) for loss in chosen]


# Queries -----------------------------------------------------------------------------------------


def query_of(wanted: query.Keys, schema: Schema, limit: int | None, offset: int = 0) -> Query:
    """The query that these keys are. Raises QueryError."""
    from engine.index.query import keywords

    level = keywords.LEVELS[wanted.level]
    return keywords.query_of(
        level,
        wanted.values,
        schema,
        limit=limit,
        offset=offset,
        date_time="date_time" in wanted.options,
        fuzzy="fuzzy" in wanted.options,
        timezone="timezone" in wanted.options,
    )


def not_kept(wanted: query.Keys, schema: Schema) -> list[int]:
    """The attributes to be returned that the index does not keep, so that no match has them."""
    from engine.dicom.keywords import is_creator
    from engine.index.query.keywords import is_kept
    from engine.index.query.plan import COMPUTED

    stored = [tag for tag in wanted.columns if tag not in COMPUTED and not is_creator(tag)]
    return [tag for tag in stored if not is_kept(tag, wanted.values, schema)]


def operator() -> Principal:
    """Who works here: its `actor` is recorded, and shown in lists."""
    import getpass

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return Principal(Kind.OPERATOR, name)


# Peers -------------------------------------------------------------------------------------------


def addressed(config: Config, text: str, action: Action) -> Peer:
    """The peer that a command line names: a [[peer]], or AET@HOST:PORT. Raises ConfigError, or NotAllowed when this
    operator may not do that to it."""
    peer = parse_peer(config, text)
    decision = PeerRules(lambda: config).allowed(operator(), action, Destination(peer.aet))
    if not decision:
        raise NotAllowed(f"not allowed for {peer.aet}: {decision.reason}")
    return peer


def echo(peer: Peer, config: Config) -> dict[str, object]:
    """C-ECHO, or a search of a DICOMweb server; how long its parts took. Raises AssociationFailed."""
    from engine.exchange.echo import echo as ask

    return run(ask(peer, config))


def send(peer: Peer, config: Config, paths: list[Path], progress: Progress, follow: bool = False) -> SendSummary:
    """C-STORE of files. Raises AssociationFailed when nothing could be sent at all."""
    from engine.services import file_scu

    return run(file_scu.send_files(peer, config, paths, progress, follow=follow))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs what needs an event loop to its end; Ctrl-C cancels it."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
