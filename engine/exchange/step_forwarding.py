"""Modality Performed Procedure Step, SCU (PS3.4 F.7): forwards what modalities report, in the order in which they did.

An N-SET follows its N-CREATE, since both have one position. Attributes are forwarded as they came, with their texts in
UTF-8. A receiver that has the step already (0111), or changes it no more (0110 with Error ID A710), has accepted it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.dicom import tags, transfer_syntax
from engine.dicom.identifier import decode_identifier
from engine.dimse.messages import NCreateRQ, NSetRQ
from engine.exchange.normalized import PERFORMED_STEP as SOP_CLASS
from engine.exchange.normalized import request
from engine.orders import performing
from engine.orders.attributes import in_utf_8
from engine.orders.rows import AnnouncementRow
from engine.orders.work import STEP_CREATED
from engine.outbox.follower import Sink

if TYPE_CHECKING:
    from engine.exchange.settings import Rule
    from engine.outbox.source import Unit
    from engine.runtime.engine import Engine


class StepForwarding(Sink[AnnouncementRow]):
    """The steps that one rule forwards to one peer."""

    def __init__(self, engine: Engine, rule: Rule, aet: str) -> None:
        self._engine = engine
        self._rule = rule
        self._aet = aet

    async def deliver(self, unit: Unit[AnnouncementRow], reset: str) -> None:
        """Forwards one N-CREATE or N-SET. Raises DeliveryFailed, AssociationFailed."""
        row = unit.content
        if row.by == self._aet or (self._rule.senders and row.by not in self._rule.senders):
            return
        data_set = decode_identifier(
            row.data_set,
            transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN,
            element_count_max=performing.ELEMENT_COUNT_MAX,
        )
        items = {tags.SpecificCharacterSet: b"ISO_IR 192", **in_utf_8(data_set)}
        is_new = row.kind == STEP_CREATED
        make = partial(_create if is_new else _set, row.subject)
        await request(self._engine.config, self._aet, SOP_CLASS, items, make)
        self._engine.metrics.counters["performed_steps_forwarded"] += 1


def _create(uid: str, message_id: int) -> NCreateRQ:
    return NCreateRQ(message_id, SOP_CLASS, uid, True)


def _set(uid: str, message_id: int) -> NSetRQ:
    return NSetRQ(message_id, SOP_CLASS, uid)
