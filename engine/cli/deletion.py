"""The part of `backend` for deletion, holds, retention and compaction."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from engine.cli import backend, query
from engine.cli.output import Progress
from engine.config import Config, Retention
from engine.dicom import plain_values, tags
from engine.errors import ConfigError
from engine.index.query import key_values

if TYPE_CHECKING:
    from engine.archive.lifecycle.deletion import Deletion
    from engine.index.format.types import Instance


def delete(
    config: Config,
    queries: list[query.Keys],
    *,
    reason: str,
    dry_run: bool,
    into_trash: bool = False,
    must_shred: bool = False,
) -> dict[str, Any]:
    """Deletes the matching instances, for good or into the trash; with `dry_run` only counts them.

    Raises DeletionRefused, and NotStored for named UIDs that are not stored.
    """
    from engine.index.format.types import Level

    with backend.opened(config) as archive:
        backend.refuse_missing(backend.not_stored(archive, queries), "nothing was deleted")
        chosen: dict[Level, dict[str, Instance]] = {}
        for keys in queries:
            level = max(backend.query_of(keys, archive.schema, None).level, Level.STUDY)
            found = {instance.sop_instance_uid: instance for instance in backend.matching_instances(archive, [keys])}
            chosen.setdefault(level, {}).update(found)
        everything: dict[str, Instance] = {}
        for level in sorted(chosen):
            chosen[level] = {uid: found for uid, found in chosen[level].items() if uid not in everything}
            everything |= chosen[level]
        whole = list(everything.values())
        actor = backend.operator()
        # Check everything first: if any of it is on hold, nothing is deleted.
        deletion = archive.delete_instances(whole, level=Level.IMAGE, actor=actor, reason=reason, dry_run=True)
        if dry_run:
            return _facts(deletion)
        deletion.refuse_held()
        began = time.perf_counter()
        for level in sorted(chosen):
            instances = list(chosen[level].values())
            part = archive.delete_instances(
                instances, level=level, actor=actor, reason=reason, into_trash=into_trash, must_shred=must_shred
            )
            deletion.trash += part.trash
            deletion.shredded += part.shredded
        deletion.dry_run = False
        return {**_facts(deletion), "took_ms": round((time.perf_counter() - began) * 1000, 3)}


def _facts(deletion: Deletion) -> dict[str, Any]:
    facts = asdict(deletion)
    if not deletion.trash:
        del facts["trash"]
    if not deletion.shredded:
        del facts["shredded"]
    return facts


def patients_of(config: Config, queries: list[query.Keys]) -> list[str]:
    """The patients of the matching instances, each once: "Doe^Jane (4711)"."""
    with backend.opened(config) as archive:
        patients: dict[str, None] = {}
        for keys in queries:
            search = backend.query_of(keys, archive.schema, None)
            named = {tags.PatientName: b"", tags.PatientID: b"", **search.keys}
            for match in archive.find(replace(search, keys=named)):
                who = (plain_values.text_of(tag, match.attributes.get(tag, b"")) for tag in named if tag in _WHO)
                name, patient_id = who
                patients[f"{name} ({patient_id})"] = None
    return list(patients)


_WHO = (tags.PatientName, tags.PatientID)


def change_holds(
    config: Config,
    studies: list[str],
    request: query.Keys | None,
    *,
    is_set: bool,
    in_advance: bool = False,
    reason: str,
) -> tuple[list[str], list[str]]:
    """Sets or releases holds. Returns the selected studies and those whose hold changed.

    Raises NotStored for a named study that is not stored, unless it is held in advance or its hold is released.
    """
    for uid in studies:
        key_values.check_uid(uid)
    with backend.opened(config) as archive:
        named = dict.fromkeys(studies)
        held = {hold.study_instance_uid.decode("utf-8", "replace") for hold in archive.holds()}
        by_uid = zip(studies, query.named([], studies), strict=True)
        searches = [keys for uid, keys in by_uid if is_set or uid not in held]
        if request is not None:
            searches.append(request)
        if not in_advance:
            instead = "no hold was set; --in-advance holds a study before it arrives" if is_set else "no hold ended"
            backend.refuse_missing(backend.not_stored(archive, searches), instead)
        if request is not None:
            instances = backend.matching_instances(archive, [request])
            named |= dict.fromkeys(instance.study_instance_uid for instance in instances)
        change = archive.set_holds if is_set else archive.release_holds
        return list(named), change(list(named), actor=backend.operator(), reason=reason)


def holds(config: Config) -> list[dict[str, Any]]:
    """Every hold, with the number of stored instances of its study."""
    from engine.archive.admin import holds

    with backend.opened(config) as archive:
        return holds.list_all(archive)


def retention_rules(config: Config, names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rules as plain data."""
    import msgspec

    return [msgspec.structs.asdict(rule) for rule in _rules(config, names)]


def _rules(config: Config, names: tuple[str, ...]) -> list[Retention]:
    """The rules with these names; without names, all. Raises ConfigError."""
    rules = {rule.name: rule for rule in config.retention}
    unknown = ", ".join(repr(name) for name in names if name not in rules)
    if unknown:
        raise ConfigError(f"there is no [[retention]] rule {unknown}; there are: {', '.join(rules) or 'none'}")
    return [rule for rule in config.retention if not names or rule.name in names]


def retention_due(config: Config, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The studies due for deletion, and the totals of each rule."""
    from engine.archive.admin import upkeep

    rules = _rules(config, names)
    sums: dict[str, dict[str, Any]]
    sums = {rule.name: {"rule": rule.name, "studies": 0, "instances": 0, "bytes": 0, "held": 0} for rule in rules}
    with backend.opened(config) as archive:
        studies = list(upkeep.due(archive, rules))
    for due in studies:
        row = sums[due["rule"]]
        for name, count in (("studies", 1), ("instances", due["instances"]), ("bytes", due["bytes"])):
            row[name] += 0 if due["held"] else count
        row["held"] += due["held"]
    return studies, list(sums.values())


def retention_apply(config: Config, names: tuple[str, ...], *, anyway: bool) -> list[dict[str, Any]]:
    """Deletes the studies that are due; returns a row per rule. Raises RetentionRefused, unless `anyway`."""
    from engine.archive.lifecycle import retention

    with backend.opened(config) as archive:
        now_ns = time.time_ns()
        return [
            {
                "rule": rule.name,
                **asdict(retention.apply(archive, rule, now_ns, actor=backend.operator(), is_confirmed=anyway)),
            }
            for rule in _rules(config, names)
        ]


def compact(config: Config, everything: bool, progress: Progress) -> dict[str, Any]:
    """Compacts until there is nothing left to do."""
    from engine.archive.lifecycle.compaction import Compactor

    with backend.opened(config, progress=progress) as archive:
        compactor = Compactor(
            archive, config.compaction, segment_bytes=config.storage.segment_bytes, everything=everything
        )
        return compactor.run(progress).as_dict()
