"""Invented entries and histories for the tests of the index, and the content of an index without its ids."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.index.apply.history import read_history
from engine.index.apply.versions import State
from engine.index.catalog import Catalog
from engine.index.format import keys
from engine.index.format.entry import HEAL, Correction, Entry, Hold, Item, Operation, Quarantined, Tombstone
from engine.index.format.rows import read_name, scan_prefix, unpack_tail
from engine.index.format.statements import Facts, canonical
from engine.index.format.trash_record import TrashOperation, TrashRecord
from engine.index.format.types import Level
from engine.storage.record import HEADER_BYTES, Kind, Position, Record, padded

CT = b"1.2.840.10008.5.1.4.1.1.2"
MR = b"1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = b"1.2.840.10008.1.2.1"
ROOT = "1.2.826.0.1.3680043.10.1599.99"


def blob(items: Mapping[int, bytes]) -> bytes:
    return b"".join(struct.pack("<II", tag, len(items[tag])) + items[tag] for tag in sorted(items))


class Tail:
    """The place of the next record in each segment."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self.stamp = 1_000

    def place(self, segment_id: int, payload_length: int, crc: int, key_length: int = 60) -> Position:
        offset = self.ends.get(segment_id, 4096)
        position = Position(segment_id, offset, key_length, 500, payload_length, crc)
        self.ends[segment_id] = offset + padded(HEADER_BYTES + key_length + 500 + payload_length)
        return position

    def next_stamp(self) -> int:
        self.stamp += 1
        return self.stamp


def entry(
    tail: Tail,
    *,
    study: int = 1,
    series: int = 1,
    instance: int = 1,
    segment_id: int = 1,
    stamp: int | None = None,
    flags: int = 0,
    length: int = 1000,
    crc: int | None = None,
    patient: Mapping[int, bytes] | None = None,
    study_items: Mapping[int, bytes] | None = None,
    series_items: Mapping[int, bytes] | None = None,
    instance_items: Mapping[int, bytes] | None = None,
    sop_class: bytes = CT,
    character_set: bytes = b"",
    sop_instance_uid: bytes | None = None,
) -> Entry:
    uid = sop_instance_uid or f"{ROOT}.{study}.{series}.{instance}".encode()
    return Entry(
        position=tail.place(segment_id, length, instance * 7919 + study if crc is None else crc, len(uid)),
        flags=flags,
        stamp=tail.next_stamp() if stamp is None else stamp,
        sop_class_uid=sop_class,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title=b"MODALITY",
        received_ns=1_700_000_000_000_000_000,
        pixel_data_offset=800,
        character_set=character_set,
        patient=blob({tags.PatientName: b"Doe^John", tags.PatientID: b"P%d" % study, **(patient or {})}),
        study=blob(
            {
                tags.StudyInstanceUID: f"{ROOT}.{study}".encode(),
                tags.StudyDate: b"20240102",
                tags.StudyTime: b"101500",
                tags.AccessionNumber: b"A%d" % study,
                tags.StudyID: b"S%d" % study,
                **(study_items or {}),
            }
        ),
        series=blob(
            {
                tags.SeriesInstanceUID: f"{ROOT}.{study}.{series}".encode(),
                tags.Modality: b"CT",
                tags.SeriesNumber: b"%d" % series,
                **(series_items or {}),
            }
        ),
        instance=blob(
            {
                tags.SOPClassUID: sop_class,
                tags.SOPInstanceUID: uid,
                tags.InstanceNumber: b"%d" % instance,
                tags.Rows: struct.pack("<H", 512),
                **(instance_items or {}),
            }
        ),
    )


def tombstone(
    tail: Tail,
    *uids: bytes,
    segment_id: int = 1,
    stamp: int | None = None,
    target: int = 0,
    deleted_ns: int = 1,
    level: Level = Level.IMAGE,
    uid: bytes = b"",
) -> Tombstone:
    """`uid`: of a study or series."""
    uid = uid or uids[0]
    position = tail.place(segment_id, 0, 0, len(uid))
    stamp = tail.next_stamp() if stamp is None else stamp
    return Tombstone(position, stamp, level, uid, uids, target, deleted_ns, b"operator", b"asked for")


def hold(tail: Tail, study: int, is_set: bool, *, segment_id: int = 1, stamp: int | None = None) -> Hold:
    uid = f"{ROOT}.{study}".encode()
    stamp = tail.next_stamp() if stamp is None else stamp
    return Hold(tail.place(segment_id, 0, 0, len(uid)), stamp, uid, is_set, stamp, b"operator", b"court order")


def quarantined(tail: Tail, uid: bytes, *, segment_id: int = 1, stamp: int | None = None, crc: int = 5) -> Quarantined:
    stamp = tail.next_stamp() if stamp is None else stamp
    position = tail.place(segment_id, 300, crc, len(uid))
    return Quarantined(position, stamp, uid, CT, EXPLICIT, b"MODALITY", stamp, b"no Study Instance UID")


def correction(
    tail: Tail,
    operation: Operation,
    *names: bytes,
    level: int = 0,
    items: Mapping[int, bytes] | None = None,
    undoes: int = 0,
    segment_id: int = 1,
    stamp: int | None = None,
) -> Correction:
    stamp = tail.next_stamp() if stamp is None else stamp
    correction_ = Correction(
        tail.place(segment_id, 0, 0, 9), stamp, operation, level, names, blob(items or {}), undoes, stamp, b"me", b"why"
    )
    return replace(
        correction_,
        position=correction_.position._replace(
            key_length=len(correction_.key), meta_length=len(correction_.pack_meta())
        ),
    )


def trash(
    tail: Tail,
    operation: TrashOperation,
    *uids: bytes,
    settles: int = 0,
    level: Level = Level.IMAGE,
    uid: bytes = b"",
    made_ns: int = 1,
    segment_id: int = 1,
    stamp: int | None = None,
) -> TrashRecord:
    study = f"{ROOT}.1".encode()
    stamp = tail.next_stamp() if stamp is None else stamp
    uid = uid or study
    place = tail.place(segment_id, 0, 0, len(uid))
    return TrashRecord(
        place, stamp, operation, level, uid, study, uids, settles, 1, 10, blob({}), made_ns, b"operator", b"by mistake"
    )


# random histories ----------------------------------------------------------------------------------

_NAMES = [
    b"Doe^John",
    b"M\xc3\xbcller^J\xc3\xb6rg",
    b"Yamada^Tarou=\xe5\xb1\xb1\xe7\x94\xb0^\xe5\xa4\xaa\xe9\x83\x8e",
    b"",
]


def random_history(rng: random.Random, count: int, *, ties: bool = True) -> list[Item]:
    """Records of several writers that send, send again, contradict themselves, move, delete, hold and heal.

    Without `ties` no two have one stamp, as it is but for copies: those are the same in everything.
    """
    tail = Tail()
    records: list[Item] = []
    for _ in range(count):
        study = rng.randrange(5)
        series = rng.randrange(3)
        instance = rng.randrange(6)
        uid = f"{ROOT}.{study}.{series}.{instance}".encode()
        segment_id = rng.randrange(1, 4)
        tail.stamp += rng.choice((0, 1, 1, 5))
        stamp = tail.stamp if ties else 1000 * (tail.stamp + rng.randrange(3)) + len(records)
        other = rng.random()
        if other < 0.16:
            uids = [f"{ROOT}.{study}.{series}.{i}".encode() for i in rng.sample(range(6), rng.choice((1, 1, 3, 6)))]
            level = Level(rng.randrange(4))
            late = stamp + ties * rng.randrange(3)
            records.append(tombstone(tail, *uids, segment_id=segment_id, stamp=late, level=level))
            continue
        if other < 0.20 and records:
            aimed = rng.choice(records)
            if isinstance(aimed, Entry | Quarantined):
                aim = aimed.sop_instance_uid
                records.append(tombstone(tail, aim, segment_id=segment_id, stamp=stamp + 3, target=aimed.stamp))
            continue
        if other < 0.23:
            records.append(
                hold(tail, study, rng.random() < 0.5, segment_id=segment_id, stamp=stamp + ties * rng.randrange(3))
            )
            continue
        if other < 0.26:
            claimed = rng.choice((uid, b"-"))
            records.append(quarantined(tail, claimed, segment_id=segment_id, stamp=stamp, crc=len(records)))
            continue
        if other < 0.32:
            records.append(random_correction(rng, tail, records, segment_id, stamp))
            continue
        if other < 0.40:
            records.append(random_trash(rng, tail, records, segment_id, stamp + ties * rng.randrange(3)))
            continue
        odd = rng.random()
        patient = {tags.PatientID: b"P%d" % (study % 3)}
        study_items: dict[int, bytes] = {}
        series_items: dict[int, bytes] = {}
        if odd < 0.15:
            patient[tags.PatientName] = rng.choice(_NAMES)
        elif odd < 0.25:
            patient[tags.PatientID] = rng.choice((b"", b"P9"))
        elif odd < 0.35:
            study_items[tags.StudyDescription] = rng.choice((b"", b"Thorax", b"Abdomen"))
        elif odd < 0.45:
            series_items[tags.Modality] = rng.choice((b"", b"CT", b"MR"))
        other_study = study if rng.random() < 0.9 else rng.randrange(5)
        one = entry(
            tail,
            study=other_study,
            series=series,
            instance=instance,
            segment_id=segment_id,
            stamp=stamp + ties * rng.randrange(3),
            flags=rng.randrange(3) | rng.choice((0, 0, HEAL)),
            crc=rng.randrange(3),
            patient=patient,
            study_items=study_items,
            series_items=series_items,
            sop_class=rng.choice((CT, CT, MR)),
            sop_instance_uid=uid,
            character_set=b"ISO_IR 192",
        )
        records.append(replace(one, calling_ae_title=(b"CT1", b"MR1", b"ct1 ")[len(records) % 3]))
    return records


def random_trash(rng: random.Random, tail: Tail, records: Iterable[Item], segment_id: int, stamp: int) -> TrashRecord:
    """A random record of the trash: entries in it may be restored and emptied, both, in part, and more than once."""
    puts = [record for record in records if isinstance(record, TrashRecord) and record.is_put]
    if puts and rng.random() < 0.55:
        put = rng.choice(puts[-4:])
        operation = rng.choice((TrashOperation.RESTORE, TrashOperation.RESTORE, TrashOperation.EMPTY))
        uids = put.sop_instance_uids
        uids = uids if rng.random() < 0.6 else tuple(rng.sample(uids, rng.randrange(1, len(uids) + 1)))
        return trash(tail, operation, *uids, settles=put.stamp, segment_id=segment_id, stamp=stamp)
    study, series = rng.randrange(5), rng.randrange(3)
    uids = tuple(f"{ROOT}.{study}.{series}.{i}".encode() for i in rng.sample(range(6), rng.choice((1, 3, 6, 6))))
    level = rng.choice((Level.STUDY, Level.SERIES, Level.IMAGE))
    return trash(tail, TrashOperation.PUT, *uids, level=level, segment_id=segment_id, stamp=stamp)


def random_correction(
    rng: random.Random, tail: Tail, records: Iterable[Item], segment_id: int, stamp: int
) -> Correction:
    """A random correction of anything in a random history: circles of merges, missing patients and series."""

    def patient() -> tuple[bytes, bytes]:
        return rng.choice((b"P0", b"P1", b"P2", b"P9", b"N1")), rng.choice((b"", b"", b"", b"HERE"))

    def patient_items(rich: bool) -> dict[int, bytes]:
        patient_id, issuer = patient()
        values = {tags.PatientID: patient_id, tags.IssuerOfPatientID: issuer}
        return (
            {**values, tags.PatientName: rng.choice(_NAMES), tags.PatientSex: rng.choice((b"", b"F"))}
            if rich
            else values
        )

    study = rng.randrange(5)
    study_uid = f"{ROOT}.{study}".encode()
    stamps = [record.stamp for record in records if isinstance(record, Correction)]
    what = rng.random()
    names: tuple[bytes, ...]
    if stamps and what < 0.3:
        return correction(tail, Operation.UNDO, undoes=rng.choice(stamps), segment_id=segment_id, stamp=stamp)
    if what < 0.5:
        operation, level, names, items = Operation.MERGE, 0, patient(), patient_items(rng.random() < 0.5)
    elif what < 0.65:
        uids = (study_uid, *([f"{ROOT}.{(study + 1) % 5}".encode()] if rng.random() < 0.3 else []))
        operation, level, names, items = Operation.MOVE, 1, uids, patient_items(rng.random() < 0.5)
    elif what < 0.8:
        operation, level, names = Operation.CORRECT, 0, patient()
        items = {tags.PatientName: rng.choice(_NAMES), tags.PatientSex: rng.choice((b"", b"M", b"O"))}
    elif what < 0.9:
        operation, level, names = Operation.CORRECT, 1, (study_uid,)
        items = {rng.choice((tags.StudyDescription, tags.PatientName)): rng.choice((b"", b"Corrected"))}
    else:
        operation, level, names = Operation.CORRECT, 2, (study_uid, f"{ROOT}.{study}.{rng.randrange(3)}".encode())
        items = {tags.Modality: rng.choice((b"", b"US")), tags.SeriesDescription: b"Corrected"}
    return correction(tail, operation, *names, level=level, items=items, segment_id=segment_id, stamp=stamp)


# meaning -------------------------------------------------------------------------------------------


def _facts(data: bytes) -> tuple[int, bytes, list[dict[int, bytes]], list[str], list[set[bytes]]]:
    owner, statements, length = keys.UID_HEAD.unpack_from(data)
    at = keys.UID_HEAD.size + length
    facts = Facts.decode(data, at)
    orders = [{order for order, _ in part.values()} for part in facts.parts]
    conflicts = [tags.keyword_of(tag) for tag in sorted(facts.conflicts)]
    values = [facts.values(part) for part in range(len(facts.parts))]
    return owner, data[keys.UID_HEAD.size : at], [{"statements": statements, **v} for v in values], conflicts, orders  # type: ignore[dict-item]


def meaning(index: Catalog) -> dict[str, Any]:
    """Everything in the index with UIDs instead of ids."""
    environment = index._environment
    schema, level_of = index.schema, index.schema.level_of
    facts_by_table: dict[str, Any] = {"marks": index.segment_marks()}
    stats = index.stats()
    facts_by_table["stats"] = {name: value for name, value in stats.items() if name != "index_bytes"}
    with environment.reading() as txn:

        def rows(name: str) -> list[tuple[bytes, bytes]]:
            return list(scan_prefix(txn, getattr(environment, name), b"")) if _any(name) else []

        def _any(name: str) -> bool:
            return bool(txn.stat(getattr(environment, name))["entries"])

        patients = {}
        for key, value in rows("patients"):
            at = keys.KEY_HEAD.size + keys.KEY_HEAD.unpack_from(value)[0]
            facts = Facts.decode(value, at)
            patients[key] = value[keys.KEY_HEAD.size : at]
            facts_by_table.setdefault("patients", {})[patients[key]] = (facts.parts, facts.conflicts)
        assert {key: number for number, key in patients.items()} == dict(rows("patient_keys"))
        studies = {}
        for key, value in rows("studies"):
            owner, uid, values, conflicts, orders = _facts(value)
            studies[key] = uid
            facts_by_table.setdefault("studies", {})[uid] = (patients[keys.ID.pack(owner)], values, conflicts, orders)
        assert sorted(key + owner for key, owner in rows("study_uids")) == sorted(
            keys.bounded(uid) + key for key, uid in studies.items()
        )
        facts_by_table["patient_studies"] = sorted(
            (patients[key[:4]], studies[key[4:]]) for key, _ in rows("patient_studies")
        )
        series = {}
        for key, value in rows("series"):
            owner, uid, values, conflicts, orders = _facts(value)
            series[key] = (studies[keys.ID.pack(owner)], uid)
            facts_by_table.setdefault("series", {})[series[key]] = (values, conflicts, orders)
        assert len(rows("series_uids")) == len(series)
        for key, value in rows("counts"):
            count, _, payload_bytes = keys.COUNTS.unpack_from(value)
            modality, class_ids = unpack_tail(value, keys.COUNTS.size)
            classes = sorted(read_name(txn, environment, class_id) for class_id in class_ids)
            facts_by_table.setdefault("counts", {})[series[key[4:]]] = (count, payload_bytes, modality, classes)
        facts_by_table["search"] = sorted(
            (key, (studies if level_of[int.from_bytes(key[:4], "big")] < Level.SERIES else series).get(owner))
            for key, owner in rows("search")
        )
        facts_by_table["access"] = sorted((key, studies[study_id]) for key, study_id in rows("access"))
        facts_by_table["first_senders"] = {
            series[key]: (value[:16], read_name(txn, environment, keys.U32.unpack(value[16:])[0]))
            for key, value in rows("first_senders")
        }
        facts_by_table["texts"] = sorted(
            (key[:4], studies[keys.ID.pack(keys.PAIR.unpack(key)[1] << 6 | entry[0] & 63)], entry[1:])
            for key, row in rows("texts")
            for entry in row.split(b"\xff")[1:]
        )
        for key, value in rows("study_statements"):
            facts_by_table.setdefault("study statements", {})[studies[key[:4]], key[4:]] = value
        for key, value in rows("series_statements"):
            facts_by_table.setdefault("series statements", {})[series[key[:4]], key[4:]] = value
        places = {}
        for key, value in rows("instances"):
            fields = keys.INSTANCE.unpack_from(value)
            names = [read_name(txn, environment, number) for number in fields[10:13]]
            set_ = read_name(txn, environment, fields[13])
            content = canonical(value[keys.INSTANCE.size :], set_, schema)
            uid = blob_items(content)[tags.SOPInstanceUID]
            places[key] = keys.bounded(uid)
            facts_by_table.setdefault("instances", {})[uid] = (series[key[:4]], fields[:10], names, fields[14], content)
        facts_by_table["current"] = sorted(uid for uid, where in rows("sop_uids") if where)
        assert {where: uid for uid, where in rows("sop_uids") if where} == places
        for sop_key, _ in rows("sop_uids"):
            for uid_record in read_history(txn, environment, sop_key):
                record = uid_record.entry(sop_key) if uid_record.meta else None
                blobs = record and [
                    canonical(part, record.character_set, schema)
                    for part in (record.patient, record.study, record.series, record.instance)
                ]
                rest = record and (
                    record.sop_class_uid,
                    record.transfer_syntax_uid,
                    record.calling_ae_title,
                    record.received_ns,
                    record.pixel_data_offset,
                )
                key = (sop_key, uid_record.key, uid_record.target_stamp)
                facts_by_table.setdefault("history", {})[key] = (
                    uid_record.state,
                    uid_record.kind,
                    uid_record.flags,
                    uid_record.put_stamp,
                    blobs,
                    rest,
                )
        for table in (
            "versions",
            "drops",
            "tombstones",
            "deletions",
            "holds",
            "quarantine",
            "corrections",
            "trash",
            "damage",
        ):
            facts_by_table[table] = rows(table)
    return facts_by_table


def record_of(item: Item) -> Record:
    """The record of the log with this item."""
    if isinstance(item, Entry):
        kind, flags, key = Kind.INSTANCE, item.flags, item.sop_instance_uid
    elif isinstance(item, Tombstone):
        kind, flags, key = Kind.TOMBSTONE, 0, item.uid
    elif isinstance(item, Hold):
        kind, flags, key = Kind.HOLD, 0, item.study_instance_uid
    elif isinstance(item, Correction):
        kind, flags, key = Kind.CORRECTION, 0, item.key
    elif isinstance(item, TrashRecord):
        kind, flags, key = Kind.TRASH, 0, item.uid
    else:
        kind, flags, key = Kind.QUARANTINED, 0, item.sop_instance_uid
    return Record(item.position, kind, flags, item.stamp, 0, 0, key, item.pack_meta())


def recount(index: Catalog, items: Iterable[Item]) -> dict[int, tuple[int, int, int]]:
    """Segment → live_count, live_bytes, dead_bytes, from the states of all items."""
    environment = index._environment
    counts: dict[int, tuple[int, int, int]] = {}
    with environment.reading() as txn:

        def place(key: bytes) -> tuple[int, int]:
            return keys.PLACE.unpack(key[-keys.PLACE.size :])

        def states(table: Any) -> dict[tuple[int, int], int]:
            return {place(key): value[0] for key, value in scan_prefix(txn, table, b"") if value}

        current = {keys.INSTANCE.unpack_from(value)[1:3] for _, value in scan_prefix(txn, environment.instances, b"")}
        version_places = {place(key) for key, _ in scan_prefix(txn, environment.versions, b"")}
        in_quarantine = states(environment.quarantine)
        holds = states(environment.holds)
        tombstones = states(environment.tombstones)
        corrections = states(environment.corrections)
        trash_records = {
            place(key): value[0] for key, value in scan_prefix(txn, environment.trash_table, keys.TRASH_RECORD)
        }
        trashed_places = {
            place(key)
            for key, value in scan_prefix(txn, environment.history, b"")
            if value[0] == State.TRASHED and value[1] == Kind.INSTANCE
        }
    for item in items:
        where = item.position[:2]
        if isinstance(item, Entry):
            live = where in current or where in version_places or where in trashed_places
        elif isinstance(item, Quarantined):
            live = in_quarantine[where] == State.QUARANTINED
        elif isinstance(item, Correction):
            live = bool(corrections[where])
        elif isinstance(item, TrashRecord):
            live = bool(trash_records[where])
        else:
            live = bool((holds if isinstance(item, Hold) else tombstones)[where])
        count, live_bytes, dead_bytes = counts.get(where[0], (0, 0, 0))
        record_bytes = item.position.record_bytes
        counts[where[0]] = (
            count + (live and not isinstance(item, Tombstone | TrashRecord)),
            live_bytes + live * record_bytes,
            dead_bytes + (not live) * record_bytes,
        )
    return counts


def booked(index: Catalog) -> dict[int, tuple[int, int, int]]:
    """The same from the index."""
    marks = index.segment_marks().items()
    return {segment_id: (mark.live_count, mark.live_bytes, mark.dead_bytes) for segment_id, mark in marks}
