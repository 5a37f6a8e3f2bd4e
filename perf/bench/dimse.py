"""Requests by DIMSE: C-STORE, C-FIND, C-MOVE to the sink, C-GET."""

from __future__ import annotations

import random
from collections.abc import Iterable

from perf import corpus, load_get, retrieval, wire
from perf.association import Association, Target
from perf.bench import statuses
from perf.bench.recorder import Outcome
from perf.bench.studies import StoredStudy, Studies, facts_of
from perf.harness import PerfError
from perf.sink import Sink

CONTEXT_ID = 1
_FIND_VRS = {0x00080050: b"SH", 0x00080052: b"CS", 0x00100010: b"PN", 0x00100020: b"LO", 0x0020000D: b"UI"}
_COMPLETED, _FAILED = 0x1021, 0x1022


class Store:
    """One modality: study after study on one association."""

    def __init__(self, target: Target, studies: Studies, template: str, series_instance_count: int) -> None:
        self._template = corpus.template(template)
        self._studies, self._series_instance_count = studies, series_instance_count
        context = wire.Context(CONTEXT_ID, self._template.sop_class_uid, (corpus.EXPLICIT_LITTLE_ENDIAN,))
        self._association = Association(target, [context])
        self._message = wire.StoreMessage(self._template, CONTEXT_ID, self._association.pdu_length_max)
        self._pdus = self._message.pdus() if target.nagle else [memoryview(self._message.buffer)]
        self._number, self._place, self._is_whole = 0, series_instance_count, False

    def request(self) -> Outcome:
        if self._place == self._series_instance_count:
            self._begin_study()
        self._place += 1
        self._message.set_instance(self._place, self._place & 0x7FFF)
        self._association.send_pdus(*self._pdus)
        status = self._association.read_status()
        if not statuses.is_stored(status):
            self._is_whole = False
            return Outcome(statuses.store_text(status))
        if self._place == self._series_instance_count and self._is_whole:
            self._studies.add(StoredStudy(self._number, self._template.name, self._place))
        return Outcome("", 1, self._message.data_set_bytes)

    def _begin_study(self) -> None:
        self._number, self._place, self._is_whole = self._studies.new_number(), 0, True
        self._message.set_study(facts_of(self._number, self._series_instance_count))
        self._message.set_series(corpus.series_uid(self._number, 1), 1)

    def close(self) -> None:
        self._association.release()


class Find:
    """Queries for one stored study each: by Patient ID, Accession Number and Study Instance UID in turn."""

    def __init__(self, target: Target, studies: Studies, seed: str) -> None:
        self._association = Association(target, [wire.Context(CONTEXT_ID, wire.STUDY_ROOT_FIND)])
        self._syntax = self._association.accepted.transfer_syntaxes[CONTEXT_ID]
        self._studies, self._rng, self._count = studies, random.Random(seed), 0

    def request(self) -> Outcome:
        facts = self._studies.choose(self._rng).facts
        asked = ({0x00100020: facts.patient_id}, {0x00080050: facts.accession_number}, {0x0020000D: facts.study_uid})
        keys = dict.fromkeys(_FIND_VRS, b"") | {0x00080052: b"STUDY"} | asked[self._count % len(asked)]
        self._count += 1
        identifier = wire.identifier(keys, self._syntax, _FIND_VRS)
        self._association.send_message(CONTEXT_ID, wire.find_rq(wire.STUDY_ROOT_FIND, 1), identifier)
        matches, _, status = self._association.read_responses(retrieval.PENDING)
        if status:
            return Outcome(statuses.query_text("C-FIND", status))
        return Outcome("" if matches == 1 else f"C-FIND: {matches} matches in place of 1")

    def close(self) -> None:
        self._association.release()


class Move:
    """C-MOVEs of whole studies to the sink of this process."""

    def __init__(self, target: Target, studies: Studies, sink: Sink, seed: str) -> None:
        self._association = Association(target, [wire.Context(CONTEXT_ID, wire.STUDY_ROOT_MOVE)])
        self._syntax = self._association.accepted.transfer_syntaxes[CONTEXT_ID]
        self._studies, self._sink, self._rng = studies, sink, random.Random(seed)

    def request(self) -> Outcome:
        study = self._studies.choose(self._rng)
        identifier = retrieval.study_identifier(study.facts.study_uid, self._syntax)
        self._association.send_message(CONTEXT_ID, wire.move_rq(1, self._sink.aet), identifier)
        while True:
            message = self._association.read_message()
            if message is None:
                raise PerfError("the server released the association in place of an answer")
            if message.has_data_set:
                self._association.discard_data_set()
            if message.status not in retrieval.PENDING:
                break
        if message.status:
            return Outcome(statuses.query_text("C-MOVE", message.status))
        count = wire.number(message.command, _COMPLETED, 0)
        return _retrieved("C-MOVE", study, count, count * study.data_set_bytes)

    def close(self) -> None:
        self._association.release()


class Get:
    """C-GETs of whole studies."""

    def __init__(self, target: Target, studies: Studies, templates: Iterable[str], seed: str) -> None:
        sop_classes = dict.fromkeys(corpus.template(name).sop_class_uid for name in templates)
        contexts = [wire.Context(CONTEXT_ID, wire.STUDY_ROOT_GET)] + [
            wire.Context(2 * place + 3, uid, (corpus.EXPLICIT_LITTLE_ENDIAN,), scp_role=True)
            for place, uid in enumerate(sop_classes)
        ]
        self._association = Association(target, contexts)
        self._syntax = self._association.accepted.transfer_syntaxes.get(CONTEXT_ID)
        if self._syntax is None:
            self._association.release()
            raise PerfError(f"{target.called_aet} does not support C-GET: use C-MOVE with --sink")
        self._studies, self._rng = studies, random.Random(seed)

    def request(self) -> Outcome:
        study = self._studies.choose(self._rng)
        identifier = retrieval.study_identifier(study.facts.study_uid, self._syntax or b"")
        self._association.send_message(CONTEXT_ID, wire.get_rq(1), identifier)
        received = load_get.receive_study(self._association)
        if received.status:
            return Outcome(statuses.query_text("C-GET", received.status))
        return _retrieved("C-GET", study, received.instance_count, received.data_set_bytes)

    def close(self) -> None:
        self._association.release()


def _retrieved(service: str, study: StoredStudy, count: int, byte_count: int) -> Outcome:
    missing = study.instance_count - count
    failure = f"{service}: {missing} of {study.instance_count} instances are missing" if missing else ""
    return Outcome(failure, count, byte_count)
