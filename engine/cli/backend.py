"""The command line's access to the engine: each function imports what it needs and calls it.

Nothing here writes to the terminal. Commands that read the archive open it directly: as keeper when no server runs, as
guest when one does. So they work either way. Modules beside this one do the same for groups of
commands: `deletion`, `quarantine`, `commitments`, `corrections`, `copies`, `exchange`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from engine import audit
from engine.access import Action, Destination, Kind, Policy, Principal
from engine.cli import namespaces, query
from engine.cli.output import Progress
from engine.config import Config, Peer, parse_peer, second_copies
from engine.dicom import plain_values, tags
from engine.errors import NotAllowed, NotStored
from engine.index.query import key_values

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.interchange.exporter import ExportSummary
    from engine.archive.interchange.importer import ImportSummary
    from engine.archive.verify import CheckReport
    from engine.cli.options import Settings
    from engine.dicom.schema import Schema
    from engine.doctor.hardware import Hardware
    from engine.index.format.types import Instance, Query
    from engine.services.file_scu import SendSummary

Result = TypeVar("Result")

NOT_STORED = "not stored"
"""The state of a study that is not stored."""

UIDS_AT_ONCE = 500
"""Studies, series or instances whose instances are looked up in one read transaction."""


# The server --------------------------------------------------------------------------------------


def serve(settings: Settings) -> int:
    """Runs the server until a signal stops it; returns the exit code."""
    from engine.app import serving

    reading = settings.reading()
    if reading.config.cluster.database:
        second_copies.check_node(reading.config)
    return serving.serve(reading, settings.reading)


def control(config: Config, command: str) -> dict[str, Any]:
    """Asks the running server. Raises ControlUnavailable."""
    from engine import control as channel

    return channel.request(config.data, {"command": command})


def needs_restart(answer: dict[str, Any]) -> list[str]:
    """The changed keys that need a restart, from the answer of a reload."""
    return [str(key) for key in answer.get("restart_needed", [])]


# The archive -------------------------------------------------------------------------------------


@contextmanager
def recorded(config: Config, *, is_keeper: bool = False) -> Iterator[None]:
    """Records what this command does in the audit log, unless nothing can be written there: a read-only archive.

    Signs the log at the end if no server does. `is_keeper`: whether this process keeps the archive.
    """
    if audit.is_on() or not os.access(config.data, os.W_OK):
        yield
        return
    from engine.archive.admin import audit_log

    audit.configure(config)
    try:
        yield
    finally:
        audit.close()
        if config.audit.enabled:
            audit_log.sign(config.data, config.audit.signing_key, is_keeper=is_keeper)


@contextmanager
def opened(
    config: Config, *, role: str = "auto", create: bool = False, progress: Progress | None = None
) -> Iterator[Archive]:
    """Opens the archive, and closes it at the end. A new archive gets the configured extra attributes."""
    from engine.archive import extras
    from engine.archive.archive import Archive
    from engine.stops import delay_stops

    is_new = create and not (config.data / "archive.json").exists()
    attributes = extras.configured(config) if is_new else None
    archive = namespaces.under_a_free_id(
        lambda: Archive.open(
            config.data,
            role=role,
            create=create,
            progress=progress,
            extra_attributes=attributes,
            must_encrypt=create and config.encryption.required,
        )
    )
    delay_stops()
    try:
        with recorded(config, is_keeper=archive.is_keeper):
            _record_command()
            yield archive
    finally:
        archive.close()


_UNRECORDED = frozenset({"stats", "doctor", "completion", "help", "man", "version", "viewer"})
"""Commands that show nothing of a patient and change nothing."""
_RECORDED = "filmroom.recorded"


def _record_command() -> None:
    """Records the command of this process with its arguments. Raises AuditUnavailable."""
    import click

    context = click.get_current_context(silent=True)
    command = _command()
    if context is None or not command or command.split()[0] in _UNRECORDED or context.meta.get(_RECORDED):
        return
    context.meta[_RECORDED] = True  # a command may open the archive several times
    arguments = arguments_of(command, sys.argv[1:])
    kind = _KINDS.get(command, audit.Kind.OPERATION)
    audit.begin_now(
        audit.Event(
            kind=kind,
            principal=operator(),
            action=f"filmroom {command}",
            query=arguments if kind is audit.Kind.QUERY else "",
            detail="" if kind is audit.Kind.QUERY else arguments,
        )
    )


_KINDS = {
    "find": audit.Kind.QUERY,
    "worklist list": audit.Kind.QUERY,
    "workitem list": audit.Kind.QUERY,
    "workitem show": audit.Kind.QUERY,
    "hl7 journal": audit.Kind.QUERY,
    "import": audit.Kind.IMPORTED,
}
"""Those of commands that are no mere operation."""


def _command() -> str:
    """The words of the command that this process runs; "" if it is none."""
    import click

    context = click.get_current_context(silent=True)
    return "" if context is None else context.command_path.partition(" ")[2]


def arguments_of(command: str, arguments: Sequence[str]) -> str:
    """The arguments of a command line without the words of the command, between which options may stand."""
    left = list(arguments)
    for word in command.split():
        if word in left:
            left.remove(word)
    return " ".join(left)


def record_patient(patient: audit.Patient, *, accession: str = "", study: str = "", detail: str = "") -> None:
    """Records durably whose data the command of this process shows or changes. Raises AuditUnavailable."""
    if audit.is_on():
        audit.begin_now(
            audit.Event(
                kind=audit.Kind.OPERATION,
                principal=operator(),
                action=f"filmroom {_command()}".strip(),
                patient=patient,
                accession=accession,
                study=study,
                detail=detail,
            )
        )


def find(config: Config, request: query.Keys, limit: int | None, offset: int = 0) -> Iterator[dict[int, bytes]]:
    """The matches, each as tag → UTF-8 text."""
    with opened(config) as archive:
        for match in archive.find(query_of(request, archive.schema, limit, offset)):
            yield match.attributes


def explain(
    config: Config, request: query.Keys, limit: int | None, offset: int = 0
) -> tuple[list[dict[int, bytes]], dict[str, Any]]:
    """The matches as a list, and how the query ran: access path, rows read, time."""
    from engine.index.query.explanation import Explanation

    explanation = Explanation()
    with opened(config) as archive:
        began = time.perf_counter()
        matches = archive.find(query_of(request, archive.schema, limit, offset), explanation=explanation)
        rows = [match.attributes for match in matches]
        took_ms = (time.perf_counter() - began) * 1000
    return rows, {**explanation.summary(), "took_ms": round(took_ms, 3)}


def archive_stats(config: Config) -> dict[str, int]:
    """What the archive holds."""
    with opened(config) as archive:
        return in_words(archive.stats())


def changes(config: Config, *, since: str | None, limit: int | None, follow: bool) -> Iterator[dict[str, Any]]:
    """The events of the change feed, each with its cursor. With `follow` it waits for more and never ends."""
    import orjson

    from engine.archive.feed.cursor import Cursor
    from engine.archive.feed.subscription import PAGE_EVENTS, Feed

    feed = Feed.existing(config.data)
    try:
        cursor = feed.oldest() if since is None else Cursor.parse(since)
        remaining = limit
        while remaining != 0:
            page = feed.read(cursor, PAGE_EVENTS if remaining is None else min(remaining, PAGE_EVENTS))
            for number, line in enumerate(page.lines):
                yield {**orjson.loads(line), "cursor": str(page.cursor_at(number))}
            cursor = page.cursor
            remaining = None if remaining is None else remaining - len(page.lines)
            if not page.lines:
                if not follow:
                    return
                feed.wait(cursor)
    finally:
        feed.close()


def study_states(config: Config, studies: Sequence[str]) -> list[dict[str, object]]:
    """Whether studies are arriving, quiet, complete or reopened; "unknown" without a feed, or NOT_STORED.

    Raises QueryError for a UID that is none.
    """
    for uid in studies:
        key_values.check_uid(uid)
    with opened(config) as archive:
        stored = [archive.sees(uid) for uid in studies]
        states = archive.study_states.of(list(studies))
    rows = zip(studies, stored, states, strict=True)
    return [
        {
            "study_instance_uid": uid,
            **(state.as_dict() if state and is_stored else {"state": "unknown" if is_stored else NOT_STORED}),
        }
        for uid, is_stored, state in rows
    ]


def webhooks(config: Config) -> list[dict[str, object]]:
    """The webhooks, and how far each delivery is."""
    from engine.archive import layout
    from engine.archive.feed.destinations import Destinations

    return [standing.as_dict() for standing in Destinations(layout.existing(config.data)).all()]


def webhook_resume(config: Config, name: str) -> None:
    """Has a parked webhook tried again."""
    from engine.archive import layout
    from engine.archive.feed.destinations import Destinations

    Destinations(layout.existing(config.data)).resume(name)


def in_words(counts: Mapping[str, int]) -> dict[str, int]:
    """The archive's counts under the names that all commands use."""
    return {_WORDS.get(name, name): count for name, count in counts.items()}


_WORDS = {"kept_aside": "versions", "quarantined": "unparseable"}
"""Versions: instances beside the current one of their UID. Unparseable: refused bytes."""


def import_paths(
    config: Config, paths: list[Path], jobs: int | None, progress: Progress, *, follow: bool = False
) -> tuple[ImportSummary, bool]:
    """Stores files, folders, archives and DICOMDIR media by the rules of C-STORE.

    Returns the summary and whether the import finished: False after Ctrl-C.
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
            # Compares versions that need decoding first, and duplicates within one batch.
            comparer = resent.VersionComparer(
                archive, reserve_bytes=config.limits.disk_reserve_bytes, since_ns=began_ns
            )
            same = min(comparer.run(), summary.kept_aside)
            summary.kept_aside -= same
            summary.duplicates += same
        return summary, True


NOT_DICOM = "not DICOM"
"""How the reason begins for a file that is not DICOM at all."""


def import_failed(summary: ImportSummary) -> bool:
    """Whether a DICOM file could not be stored or a path gave no instance. Files that are not DICOM are no failure."""
    return bool(summary.empty_paths) or any(not reason.startswith(NOT_DICOM) for _, reason in summary.refused)


def export(
    config: Config,
    queries: list[query.Keys],
    target: Path,
    form: str,
    progress: Progress,
    missing: list[str],
    force: bool = False,
) -> tuple[ExportSummary | None, bool]:
    """Writes the matching instances. Adds to `missing` the named UIDs that are not stored.

    Returns the summary (None without a match) and whether the export finished: False after Ctrl-C.
    """
    from engine.archive.interchange import exporter

    with opened(config) as archive:
        missing.extend(not_stored(archive, queries))
        instances = matching_instances(archive, queries)
        if not instances:
            return None, True
        _record_export(archive, instances, target)
        summary = exporter.ExportSummary()
        try:
            exporter.export(archive, instances, target, form=form, force=force, progress=progress, summary=summary)
        except KeyboardInterrupt:
            return summary, False
        return summary, True


def _record_export(archive: Archive, instances: Sequence[Instance], target: Path) -> None:
    """Records durably, before they are written, what leaves the archive. Raises AuditUnavailable."""
    if not audit.is_on():
        return
    classes: dict[str, dict[str, int]] = {}
    for instance in instances:
        counts = classes.setdefault(instance.study_instance_uid, {})
        counts[instance.sop_class_uid] = counts.get(instance.sop_class_uid, 0) + 1
    events = []
    for study, counts in classes.items():
        facts = archive.study_facts(study)
        events.append(
            audit.Event(
                kind=audit.Kind.EXPORTED,
                principal=operator(),
                action="filmroom export",
                patient=facts.patient,
                accession=facts.accession,
                study=study,
                classes=counts,
                count=sum(counts.values()),
                peer=str(target),
            )
        )
    audit.begin_now(*events)


_UID_LEVELS = (
    (tags.StudyInstanceUID, "study"),
    (tags.SeriesInstanceUID, "series"),
    (tags.SOPInstanceUID, "instance"),
)


def not_stored(archive: Archive, queries: Sequence[query.Keys]) -> list[str]:
    """The UIDs named in queries of which nothing is stored: "study 1.2.3"."""
    missing = []
    for tag, level in _UID_LEVELS:
        values = [keys.values.get(tag) for keys in queries]
        named = dict.fromkeys(uid.strip() for value in values if isinstance(value, str) for uid in value.split("\\"))
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
    """Raises NotStored with all of them, if there are any."""
    if missing:
        raise NotStored(f"no {', no '.join(missing)} is stored; {instead}")


def matching(archive: Archive, queries: Sequence[query.Keys]) -> Iterator[Instance]:
    """The instances that match any of the queries, each once."""
    seen_uids: set[str] = set()
    for keys in queries:
        for instance in archive.matching(query_of(keys, archive.schema, None)):
            if len(queries) == 1 or instance.sop_instance_uid not in seen_uids:
                seen_uids.add(instance.sop_instance_uid)
                yield instance


def matching_instances(archive: Archive, queries: Sequence[query.Keys]) -> list[Instance]:
    """The same, all at once."""
    return list(matching(archive, queries))


def check(config: Config, payloads: bool, progress: Progress) -> CheckReport:
    """Compares the log with the index."""
    from engine.archive import verify

    with opened(config, progress=progress) as archive:
        return verify.check(archive, payloads=payloads, progress=progress)


def rebuild_index(config: Config, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Rebuilds the index. Returns a summary and the damage found."""
    from engine.archive.archive import Archive

    report = Archive.rebuild_index(config.data, progress=progress)
    return report.summary(), [str(finding) for finding in report.findings]


def reindex(config: Config, progress: Progress) -> dict[str, int]:
    """Indexes the configured extra attributes of all stored instances; returns the counts."""
    from engine.archive import extras
    from engine.archive.archive import Archive
    from engine.archive.lifecycle import reindex as reindexing

    with Archive.open(config.data, progress=progress, extra_attributes=extras.configured(config)) as archive:
        return reindexing.run(archive, progress)


def reindex_status(config: Config) -> dict[str, Any]:
    """How far re-indexing is."""
    from engine.archive.lifecycle.reindex import Reindexer

    with opened(config) as archive:
        return Reindexer(archive, bytes_per_s=0).status()


def schema(config: Config) -> Schema:
    """The attributes that the archive's index keeps. Raises StorageError without an archive."""
    from engine.archive import extras

    return extras.schema_of(config.data)


def is_reindexing(config: Config, request: query.Keys) -> bool:
    """Whether the query uses an extra attribute for which re-indexing has not finished."""
    from engine.archive.lifecycle.reindex import Reindexer
    from engine.dicom import extra

    if all(map(extra.is_built_in, request.values)):
        return False
    with opened(config) as archive:
        asks = any(tag in archive.schema.level_of and not extra.is_built_in(tag) for tag in request.values)
        return asks and bool(Reindexer(archive, bytes_per_s=0).lacking())


def examine(
    config: Config,
    *,
    measure: bool,
    only_security: bool,
    progress: Progress,
    target: str = "",
    targets: Mapping[str, Hardware] | None = None,
) -> list[dict[str, Any]]:
    """The doctor's findings as plain data; with the name of a hardware target also how the machine compares with it."""
    from engine.doctor import examination

    if only_security:
        findings = examination.examine_security(config)
    else:
        goal = examination.Goal(target, targets) if targets else None
        measure_bytes = examination.MEASURE_BYTES if measure else 0
        findings = examination.examine(config, measure_bytes=measure_bytes, progress=progress, goal=goal)
    return [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]


def security_report(config: Config, directory: Path, form: Literal["md", "json"]) -> list[dict[str, Any]]:
    """Writes the papers of a security review into a folder; returns what was written."""
    from engine.archive.interchange.private_files import make_folder, new_file
    from engine.reports.papers import papers

    made = papers(config, form)
    make_folder(directory)
    for paper in made:
        with new_file(directory / paper.name, replace=True) as file:
            file.write(paper.content)
    return [{"file": str(directory / paper.name), "title": paper.title, "counts": paper.counts} for paper in made]


# Scrub -------------------------------------------------------------------------------------------


def scrub_status(config: Config) -> dict[str, Any]:
    """The progress of the scrub and its findings."""
    from engine.archive.admin import upkeep

    with opened(config) as archive:
        return upkeep.scrub_status(archive, config.scrub)


def scrub_run(config: Config, rate_bytes_per_s: int, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Reads everything once. Returns the new findings and the state of the scrub afterwards."""
    from engine.archive.admin import upkeep
    from engine.archive.lifecycle import scrub

    with opened(config, progress=progress) as archive:
        findings = scrub.run_pass(archive, config.scrub, rate_bytes_per_s, progress)
        return [str(damaged) for damaged in findings], upkeep.scrub_status(archive, config.scrub)


def damage(config: Config) -> list[dict[str, Any]]:
    """Known damage, and losses that nobody has acknowledged."""
    from engine.archive.admin import upkeep

    with opened(config) as archive:
        return upkeep.damage(archive)


def acknowledge_losses(config: Config, segment_ids: list[int] | None) -> list[dict[str, Any]]:
    """Acknowledges the losses in these segments, or all; returns them."""
    from engine.archive.admin import upkeep

    with opened(config) as archive:
        chosen = archive.acknowledge_losses(segment_ids, actor=operator())
        return [upkeep.loss_facts(loss) for loss in chosen]


# Queries -----------------------------------------------------------------------------------------


def query_of(request: query.Keys, schema: Schema, limit: int | None, offset: int = 0) -> Query:
    """The query that these keys are. Raises QueryError."""
    from engine.index.query import keywords

    level = keywords.LEVELS[request.level]
    return keywords.query_of(
        level,
        request.values,
        schema,
        limit=limit,
        offset=offset,
        date_time="date_time" in request.options,
        fuzzy="fuzzy" in request.options,
        timezone="timezone" in request.options,
    )


def not_kept(request: query.Keys, schema: Schema) -> list[int]:
    """The requested attributes that the index does not keep, so that no match shows them."""
    from engine.dicom.keywords import is_creator
    from engine.index.query.keywords import is_indexed
    from engine.index.query.plan import COMPUTED

    stored = [tag for tag in request.columns if tag not in COMPUTED and not is_creator(tag)]
    return [tag for tag in stored if not is_indexed(tag, request.values, schema)]


def operator() -> Principal:
    """The user of the command line. Operations record it as their actor."""
    import getpass

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return Principal(Kind.OPERATOR, name)


# Peers -------------------------------------------------------------------------------------------


def addressed(config: Config, text: str, action: Action) -> Peer:
    """The peer named on a command line: a [[peer]], or AET@HOST:PORT.

    Raises ConfigError, and NotAllowed if this operator may not do that with it.
    """
    peer = parse_peer(config, text)
    decision = Policy(lambda: config).allowed(operator(), action, Destination(peer.aet))
    if not decision:
        raise NotAllowed(f"not allowed for {peer.aet}: {decision.reason}")
    return peer


def echo(peer: Peer, config: Config) -> dict[str, object]:
    """C-ECHO, or a search of a DICOMweb server; how long its parts took. Raises AssociationFailed."""
    from engine.exchange.echo import echo as ask

    return run(ask(peer, config))


def send(peer: Peer, config: Config, paths: list[Path], progress: Progress, follow: bool = False) -> SendSummary:
    """Sends files by C-STORE. Raises AssociationFailed if nothing could be sent."""
    from engine.services import file_scu

    return run(file_scu.send_files(peer, config, paths, progress, follow=follow))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine in an event loop; Ctrl-C cancels it."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
