"""Where the commands that delete, hold and compact reach the engine; the part of `backend` for them."""

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
    from engine.index.format.types import Instance


def delete(config: Config, wanted: list[query.Keys], *, reason: str, dry_run: bool) -> dict[str, Any]:
    """Deletes what matches, or says what that would be. Raises DeletionRefused; NotStored for UIDs that are named."""
    from engine.index.format.types import Level

    with backend.opened(config) as archive:
        backend.refuse_missing(backend.not_stored(archive, wanted), "nothing was deleted")
        chosen: dict[Level, dict[str, Instance]] = {}
        for keys in wanted:
            level = max(backend.query_of(keys, archive.schema, None).level, Level.STUDY)
            found = {instance.sop_instance_uid: instance for instance in backend.matching_instances(archive, [keys])}
            chosen.setdefault(level, {}).update(found)
        everything: dict[str, Instance] = {}
        for level in sorted(chosen):
            chosen[level] = {uid: found for uid, found in chosen[level].items() if uid not in everything}
            everything |= chosen[level]
        whole = list(everything.values())
        actor = backend.operator()
        # First as a whole: nothing goes when something of it is held.
        deletion = archive.delete_instances(whole, level=Level.IMAGE, actor=actor, reason=reason, dry_run=True)
        if dry_run:
            return asdict(deletion)
        deletion.refuse_held()
        began = time.perf_counter()
        for level in sorted(chosen):
            archive.delete_instances(list(chosen[level].values()), level=level, actor=actor, reason=reason)
        deletion.dry_run = False
        return {**asdict(deletion), "took_ms": round((time.perf_counter() - began) * 1000, 3)}


def patients_of(config: Config, wanted: list[query.Keys]) -> list[str]:
    """Whose instances match, each once: "Doe^Jane (4711)"."""
    with backend.opened(config) as archive:
        found: dict[str, None] = {}
        for keys in wanted:
            asked = backend.query_of(keys, archive.schema, None)
            named = {tags.PatientName: b"", tags.PatientID: b"", **asked.keys}
            for match in archive.find(replace(asked, keys=named)):
                who = (plain_values.text_of(tag, match.attributes.get(tag, b"")) for tag in named if tag in _WHO)
                name, patient_id = who
                found[f"{name} ({patient_id})"] = None
    return list(found)


_WHO = (tags.PatientName, tags.PatientID)


def change_holds(
    config: Config,
    studies: list[str],
    wanted: query.Keys | None,
    *,
    is_set: bool,
    in_advance: bool = False,
    reason: str,
) -> tuple[list[str], list[str]]:
    """Sets or releases holds; the studies that are meant, and those that this changed.

    Raises NotStored for a study that is named and not there, unless it is to be held in advance or a hold is released.
    """
    for uid in studies:
        key_values.check_uid(uid)
    with backend.opened(config) as archive:
        named = dict.fromkeys(studies)
        held = {hold.study_instance_uid.decode("utf-8", "replace") for hold in archive.holds()}
        asked = [keys for uid, keys in zip(studies, query.named([], studies), strict=True) if is_set or uid not in held]
        if wanted is not None:
            asked.append(wanted)
        if not in_advance:
            instead = "nothing was held; --in-advance holds a study before it arrives" if is_set else "no hold ended"
            backend.refuse_missing(backend.not_stored(archive, asked), instead)
        if wanted is not None:
            instances = backend.matching_instances(archive, [wanted])
            named |= dict.fromkeys(instance.study_instance_uid for instance in instances)
        change = archive.set_holds if is_set else archive.release_holds
        return list(named), change(list(named), actor=backend.operator(), reason=reason)


def holds(config: Config) -> list[dict[str, Any]]:
    """Every hold, and how many instances of its study are there."""
    from engine.archive.admin import holds

    with backend.opened(config) as archive:
        return holds.listed(archive)


def retention_rules(config: Config, names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rules as plain data."""
    import msgspec

    return [msgspec.structs.asdict(rule) for rule in _rules(config, names)]


def _rules(config: Config, names: tuple[str, ...]) -> list[Retention]:
    """The rules of these names, of all without any. Raises ConfigError."""
    known = {rule.name: rule for rule in config.retention}
    unknown = ", ".join(repr(name) for name in names if name not in known)
    if unknown:
        raise ConfigError(f"there is no [[retention]] rule {unknown}; there are: {', '.join(known) or 'none'}")
    return [rule for rule in config.retention if not names or rule.name in names]


def retention_due(config: Config, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The studies that are due, and the sums of each rule."""
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
    """Deletes what is due; what became of each rule's studies. Raises RetentionRefused, unless `anyway`."""
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
