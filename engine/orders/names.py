"""The keys of the registry's database, and the rows of `names` and `days` that follow from other rows.

Keys of `names`, each followed by NUL and the id (8 bytes):

    i VALUE       patient with that identifier           o ID       orders of a patient (8 bytes)
    n NAME        patient with that group of a name, as queries compare names: the name is folded
    p f a VALUE   order with that placer number,         s ID       steps of an order (8 bytes)
                  filler number, accession number        u UID      order with that Study Instance UID
    r VALUE       order with that requested procedure    t VALUE    step with that scheduled step id

    m ID          patients that were merged into a patient (8 bytes)

    x VALUE      merge of that identifier into another one

    l ID NUL UID  studies that are linked to an order (8 bytes); ends with the Study Instance UID instead of an id
"""

from __future__ import annotations

from typing import Any, Final

from engine.dicom import values

KEY_BYTES_MAX: Final = 400
"""Of a value within a key; LMDB allows 511 bytes for the whole."""


def id_key(number: int) -> bytes:
    """The key of an id."""
    return number.to_bytes(8, "big")


def name_key(letter: str, value: str) -> bytes:
    """The beginning of a key of `names`."""
    return letter.encode() + value.encode()[:KEY_BYTES_MAX]


def day_key(date: str, ae_title: str) -> bytes:
    """The beginning of a key of `days`: all steps of an AE title on a day."""
    return _fixed(date, 8) + _fixed(ae_title, 16)


def _fixed(text: str, length: int) -> bytes:
    return text.encode("utf-8", "replace")[:length].ljust(length, b"\0")


def derived(table: str, key: bytes, row: Any) -> set[tuple[str, bytes, bytes]]:
    """The rows of `names` and `days` that follow from a row."""
    if table == "patients":
        found = {_name(name_key("i", each.value), key) for each in row.identifiers}
        if row.merged_into:
            return found | {_name(b"m" + id_key(row.merged_into), key)}
        name = row.attributes.get("PatientName")
        groups = values.fold_person_name(name).split("=") if isinstance(name, str) else ()
        return found | {_name(name_key("n", group), key) for group in groups if group}
    if table == "orders":
        numbers = (("p", row.placer), ("f", row.filler), ("a", row.accession))
        found = {_name(name_key(letter, each.value), key) for letter, each in numbers if each is not None}
        for procedure in row.procedures:
            found.add(_name(name_key("u", procedure.study_instance_uid), key))
            found.add(_name(name_key("r", procedure.requested_procedure_id), key))
        return found | {_name(b"o" + id_key(row.patient), key)}
    if table == "links" and not row.is_undone:
        return {("names", b"l" + id_key(row.order) + b"\0" + key[:-9], b"")}
    if table == "merges":
        return {_name(name_key("x", row.prior.value), key)}
    if table == "steps":
        state = str(row.state).encode()
        found = {("days", day_key(row.start_date, ae) + key, state) for ae in row.aes or ("",) if not row.is_unbooked}
        return found | {
            _name(b"s" + id_key(row.order), key),
            _name(name_key("t", row.scheduled_procedure_step_id), key),
        }
    return set()


def _name(start: bytes, key: bytes) -> tuple[str, bytes, bytes]:
    return "names", start + b"\0" + key, b""
