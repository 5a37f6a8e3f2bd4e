"""Requests by DICOMweb: STOW-RS, QIDO-RS, WADO-RS of whole studies and of single frames."""

from __future__ import annotations

import json
import random

from perf import corpus
from perf.bench import statuses
from perf.bench.http import Connection, WebTarget
from perf.bench.recorder import Outcome
from perf.bench.studies import StoredStudy, Studies, facts_of
from perf.stow import StowMessage

_JSON = "application/dicom+json"
_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
_FILES = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def study_path(target: WebTarget, study: StoredStudy) -> str:
    return f"{target.root}/studies/{study.facts.study_uid.decode()}"


class Store:
    """One sender: study after study, one instance a request."""

    def __init__(self, target: WebTarget, studies: Studies, template: str, series_instance_count: int) -> None:
        self._template = corpus.template(template)
        self._studies, self._series_instance_count = studies, series_instance_count
        self._message = StowMessage(target.authority, target.root, self._template, headers=target.header_lines)
        self._connection = Connection(target)
        self._number, self._place, self._is_whole = 0, series_instance_count, False

    def request(self) -> Outcome:
        if self._place == self._series_instance_count:
            self._number, self._place, self._is_whole = self._studies.new_number(), 0, True
            self._message.set_study(facts_of(self._number, self._series_instance_count))
        self._place += 1
        self._message.set_instance(self._place)
        answer = self._connection.send(self._message.buffer, keep_body=True)
        if answer.status != 200 or corpus.instance_uid(self._number, 1, self._place) not in answer.body:
            self._is_whole = False
            why = "200, but the answer does not name the instance as stored"
            return Outcome(f"STOW-RS {why}" if answer.status == 200 else statuses.http_text("STOW-RS", answer.status))
        if self._place == self._series_instance_count and self._is_whole:
            self._studies.add(StoredStudy(self._number, self._template.name, self._place))
        return Outcome("", 1, len(self._template.data_set))

    def close(self) -> None:
        self._connection.close()


class Find:
    """Searches for one stored study each: by Patient ID, Accession Number and Study Instance UID in turn."""

    def __init__(self, target: WebTarget, studies: Studies, seed: str) -> None:
        self._connection = Connection(target)
        self._target, self._studies, self._rng, self._count = target, studies, random.Random(seed), 0

    def request(self) -> Outcome:
        facts = self._studies.choose(self._rng).facts
        asked = (
            f"PatientID={facts.patient_id.decode()}",
            f"AccessionNumber={facts.accession_number.decode()}",
            f"StudyInstanceUID={facts.study_uid.decode()}",
        )
        path = f"{self._target.root}/studies?{asked[self._count % len(asked)]}"
        self._count += 1
        answer = self._connection.get(path, _JSON, keep_body=True)
        if answer.status != 200:
            return Outcome(statuses.http_text("QIDO-RS", answer.status))
        try:
            matches = len(json.loads(answer.body))
        except (ValueError, TypeError):
            return Outcome("QIDO-RS: the answer is not JSON")
        return Outcome("" if matches == 1 else f"QIDO-RS: {matches} matches in place of 1", byte_count=len(answer.body))

    def close(self) -> None:
        self._connection.close()


class Retrieve:
    """Whole studies."""

    def __init__(self, target: WebTarget, studies: Studies, seed: str) -> None:
        self._connection = Connection(target)
        self._target, self._studies, self._rng = target, studies, random.Random(seed)

    def request(self) -> Outcome:
        study = self._studies.choose(self._rng)
        answer = self._connection.get(study_path(self._target, study), _FILES, keep_body=False)
        if answer.status != 200:
            return Outcome(statuses.http_text("WADO-RS", answer.status))
        if answer.byte_count < study.instance_count * study.data_set_bytes:
            return Outcome(f"WADO-RS: {answer.byte_count} bytes are too few for the study")
        return Outcome("", study.instance_count, answer.byte_count)

    def close(self) -> None:
        self._connection.close()


class Frames:
    """Single frames, as a viewer that scrolls through a series."""

    def __init__(self, target: WebTarget, studies: Studies, seed: str) -> None:
        self._connection = Connection(target)
        self._target, self._studies, self._rng = target, studies, random.Random(seed)
        self._study: StoredStudy | None = None
        self._place = 0

    def request(self) -> Outcome:
        if self._study is None or self._place == self._study.instance_count:
            self._study, self._place = self._studies.choose(self._rng), 0
        self._place += 1
        study = self._study
        series, instance = corpus.series_uid(study.number, 1), corpus.instance_uid(study.number, 1, self._place)
        path = f"{study_path(self._target, study)}/series/{series.decode()}/instances/{instance.decode()}/frames/1"
        answer = self._connection.get(path, _FRAMES, keep_body=False)
        if answer.status != 200:
            return Outcome(statuses.http_text("WADO-RS frame", answer.status))
        template = corpus.template(study.template)
        if answer.byte_count < len(template.data_set) - template.pixel_data_offset - 12:
            return Outcome(f"WADO-RS frame: {answer.byte_count} bytes are too few")
        return Outcome("", 0, answer.byte_count)

    def close(self) -> None:
        self._connection.close()
