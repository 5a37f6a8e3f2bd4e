"""Which messages belong on a presentation context: its abstract syntax says (PS3.7 9.1 and 10.1, PS3.4).

A request on another one, or about another SOP class than that of its context, is answered 0122H, SOP class not
supported; a response has nobody to tell and ends the association. N-ACTION is left to its service, which has statuses
of its own.

    Verification                 C-ECHO
    Patient Root, Study Root,    C-FIND, C-MOVE or C-GET, as the class is; C-CANCEL
    Patient/Study Only
    Repository Query             C-FIND, C-CANCEL
    Storage Commitment           N-EVENT-REPORT-RSP
    everything else              storage: C-STORE-RQ, C-STORE-RSP
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from engine.dicom import uids
from engine.dimse.messages import (
    CCancelRQ,
    CEchoRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    CStoreRQ,
    CStoreRSP,
    Message,
    NActionRQ,
    NEventReportRSP,
)
from engine.ul.negotiation import VERIFICATION, AcceptedContext

PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY = 1, 2, 3
"""The information models, by the arc that tells their SOP classes apart (PS3.4 C.5)."""

FIND, MOVE, GET = 1, 2, 3

QUERY_RETRIEVE: Final = "1.2.840.10008.5.1.4.1.2"
"""Below it: information model, operation."""

_QUERIES: Final = {FIND: CFindRQ, MOVE: CMoveRQ, GET: CGetRQ}

_MODELS: Final[Mapping[str, int]] = MappingProxyType(
    {
        f"{QUERY_RETRIEVE}.{model}.{operation}": model
        for model in (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
        for operation in _QUERIES
    }
    | {uids.RepositoryQuery: STUDY_ROOT}  # PS3.4 C.6.4
)

_SERVED: Final[Mapping[str, frozenset[type]]] = MappingProxyType(
    {
        VERIFICATION: frozenset({CEchoRQ}),
        uids.RepositoryQuery: frozenset({CFindRQ, CCancelRQ}),
        uids.StorageCommitmentPushModel: frozenset({NEventReportRSP}),
    }
    | {
        f"{QUERY_RETRIEVE}.{model}.{operation}": frozenset({request, CCancelRQ})
        for model in (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
        for operation, request in _QUERIES.items()
    }
)

_STORAGE: Final = frozenset({CStoreRQ, CStoreRSP})


def information_model(sop_class_uid: str) -> int:
    """PATIENT_ROOT, STUDY_ROOT or PATIENT_STUDY_ONLY of a query/retrieve SOP class that we serve; KeyError: none."""
    return _MODELS[sop_class_uid]


def objection(message: Message, context: AcceptedContext) -> str:
    """Why a message does not belong on its context; "" when it does."""
    if isinstance(message, NActionRQ):
        return ""
    if type(message) not in _SERVED.get(context.abstract_syntax, _STORAGE):
        return f"{type(message).__name__} is not for {uids.name_of(context.abstract_syntax)}"
    if getattr(message, "affected_sop_class_uid", context.abstract_syntax) == context.abstract_syntax:
        return ""
    if isinstance(message, CStoreRSP | NEventReportRSP):
        return ""  # a repetition that many leave out or get wrong
    return "another SOP class than that of its presentation context"
