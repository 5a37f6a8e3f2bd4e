"""Presentation contexts of a Storage SCU: proposes them, and chooses one for each instance.

It works on anything with a SOP class and a transfer syntax: stored instances (`storage_scu`) and files (`file_scu`).
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
"""Transfer syntaxes to propose for each SOP class beside the stored ones: every storage SCP accepts one of them."""

UID_LENGTH_MAX = 64
"""Characters of a UID (PS3.5 9.1). An instance with a longer one is stored, but not sent."""


class Encoded(Protocol):
    """An object to send."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def transfer_syntax_uid(self) -> str: ...


Item = TypeVar("Item", bound=Encoded)


def propose(items: Iterable[Encoded], preferred: tuple[str, ...] = ()) -> list[PresentationContextRQ]:
    """Contexts for these items: one for each transfer syntax of a class, then the fallbacks. At most 128.

    Each context has one transfer syntax, so that the acceptor cannot choose another one that needs a conversion.
    """
    by_class: dict[str, dict[str, None]] = {}
    for item in items:
        if len(item.sop_class_uid) <= UID_LENGTH_MAX:  # for a longer one many peers would reject the association
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
    """Splits items, in their order, into groups whose contexts fit into one association."""
    groups: list[list[Item]] = []
    kinds: dict[str, set[str]] = {}
    contexts_count = 0
    first_of_class = 2 + len(preferred)
    for item in items:
        syntaxes = kinds.get(item.sop_class_uid)
        growth = first_of_class if syntaxes is None else int(item.transfer_syntax_uid not in syntaxes)
        if not groups or contexts_count + growth > CONTEXTS_MAX:
            groups.append([])
            kinds, contexts_count, growth = {}, 0, first_of_class
        kinds.setdefault(item.sop_class_uid, set()).add(item.transfer_syntax_uid)
        contexts_count += growth
        groups[-1].append(item)
    return groups


class SendContexts:
    """The contexts of one association on which we are SCU."""

    def __init__(self, accepted: Iterable[AcceptedContext], preferred: tuple[str, ...] = ()) -> None:
        """`preferred`: transfer syntaxes that the peer prefers to the stored one, best first."""
        self._preferred = preferred
        self._contexts: dict[str, dict[str, AcceptedContext]] = {}
        for context in accepted:
            if context.we_are_scu:
                self._contexts.setdefault(context.abstract_syntax, {}).setdefault(context.transfer_syntax, context)

    def choose(self, item: Encoded) -> tuple[AcceptedContext, str]:
        """The context and the transfer syntax for an item. Raises TranscodeError when there is none."""
        contexts = self._contexts.get(item.sop_class_uid)
        if not contexts:
            raise TranscodeError(f"the peer accepted no presentation context for SOP class {item.sop_class_uid}")
        own_syntax = item.transfer_syntax_uid
        for syntax in (*self._preferred, own_syntax):
            if syntax in contexts and (syntax == own_syntax or transcode.plan(own_syntax, [syntax]) is not None):
                return contexts[syntax], syntax
        target = transcode.plan(own_syntax, list(contexts))
        if target is None:
            raise TranscodeError(f"the peer accepted no transfer syntax into which {own_syntax} can be converted")
        return contexts[target], target
