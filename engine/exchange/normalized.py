"""Sends one request of a normalized service (N-CREATE, N-SET) to a peer, on an association of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from engine import log
from engine.dicom import transfer_syntax, uids
from engine.dicom.identifier import Value, encode_identifier
from engine.dimse.messages import NCreateRQ, NSetRQ
from engine.dimse.status import Category, category
from engine.errors import AssociationFailed, DeliveryFailed
from engine.net.client import PLAIN, Address, open_association
from engine.ul.pdu import PresentationContextRQ

if TYPE_CHECKING:
    from engine.config import Config

logger = log.get("exchange.normalized")

INSTANCE_AVAILABILITY: Final = uids.InstanceAvailabilityNotification
PERFORMED_STEP: Final = uids.ModalityPerformedProcedureStep
REQUESTS: Final[Mapping[str, tuple[type[NCreateRQ] | type[NSetRQ], ...]]] = {
    INSTANCE_AVAILABILITY: (NCreateRQ,),
    PERFORMED_STEP: (NCreateRQ, NSetRQ),
}
"""What rules request of other systems, by SOP class: the conformance statement says so, and nothing else is sent."""

DUPLICATE: Final = 0x0111
"""Duplicate SOP instance: the peer has it from an attempt before."""
PROCESSING_FAILURE: Final = 0x0110
MAY_NO_LONGER_BE_UPDATED: Final = 0xA710
"""Error ID (PS3.4 F.7.2.2.2): a step that has ended."""
ATTRIBUTES_IGNORED: Final = frozenset((0x0107, 0x0116))
"""Attribute list error, attribute value out of range: warnings (PS3.7 C.4)."""


async def request(
    config: Config,
    aet: str,
    sop_class_uid: str,
    items: Mapping[int, Value],
    make: Callable[[int], NCreateRQ | NSetRQ],
) -> None:
    """Returns when the peer has accepted it, or has it from an attempt before.

    Raises DeliveryFailed, AssociationFailed.
    """
    assert sop_class_uid in REQUESTS
    peer = config.peer(aet)
    if peer is None or not peer.has_address:
        raise DeliveryFailed(f"there is no [[peer]] {aet} with host and port")
    contexts = [PresentationContextRQ(1, sop_class_uid, PLAIN)]
    requestor = await open_association(Address.of(peer, config), contexts)
    try:
        assert requestor.accepted is not None
        context = requestor.accepted.contexts.get(1)
        if context is None:
            raise AssociationFailed(f"{aet} does not accept the SOP class")
        data = encode_identifier(dict(sorted(items.items())), transfer_syntax.of(context.transfer_syntax))
        response = await requestor.request_message(1, make, data)
    finally:
        if requestor.connection.is_open:
            await requestor.release()
    is_warning = category(response.status) is Category.WARNING or response.status in ATTRIBUTES_IGNORED
    is_final = response.status == PROCESSING_FAILURE and response.error_id == MAY_NO_LONGER_BE_UPDATED
    if is_final:
        logger.warning("a peer takes no further change of a step", peer=aet)
    if response.status and not (is_warning or is_final or response.status == DUPLICATE):
        raise DeliveryFailed(f"{aet} answered {response.status:04X}").quoting(response.error_comment)
