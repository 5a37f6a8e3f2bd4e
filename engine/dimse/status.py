"""Status codes by service, their categories, and the one table from errors to statuses.

Only this module knows both: inner layers raise errors, peers get numbers. The caller puts the error's message into the
Error Comment.

General codes: PS3.7 Annex C. Storage: PS3.4 Table B.2-1. Query/Retrieve: PS3.4 Tables C.4-1 to C.4-3.
Only the first digits of A7xx, A9xx and Cxxx are the standard's; what we send ourselves ends in 00.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final

from engine.errors import (
    ArchiveReadOnly,
    AssociationFailed,
    AuditUnavailable,
    CatalogBehind,
    ClusterError,
    DataSetError,
    Fenced,
    IndexError_,
    InstanceRefused,
    LeaseLost,
    MemoryShort,
    MessageError,
    OrdersError,
    QueryError,
    Refusal,
    StorageError,
    StorageFull,
    StoreUnreachable,
    TranscodeError,
)


class GeneralStatus(IntEnum):
    """PS3.7 Annex C: any service."""

    SUCCESS = 0x0000
    NO_SUCH_ATTRIBUTE = 0x0105
    INVALID_ATTRIBUTE_VALUE = 0x0106
    ATTRIBUTE_LIST_ERROR = 0x0107
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    NO_SUCH_ARGUMENT = 0x0114
    INVALID_ARGUMENT_VALUE = 0x0115
    ATTRIBUTE_VALUE_OUT_OF_RANGE = 0x0116
    INVALID_SOP_INSTANCE = 0x0117
    NO_SUCH_SOP_CLASS = 0x0118
    CLASS_INSTANCE_CONFLICT = 0x0119
    MISSING_ATTRIBUTE = 0x0120
    MISSING_ATTRIBUTE_VALUE = 0x0121
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212
    RESOURCE_LIMITATION = 0x0213
    CANCEL = 0xFE00
    PENDING = 0xFF00


class StoreStatus(IntEnum):
    """C-STORE, PS3.4 B.2.3."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    COERCION_OF_DATA_ELEMENTS = 0xB000  # warning
    ELEMENTS_DISCARDED = 0xB006  # warning
    DATA_SET_DOES_NOT_MATCH_WARNING = 0xB007  # warning


class FindStatus(IntEnum):
    """C-FIND, PS3.4 C.4.1.1.4."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    INVALID_PRIOR_RECORD_KEY = 0xA710  # Repository Query
    IDENTIFIER_DOES_NOT_MATCH = 0xA900
    RESPONSE_LIMIT_REACHED = 0xB001  # Repository Query; warning: a further request may ask for more matches
    UNABLE_TO_PROCESS = 0xC000
    CANCEL = 0xFE00
    PENDING = 0xFF00
    PENDING_OPTIONAL_KEYS_UNSUPPORTED = 0xFF01


class RetrieveStatus(IntEnum):
    """C-MOVE and C-GET, PS3.4 C.4.2.1.5 and C.4.3.1.4."""

    SUCCESS = 0x0000
    CANNOT_COUNT_MATCHES = 0xA701
    CANNOT_PERFORM_SUBOPERATIONS = 0xA702
    MOVE_DESTINATION_UNKNOWN = 0xA801
    IDENTIFIER_DOES_NOT_MATCH = 0xA900
    FAILURES_OR_WARNINGS = 0xB000  # warning: sub-operations are complete, some with failures or warnings
    UNABLE_TO_PROCESS = 0xC000
    CANCEL = 0xFE00
    PENDING = 0xFF00


class WorkitemStatus(IntEnum):
    """Unified procedure steps (UPS): N-CREATE, N-SET, N-GET and N-ACTION, PS3.4 CC.2."""

    SUCCESS = 0x0000
    ATTRIBUTES_NOT_SUPPORTED = 0x0001  # warning: what only an N-CREATE may set stayed as it was
    ALREADY_CANCELED = 0xB304  # warning
    ALREADY_COMPLETED = 0xB306  # warning
    FINAL = 0xC300
    WRONG_TRANSACTION_UID = 0xC301
    ALREADY_IN_PROGRESS = 0xC302
    SCHEDULED_BY_CREATION_ONLY = 0xC303
    FINAL_STATE_NOT_MET = 0xC304
    NO_SUCH_WORKITEM = 0xC307
    RECEIVER_UNKNOWN = 0xC308
    NOT_SCHEDULED = 0xC309
    NOT_IN_PROGRESS = 0xC310
    COMPLETED = 0xC311
    PERFORMER_NOT_REACHED = 0xC312
    ACTION_NOT_APPROPRIATE = 0xC314


class Service(Enum):
    """The service whose table a status comes from."""

    STORE = "C-STORE"
    FIND = "C-FIND"
    MOVE = "C-MOVE"
    GET = "C-GET"
    OTHER = "other"


class Category(Enum):
    """The type of a status (PS3.7 Annex C)."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"
    CANCEL = "cancel"
    PENDING = "pending"


_WARNINGS: Final = frozenset(
    {0x0001, GeneralStatus.ATTRIBUTE_LIST_ERROR, GeneralStatus.ATTRIBUTE_VALUE_OUT_OF_RANGE},
)


def category(status: int) -> Category:
    """The category of a received status of any service."""
    if status == GeneralStatus.SUCCESS:
        return Category.SUCCESS
    if status in (0xFF00, 0xFF01):
        return Category.PENDING
    if status == GeneralStatus.CANCEL:
        return Category.CANCEL
    if status in _WARNINGS or status & 0xF000 == 0xB000:
        return Category.WARNING
    return Category.FAILURE


_RETRIEVE: Final[Mapping[type[Exception], int]] = {
    QueryError: RetrieveStatus.IDENTIFIER_DOES_NOT_MATCH,
    DataSetError: RetrieveStatus.UNABLE_TO_PROCESS,
    IndexError_: RetrieveStatus.CANNOT_COUNT_MATCHES,
    CatalogBehind: RetrieveStatus.CANNOT_COUNT_MATCHES,
    ClusterError: RetrieveStatus.CANNOT_COUNT_MATCHES,
    LeaseLost: RetrieveStatus.CANNOT_COUNT_MATCHES,
    StorageError: RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS,
    TranscodeError: RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS,
    AssociationFailed: RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS,
    MemoryShort: RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS,
    AuditUnavailable: RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS,
    MemoryError: RetrieveStatus.CANNOT_COUNT_MATCHES,
}

ERROR_STATUS: Final[Mapping[Service, Mapping[type[Exception], int]]] = MappingProxyType(
    {
        Service.STORE: {
            ArchiveReadOnly: GeneralStatus.NOT_AUTHORIZED,
            # A StorageError other than StorageFull means a faulty disk; for both the sender should try again later.
            StorageError: StoreStatus.OUT_OF_RESOURCES,
            IndexError_: StoreStatus.OUT_OF_RESOURCES,
            CatalogBehind: StoreStatus.OUT_OF_RESOURCES,
            ClusterError: StoreStatus.OUT_OF_RESOURCES,
            LeaseLost: StoreStatus.OUT_OF_RESOURCES,
            MemoryError: StoreStatus.OUT_OF_RESOURCES,
            DataSetError: StoreStatus.CANNOT_UNDERSTAND,
        },
        Service.FIND: {
            QueryError: FindStatus.IDENTIFIER_DOES_NOT_MATCH,
            DataSetError: FindStatus.UNABLE_TO_PROCESS,
            IndexError_: FindStatus.UNABLE_TO_PROCESS,
            StorageError: FindStatus.UNABLE_TO_PROCESS,
            OrdersError: FindStatus.UNABLE_TO_PROCESS,
            MemoryError: FindStatus.OUT_OF_RESOURCES,
            AuditUnavailable: FindStatus.OUT_OF_RESOURCES,
            StoreUnreachable: FindStatus.OUT_OF_RESOURCES,
            CatalogBehind: FindStatus.OUT_OF_RESOURCES,
            ClusterError: FindStatus.OUT_OF_RESOURCES,
            LeaseLost: FindStatus.OUT_OF_RESOURCES,
        },
        Service.MOVE: _RETRIEVE,
        Service.GET: _RETRIEVE,
        Service.OTHER: {
            StorageFull: GeneralStatus.RESOURCE_LIMITATION,
            StoreUnreachable: GeneralStatus.RESOURCE_LIMITATION,
            Fenced: GeneralStatus.RESOURCE_LIMITATION,
            CatalogBehind: GeneralStatus.RESOURCE_LIMITATION,
            ClusterError: GeneralStatus.RESOURCE_LIMITATION,
            LeaseLost: GeneralStatus.RESOURCE_LIMITATION,
            MemoryError: GeneralStatus.RESOURCE_LIMITATION,
            DataSetError: GeneralStatus.INVALID_ARGUMENT_VALUE,
        },
    }
)
"""Error → status; the nearest base class counts."""

_REFUSALS: Final[Mapping[Refusal, int]] = {
    Refusal.CANNOT_UNDERSTAND: StoreStatus.CANNOT_UNDERSTAND,
    Refusal.MISMATCH: StoreStatus.DATA_SET_DOES_NOT_MATCH,
    Refusal.OUT_OF_RESOURCES: StoreStatus.OUT_OF_RESOURCES,
    Refusal.NOT_AUTHORIZED: GeneralStatus.NOT_AUTHORIZED,
    Refusal.OTHER_STUDY: StoreStatus.DATA_SET_DOES_NOT_MATCH,
    Refusal.TRANSFER_SYNTAX: StoreStatus.CANNOT_UNDERSTAND,
    Refusal.SOP_CLASS: GeneralStatus.SOP_CLASS_NOT_SUPPORTED,
}


def status_of(error: BaseException, service: Service) -> int:
    """The status for the response of an operation that ended with `error`."""
    if isinstance(error, MessageError):
        return error.status
    if isinstance(error, InstanceRefused) and service is Service.STORE:
        return _REFUSALS[error.refusal]
    table = ERROR_STATUS[service]
    for base in type(error).__mro__:
        if base in table:
            return table[base]
    return GeneralStatus.PROCESSING_FAILURE
