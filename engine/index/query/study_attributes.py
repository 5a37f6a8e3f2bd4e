"""The attributes of one study and its patient, as queries return them, read without a query."""

from __future__ import annotations

from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.statements import fact_values


def read_study_attributes(environment: Environment, study_instance_uid: bytes) -> dict[int, bytes] | None:
    """Tag → UTF-8, corrections included; None: the study is not stored. Raises IndexError_."""
    with environment.reading() as txn:
        study_id = txn.get(keys.bounded(study_instance_uid), db=environment.study_uids)
        row = txn.get(study_id, db=environment.studies) if study_id is not None else None
        if row is None:
            return None
        _, _, uid_length = keys.UID_HEAD.unpack_from(row)
        of_patient, of_study = fact_values(row, keys.UID_HEAD.size + uid_length)[0]
        return {**of_patient, **of_study}
