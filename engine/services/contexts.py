"""Presentation contexts for what is to be sent as Storage SCU: which to propose, and which to send an instance on.

Works on anything that has a SOP class and a transfer syntax: stored instances (`storage_scu`) and files (`file_scu`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine.archive.transcoding import transcode
from engine.dicom import transfer_syntax
from engine.errors import TranscodeError
from engine.net.client import CONTEXTS_MAX
from engine.ul.pdu import PresentationContextRQ

if TYPE_CHECKING:
    from engine.ul.negotiation import AcceptedContext

FALLBACK = (transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN.uid, transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN.uid)
"""What is proposed for each SOP class besides the stored transfer syntaxes: every storage SCP takes one of them."""


UID_LENGTH_MAX = 64
"""Characters of a UID (PS3.5 9.1). What is longer is kept, and not sent."""


class Encoded(Protocol):
    """Something to send."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def transfer_syntax_uid(self) -> str: ...


Item = TypeVar("Item", bound=Encoded)


def propose(items: Iterable[Encoded], preferred: tuple[str, ...] = ()) -> list[PresentationContextRQ]:
    """Contexts for these items: one for each of a class's transfer syntaxes, then the fallbacks. At most 128.

    One transfer syntax a context, so that the acceptor cannot choose away what needs no conversion.
    """
    by_class: dict[str, dict[str, None]] = {}
    for item in items:
        if len(item.sop_class_uid) <= UID_LENGTH_MAX:  # a longer one is no UID to many, who would refuse all
            by_class.setdefault(item.sop_class_uid, dict.fromkeys(preferred))[item.transfer_syntax_uid] = None
    proposals: list[tuple[str, tuple[str, ...]]] = [
        (uid, (syntax,)) for uid, syntaxes in by_class.items() for syntax in syntaxes
    ]
    for uid, syntaxes in by_class.items():
        fallback = tuple(syntax for syntax in FALLBACK if syntax not in syntaxes)
        if fallback:
            proposals.append((uid, fallback))
    return [
        PresentationContextRQ(2 * number + 1, uid, syntaxes)
        for number, (uid, syntaxes) in enumerate(proposals[:CONTEXTS_MAX])
    ]


def in_groups(items: Iterable[Item], preferred: tuple[str, ...] = ()) -> list[list[Item]]:
    """Items, in their order, in groups whose contexts fit into one association."""
    groups: list[list[Item]] = []
    kinds: dict[str, set[str]] = {}
    contexts_count = 0
    first_of_class = 2 + len(preferred)
    for item in items:
        known = kinds.get(item.sop_class_uid)
        new = first_of_class if known is None else int(item.transfer_syntax_uid not in known)
        if not groups or contexts_count + new > CONTEXTS_MAX:
            groups.append([])
            kinds, contexts_count, new = {}, 0, first_of_class
        kinds.setdefault(item.sop_class_uid, set()).add(item.transfer_syntax_uid)
        contexts_count += new
        groups[-1].append(item)
    return groups


class SendContexts:
    """The contexts of one association on which we are SCU."""

    def __init__(self, accepted: Iterable[AcceptedContext], preferred: tuple[str, ...] = ()) -> None:
        """`preferred`: transfer syntaxes that the peer shall get rather than the stored one, best first."""
        self._preferred = preferred
        self._contexts: dict[str, dict[str, AcceptedContext]] = {}
        for context in accepted:
            if context.we_are_scu:
                self._contexts.setdefault(context.abstract_syntax, {}).setdefault(context.transfer_syntax, context)

    def choose(self, item: Encoded) -> tuple[AcceptedContext, str]:
        """The context to send on and the transfer syntax to send in. Raises TranscodeError when there is none."""
        accepted = self._contexts.get(item.sop_class_uid)
        if not accepted:
            raise TranscodeError(f"the peer took no presentation context for SOP class {item.sop_class_uid}")
        stored = item.transfer_syntax_uid
        for syntax in (*self._preferred, stored):
            if syntax in accepted and (syntax == stored or transcode.plan(stored, [syntax]) is not None):
                return accepted[syntax], syntax
        target = transcode.plan(stored, list(accepted))
        if target is None:
            raise TranscodeError(f"the peer took no transfer syntax into which {stored} can be converted")
        return accepted[target], target
