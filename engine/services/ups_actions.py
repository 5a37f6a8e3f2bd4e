"""N-ACTION of workitems (PS3.4 CC.2.1 to CC.2.3): which action is for which SOP class, and its information."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.dicom import tags, uids
from engine.dicom.identifier import Identifier
from engine.dimse.status import GeneralStatus
from engine.errors import MessageError, WorkitemRefused
from engine.orders.workitems.rules import Fault, Remark
from engine.orders.workitems.store import Subscriber, Workitems
from engine.titles import readable

if TYPE_CHECKING:
    from engine.orders.workitems.search import Reach
    from engine.services.session import Session

CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = range(1, 6)
"""Action Type IDs."""
_ACTIONS: Final = {
    uids.UnifiedProcedureStepPush: frozenset((REQUEST_CANCEL,)),
    uids.UnifiedProcedureStepPull: frozenset((CHANGE_STATE,)),
    uids.UnifiedProcedureStepWatch: frozenset((REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND)),
}
_NO_KEYS: Final = frozenset((tags.ReceivingAE, tags.DeletionLock, tags.RequestingAE))


@dataclass(frozen=True, slots=True)
class Action:
    """An N-ACTION."""

    type_id: int
    sop_class_uid: str
    """Of its presentation context."""
    uid: str
    caller: str
    reach: Reach | None
    is_receiver: Callable[[str], bool]
    """Whether events can be sent to a title."""


def receivers_of(session: Session) -> Callable[[str], bool]:
    """Which titles an association may subscribe: its own, and those of peers."""
    config, own = session.config, session.caller
    return lambda title: title == own or config.peer(title) is not None


def perform(workitems: Workitems, action: Action, information: Identifier) -> Remark:
    """Performs it. Raises WorkitemRefused, MessageError."""
    if action.type_id not in _ACTIONS.get(action.sop_class_uid, ()):
        raise MessageError("no action of this SOP class", GeneralStatus.NO_SUCH_ACTION)
    if action.type_id == CHANGE_STATE:
        state = information.text(tags.ProcedureStepState).strip()
        transaction_uid = information.text(tags.TransactionUID).strip()
        return workitems.change_state(action.uid, state, transaction_uid, action.caller, action.reach)
    if action.type_id == REQUEST_CANCEL:
        return workitems.request_cancel(action.uid, information, action.caller, action.reach)
    title = information.text(tags.ReceivingAE).strip()
    if not title:
        raise WorkitemRefused("ReceivingAE is missing", Fault.MISSING, (tags.ReceivingAE,))
    if not action.is_receiver(title):
        raise WorkitemRefused("the Receiving AE is no [[peer]], and not the caller", Fault.RECEIVER)
    if action.reach is not None and title != action.caller:
        raise WorkitemRefused("only who may see all workitems may subscribe others", Fault.NOT_ALLOWED)
    who = Subscriber(readable(title), reach=action.reach)
    if action.type_id == SUBSCRIBE:
        lock = information.text(tags.DeletionLock).strip().upper()
        if lock not in ("TRUE", "FALSE"):
            raise WorkitemRefused("DeletionLock is neither TRUE nor FALSE", Fault.VALUE, (tags.DeletionLock,))
        keys = {tag: value for tag, value in information.items.items() if tag not in _NO_KEYS}
        filter_keys = Identifier(keys, information.character_set)
        workitems.subscribe(action.uid, who, has_lock=lock == "TRUE", keys=filter_keys)
    elif action.type_id == UNSUBSCRIBE:
        workitems.unsubscribe(action.uid, who)
    else:
        workitems.suspend(action.uid, who)
    return Remark.NONE
