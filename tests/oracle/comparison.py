"""An answer compared with what the judge expects of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.oracle.key_matching import YES, Values
from tests.oracle.matcher import CLASSES, MODALITIES, PASSED_OVER, PATIENT, STUDY, UNIQUE, Found, Search, text_of


def bare(value: Any) -> Any:
    """Without what is empty, at every depth, and what the service adds; values that are computed have no order."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        tag: sorted(one) if tag in (MODALITIES, CLASSES) else bare(one)
        for tag, one in value.items()
        if one and tag not in PASSED_OVER
    }


def disagreement(search: Search, answers: Sequence[Values]) -> str:
    """What is wrong with an answer, entity by entity in whatever order; nothing if nothing is."""
    # Of patients without an ID one looks like the other: what must be there is taken before what may be.
    left = sorted(search.answer, key=lambda one: -one.verdict)
    for answer in answers:
        taken = next((one for one in left if bare(one.attributes) == bare(answer)), None)
        if taken is None:
            return _difference(search.answer, answer)
        left.remove(taken)
    missing = [one for one in left if one.verdict == YES]
    return f"{missing[0].unique} is missing, of {len(search.answer)} expected" if missing else ""


def _difference(expected: Sequence[Found], answer: Values) -> str:
    patient_id = text_of(answer, UNIQUE[PATIENT])
    uids = [text_of(answer, tag) for tag in UNIQUE[STUDY:] if tag in answer]
    for one in expected:
        if list(one.unique) == uids or (not uids and one.unique[0] == patient_id):
            wanted, got = bare(one.attributes), bare(answer)
            tags = sorted(tag for tag in wanted.keys() | got.keys() if wanted.get(tag) != got.get(tag))
            differing = {f"{tag:08X}": (got.get(tag), wanted.get(tag)) for tag in tags}
            return f"of {one.unique} (got, expected) {differing}"
    return f"{uids or patient_id} is in the answer"
