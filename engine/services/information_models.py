"""The information models of Query/Retrieve, and the SOP classes below them (PS3.4 C.3, C.6).

1.2.840.10008.5.1.4.1.2 . model . operation     model: 1 Patient Root, 2 Study Root, 3 Patient/Study Only
                                                operation: 1 FIND, 2 MOVE, 3 GET
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from engine.dicom.uids import RepositoryQuery

PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY = 1, 2, 3
FIND, MOVE, GET = 1, 2, 3

_MODELS: Final = (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)


def sop_class(model: int, operation: int) -> str:
    """The SOP class of FIND, MOVE or GET in an information model."""
    return f"1.2.840.10008.5.1.4.1.2.{model}.{operation}"


def sop_classes(operation: int) -> tuple[str, ...]:
    """The SOP classes of FIND, MOVE or GET."""
    return tuple(sop_class(model, operation) for model in _MODELS)


_MODEL_OF: Final[Mapping[str, int]] = MappingProxyType(
    {uid: model for operation in (FIND, MOVE, GET) for uid, model in zip(sop_classes(operation), _MODELS, strict=True)}
    | {RepositoryQuery: STUDY_ROOT}  # PS3.4 C.6.4
)


def information_model(sop_class_uid: str) -> int:
    """PATIENT_ROOT, STUDY_ROOT or PATIENT_STUDY_ONLY of a query/retrieve SOP class. Raises KeyError for others."""
    return _MODEL_OF[sop_class_uid]
