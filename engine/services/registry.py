"""The services by the abstract syntax of a presentation context, and their messages (PS3.7 9.1 and 10.1).

    Verification                    echo_scp              C-ECHO
    Patient Root, Study Root,       find_scp              C-FIND, C-CANCEL
    Patient/Study Only              retrieve_scp          C-MOVE or C-GET, depending on the class; C-CANCEL
                                                          C-STORE-RSP with C-GET
    Modality Worklist               worklist_scp          C-FIND, C-CANCEL
    Repository Query                repository_query      C-FIND, C-CANCEL
    Modality Performed Procedure    mpps_scp              N-CREATE, N-SET; Retrieve: N-GET
    Step, and its Retrieve
    Instance Availability           availability_scp      N-CREATE
    Notification
    Unified Procedure Step:         ups_scp
      Push                            N-CREATE, N-ACTION, N-GET
      Pull                            C-FIND, C-CANCEL, N-GET, N-SET, N-ACTION
      Watch                           C-FIND, C-CANCEL, N-GET, N-ACTION
      Query                           C-FIND, C-CANCEL
      Event                 ups_events  N-EVENT-REPORT-RSP
    Storage Commitment Push Model   commitment.scp        N-ACTION, N-EVENT-REPORT-RSP
    all others                      storage_scp           C-STORE, C-STORE-RSP

A request that does not belong to its context, or is about another SOP class, is answered SOP class not supported
(0122H), an N-ACTION no such SOP class (0118H). Such a response cannot be answered and ends the association.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from engine.dicom.uids import name_of
from engine.dimse.messages import CCancelRQ, CFindRQ, Message
from engine.dimse.status import GeneralStatus
from engine.errors import MessageError
from engine.services import (
    availability_scp,
    echo_scp,
    find_scp,
    mpps_scp,
    repository_query,
    retrieve_scp,
    storage_scp,
    ups_events,
    ups_scp,
    worklist_scp,
)
from engine.services.commitment import scp as commitment_scp

if TYPE_CHECKING:
    from engine.services.service import ServiceClass
    from engine.ul.negotiation import AcceptedContext

SERVICES: Final[tuple[ServiceClass, ...]] = (
    echo_scp.SERVICE,
    find_scp.SERVICE,
    repository_query.SERVICE,
    worklist_scp.SERVICE,
    mpps_scp.SERVICE,
    mpps_scp.RETRIEVE_SERVICE,
    availability_scp.SERVICE,
    *ups_scp.SERVICES,
    ups_events.SERVICE,
    retrieve_scp.MOVE_SERVICE,
    retrieve_scp.GET_SERVICE,
    commitment_scp.SERVICE,
)

STORAGE: Final[ServiceClass] = storage_scp.SERVICE
"""Serves all accepted contexts that no other service serves: `ul.negotiation` decides which classes are storage."""

_BY_ABSTRACT_SYNTAX: Final[Mapping[str, ServiceClass]] = MappingProxyType(
    {uid: service for service in SERVICES for uid in service.sop_class_uids}
)

OPTIONS: Final[Mapping[str, bytes]] = MappingProxyType(
    {uid: service.options for service in SERVICES if service.options for uid in service.sop_class_uids}
)
"""The options that we support in SOP class extended negotiation, by SOP class."""


def service_of(abstract_syntax: str) -> ServiceClass:
    """The service of an accepted presentation context."""
    return _BY_ABSTRACT_SYNTAX.get(abstract_syntax, STORAGE)


def is_served(message: Message, service: ServiceClass, context: AcceptedContext) -> bool:
    """Whether a message is served on its context; False for a C-CANCEL with nothing to cancel, which has no response.

    Raises MessageError with the status for the response.
    """
    kind = type(message)
    if kind in service.requests:
        uid = getattr(message, "affected_sop_class_uid", None) or getattr(message, "requested_sop_class_uid", "")
        is_about_instance = bool(service.instances_class) and kind is not CFindRQ
        if uid != context.abstract_syntax and not (is_about_instance and uid == service.instances_class):
            raise MessageError("another SOP class than that of its presentation context", _unsupported(message))
        return True
    if kind in service.responses:
        return True  # do not check the fields that it repeats: many peers leave them out or get them wrong
    if kind is CCancelRQ:
        return service.is_cancellable
    raise MessageError(f"{kind.__name__} is not for {name_of(context.abstract_syntax)}", _unsupported(message))


def _unsupported(message: Message) -> GeneralStatus:
    """The status of services with Requested SOP Class UID (N-ACTION, …), or that of all others."""
    is_normalized = hasattr(message, "requested_sop_class_uid")
    return GeneralStatus.NO_SUCH_SOP_CLASS if is_normalized else GeneralStatus.SOP_CLASS_NOT_SUPPORTED
