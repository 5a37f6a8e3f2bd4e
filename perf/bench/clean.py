"""Finds what benches have stored, and deletes it where the server can.

A study is ours if its UID begins with the root that only these programs use; Patient ID and issuer show it to people.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from perf import corpus, population, retrieval, wire
from perf.association import Association, Target
from perf.bench import statuses
from perf.bench.http import Connection, WebTarget
from perf.harness import PerfError

PAGE = 500
_VRS = {0x00080052: b"CS", 0x00100020: b"LO", 0x0020000D: b"UI"}
_STUDY_UID = "0020000D"


def is_ours(study_uid: str) -> bool:
    return study_uid.startswith(corpus.UID_ROOT.decode() + ".")


def found_by_dimse(target: Target) -> list[str]:
    """The UIDs of our studies. Raises PerfError."""
    association = Association(target, [wire.Context(1, wire.STUDY_ROOT_FIND)])
    try:
        syntax = association.accepted.transfer_syntaxes[1]
        keys = {0x00080052: b"STUDY", 0x00100020: population.PATIENT_ID_PREFIX + b"*", 0x0020000D: b""}
        identifier = wire.identifier(keys, syntax, _VRS)
        association.send_message(1, wire.find_rq(wire.STUDY_ROOT_FIND, 1), identifier)
        uids: list[str] = []
        while (message := association.read_message()) is not None:
            data_set = association.read_data_set() if message.has_data_set else b""
            if message.status not in retrieval.PENDING:
                if message.status:
                    raise PerfError(statuses.query_text("C-FIND", message.status))
                return sorted(filter(is_ours, uids))
            uids.append(_value(data_set, 0x0020000D))
        raise PerfError("the server released the association in place of an answer")
    finally:
        association.release()


def _value(data_set: bytes, tag: int) -> str:
    """One value of a small identifier without sequences: Implicit VR, or Explicit VR where letters name one."""
    at = 0
    while at + 8 <= len(data_set):
        group, element = data_set[at : at + 2], data_set[at + 2 : at + 4]
        is_explicit = data_set[at + 4 : at + 6].isalpha() and data_set[at + 4 : at + 6].isupper()
        length = int.from_bytes(data_set[at + 6 : at + 8] if is_explicit else data_set[at + 4 : at + 8], "little")
        if int.from_bytes(group, "little") << 16 | int.from_bytes(element, "little") == tag:
            return data_set[at + 8 : at + 8 + length].decode("ascii", "replace").strip(" \0")
        at += 8 + length
    return ""


def found_by_web(target: WebTarget) -> list[str]:
    """The UIDs of our studies. Raises PerfError."""
    uids: set[str] = set()
    connection = Connection(target)
    try:
        while True:
            pattern = f"PatientID={population.PATIENT_ID_PREFIX.decode()}*"
            path = f"{target.root}/studies?{pattern}&limit={PAGE}&offset={len(uids)}"
            answer = connection.get(path, "application/dicom+json", keep_body=True)
            if answer.status not in (200, 204):
                raise PerfError(statuses.http_text("QIDO-RS", answer.status))
            page = json.loads(answer.body) if answer.body else []
            more = {str(study[_STUDY_UID]["Value"][0]) for study in page} - uids
            if not more:
                return sorted(filter(is_ours, uids))
            uids |= more
    except (ValueError, KeyError, TypeError, IndexError):
        raise PerfError("the answer to the search is not DICOM JSON") from None
    finally:
        connection.close()


def delete(target: WebTarget, uids: list[str], done: Callable[[int], None]) -> list[str]:
    """Deletes studies: by DELETE on the study, or by Orthanc's own API. Returns those that are left, with the reason.

    Raises PerfError if the server can do neither.
    """
    connection, left = Connection(target), []
    try:
        for count, uid in enumerate(uids, 1):
            path = f"{target.root}/studies/{uid}?reason=load%20test"
            status = connection.get(path, "*/*", keep_body=True, method="DELETE").status
            if status in (400, 404, 405, 501):
                status = _delete_from_orthanc(connection, uid) or status
            if status not in (200, 202, 204, 410):
                left.append(f"{uid}: {statuses.http_text('DELETE', status)}")
            done(count)
        return left
    finally:
        connection.close()


def _delete_from_orthanc(connection: Connection, uid: str) -> int:
    """The status of the deletion; 0: this is not Orthanc, or it has no such study."""
    head = f"POST /tools/lookup HTTP/1.1\r\nHost: {connection.target.authority}\r\n{connection.target.header_lines}"
    answer = connection.send(f"{head}Content-Length: {len(uid)}\r\n\r\n{uid}".encode(), keep_body=True)
    try:
        found = json.loads(answer.body)
        paths = [str(each["Path"]) for each in found if each["Type"] == "Study"]
    except (ValueError, KeyError, TypeError):
        return 0
    return connection.get(paths[0], "*/*", keep_body=True, method="DELETE").status if paths else 0
