"""Makes `Instance` values from rows of `instances`, or from records of the log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.index.apply.history import read_kept_versions
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, present
from engine.index.format import keys
from engine.index.format.entry import Entry
from engine.index.format.rows import read_name
from engine.index.format.types import Instance
from engine.storage.record import Position


def read_instance(txn: ReadTxn, environment: Environment, instance_key: bytes, row: bytes) -> Instance:
    """The instance of a row of `instances`."""
    owner, series_uid = _owner_and_uid(present(txn.get(instance_key[:4], db=environment.series)))
    _, study_uid = _owner_and_uid(present(txn.get(keys.ID.pack(owner), db=environment.studies)))
    items = blob_items(row[keys.INSTANCE.size :])
    name = partial(read_name, txn, environment)
    return instance_of_row(row, items, _text(study_uid), _text(series_uid), name, {})


def read_versions(environment: Environment, sop_instance_uid: bytes) -> list[Instance]:
    """The current instance of a UID and its kept versions, the oldest first."""
    sop_key = keys.bounded(sop_instance_uid)
    with environment.reading() as txn:
        versions = []
        where = txn.get(sop_key, db=environment.sop_uids)
        if where:
            versions.append(read_instance(txn, environment, where, present(txn.get(where, db=environment.instances))))
        versions += [
            instance_of(record.entry(sop_instance_uid)) for record in read_kept_versions(txn, environment, sop_key)
        ]
    return sorted(versions, key=lambda item: (item.stamp, item.position))


def instance_of_row(
    row: bytes,
    items: dict[int, bytes],
    study_uid: str,
    series_uid: str,
    name: Callable[[int], bytes],
    shared: dict[tuple[int, int, int, int], tuple[str, str, str, bytes]],
) -> Instance:
    """The instance of a row of `instances`. `items`: of its blob. `shared`: a cache of the texts of name ids, which the
    instances of a series share."""
    (stamp, segment_id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length,
     key_length, _, class_id, syntax_id, title_id, set_id, _) = keys.INSTANCE.unpack_from(row)  # fmt: skip
    ids = class_id, syntax_id, title_id, set_id
    names = shared.get(ids)
    if names is None:
        names = shared[ids] = _text(name(class_id)), _text(name(syntax_id)), _text(name(title_id)), name(set_id)
    sop_class_uid, transfer_syntax_uid, calling_ae_title, character_set = names
    return Instance(
        Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc),
        stamp,
        sop_class_uid,
        items.get(tags.SOPInstanceUID, b"").decode("utf-8", "replace"),
        transfer_syntax_uid,
        study_uid,
        series_uid,
        pixel_data_offset,
        calling_ae_title,
        received_ns,
        row[keys.INSTANCE.size :],
        character_set,
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _owner_and_uid(row: bytes) -> tuple[int, bytes]:
    owner, _, uid_length = keys.UID_HEAD.unpack_from(row)
    return owner, row[keys.UID_HEAD.size : keys.UID_HEAD.size + uid_length]


def instance_of(entry: Entry) -> Instance:
    """The instance of a record of the log."""
    study = blob_items(entry.study).get(tags.StudyInstanceUID, b"")
    series = blob_items(entry.series).get(tags.SeriesInstanceUID, b"")
    own = blob_items(entry.instance).get(tags.SOPInstanceUID, b"")
    return Instance(
        entry.position,
        entry.stamp,
        entry.sop_class_uid.decode("utf-8", "replace"),
        (entry.sop_instance_uid or own).decode("utf-8", "replace"),
        entry.transfer_syntax_uid.decode("utf-8", "replace"),
        study.decode("utf-8", "replace"),
        series.decode("utf-8", "replace"),
        entry.pixel_data_offset,
        entry.calling_ae_title.decode("utf-8", "replace"),
        entry.received_ns,
        entry.instance,
        entry.character_set,
    )
