"""Negotiation: makes the answer to a proposed association under a policy. Pure functions without state.

The policy carries everything from the configuration and the data dictionary (calling titles, storage classes); each
peer may have its own. `accepted_contexts` interprets an answer for the requestor.

Each presentation context gets a result (PS3.8 9.3.3.2):

    0 accepted
    1 user rejection       storage that this policy does not allow (`accept_storage`)
    2 no reason            more contexts than `presentation_context_count_max`
    3 abstract syntax      not served, or not a UID
    4 transfer syntaxes    none of the proposed ones is supported

The transfer syntax of a storage context depends on the role, see `ul.transfer_syntaxes`; others follow our order of
preference.

Storage classes are those of `is_storage`; those whose SOP class common extended negotiation names the Storage Service
Class (PS3.7 D.3.3.6); and, if `promiscuous`, every UID outside the standard's root and every one below the standard's
storage root, so that SOP classes newer than this program are accepted. Non-patient objects (PS3.4 Annex GG: hanging
protocols, palettes, implant templates, defined protocols, inventories) never are, though they are sent by C-STORE:
without Study and Series Instance UIDs they could not be stored here.

Role selection (PS3.7 D.3.3.4): a requestor of C-GET must also be SCP of storage, to receive the instances. Some
requestors forget the role items; with `lenient_get_roles` they count as SCPs of the storage classes that they propose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from engine.dicom.storage_classes import is_not_storage, may_store

from .pdu import (
    APPLICATION_CONTEXT_NAME,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    AsynchronousOperationsWindow,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    SopClassExtendedNegotiation,
    UserInformation,
)
from .transfer_syntaxes import IMPLICIT_VR_LITTLE_ENDIAN, PLAIN_TRANSFER_SYNTAXES, choose

__all__ = ["PLAIN_TRANSFER_SYNTAXES", "AcceptPolicy", "Accepted", "AcceptedContext", "accepted_contexts", "negotiate"]

ACCEPTANCE: Final = 0
USER_REJECTION: Final = 1
NO_REASON: Final = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

# PS3.8 Table 9-21
APPLICATION_CONTEXT_NOT_SUPPORTED: Final = AssociateRJ(1, 1, 2)
CALLING_AE_TITLE_NOT_RECOGNIZED: Final = AssociateRJ(1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED: Final = AssociateRJ(1, 1, 7)
AUTHENTICATION_FAILED: Final = AssociateRJ(1, 2, 1)
"""PS3.7 D.3.3.7 gives a wrong user identity no reason of its own."""
PROTOCOL_VERSION_NOT_SUPPORTED: Final = AssociateRJ(1, 2, 2)
TEMPORARY_CONGESTION: Final = AssociateRJ(2, 3, 1)
LOCAL_LIMIT_EXCEEDED: Final = AssociateRJ(2, 3, 2)

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_SERVICE_CLASS: Final = "1.2.840.10008.4.2"

GET_SOP_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.2.1.3",  # Patient Root
        "1.2.840.10008.5.1.4.1.2.2.3",  # Study Root
        "1.2.840.10008.5.1.4.1.2.3.3",  # Patient/Study Only, retired
        "1.2.840.10008.5.1.4.1.2.4.3",  # Composite Instance Root Retrieve
        "1.2.840.10008.5.1.4.1.2.5.3",  # Composite Instance Retrieve Without Bulk Data
    }
)

STORAGE_OPTIONS: Final = b"\2\0\3\0\0\0"
"""PS3.4 Table B.3-2: level of support 2 (full), reserved, digital signatures 3 (every byte is stored), reserved,
no coercion of elements, reserved."""

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")  # leading zeros occur, and do no harm
_UID_LENGTH_MAX: Final = 64
_SYNCHRONOUS: Final = AsynchronousOperationsWindow(1, 1)


@dataclass(frozen=True, slots=True)
class AcceptPolicy:
    """What an acceptor accepts from one peer; the general policy, or a `dataclasses.replace` of it for a known peer."""

    is_storage: Callable[[str], bool]
    """Whether an abstract syntax is a storage SOP class of the standard."""
    storage_transfer_syntaxes: frozenset[str]
    """Transfer syntaxes that we store."""
    services: Mapping[str, tuple[str, ...]]
    """All other abstract syntaxes that we serve, with their transfer syntaxes in our order of preference."""
    called_ae_titles: frozenset[str] = frozenset()
    """Titles that we answer to; empty: any."""
    calling_ae_titles: frozenset[str] = frozenset()
    """Titles that may call; empty: any."""
    accept_storage: bool = True
    """Whether this peer may store."""
    promiscuous: bool = True
    """Whether unknown and private SOP classes are accepted for storage."""
    prefer_compressed: bool = False
    """Whether a compressed transfer syntax is accepted where a context also offers a native one."""
    lenient_get_roles: bool = True
    """Whether a requestor of C-GET without role items counts as an SCP of storage."""
    maximum_length: int = 131072
    """The longest P-DATA-TF body that we announce. DCMTK proposes 16384, pynetdicom 16382, dicom-rs 32762;
    with ours a CT instance has an eighth of the headers."""
    operations_performed_max: int = 16
    """Operations that the requestor may have outstanding with us; 0 unlimited."""
    operations_invoked_max: int = 1
    """Operations that we may have outstanding with the requestor (C-STORE of a C-GET); 0 unlimited."""
    asynchronous: bool = True
    """Whether we answer a proposed asynchronous operations window; otherwise it is 1 and 1."""
    presentation_context_count_max: int = 128
    """Contexts that we accept on one association."""
    options: Mapping[str, bytes] = field(default_factory=dict)
    """The options that we support in SOP class extended negotiation, byte by byte; other classes get no answer."""
    storage_options: bytes = STORAGE_OPTIONS
    """The answer to extended negotiation of any storage class."""
    implementation_class_uid: str = ""
    implementation_version_name: str = ""


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context on which messages may be sent."""

    presentation_context_id: int
    abstract_syntax: str
    transfer_syntax: str
    we_are_scu: bool
    """Whether we may invoke operations on it."""
    we_are_scp: bool
    """Whether the peer may invoke operations on it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The result of a successful negotiation."""

    ac: AssociateAC
    contexts: Mapping[int, AcceptedContext]
    """By presentation context id."""
    peer_maximum_length: int
    """The longest P-DATA-TF body that the peer receives; 0 is unlimited."""
    operations_invoked_max: int
    """Operations that we may have outstanding with the peer; 0 is unlimited."""
    operations_performed_max: int
    """Operations that the peer may have outstanding with us; 0 is unlimited."""
    options: Mapping[str, bytes]
    """Negotiated application information of extended negotiation, by SOP class."""
    get_roles_assumed: bool = False
    """Whether the peer counts as an SCP of storage though it sent no role items."""


def negotiate(rq: AssociateRQ, policy: AcceptPolicy, *, refusal: AssociateRJ | None = None) -> Accepted | AssociateRJ:
    """The acceptor's answer. `refusal`: returned as it is, whatever the request, for example LOCAL_LIMIT_EXCEEDED."""
    if refusal is not None:
        return refusal
    if not rq.protocol_version & 1:
        return PROTOCOL_VERSION_NOT_SUPPORTED
    if rq.application_context_name != APPLICATION_CONTEXT_NAME:
        return APPLICATION_CONTEXT_NOT_SUPPORTED
    if policy.called_ae_titles and rq.called_ae_title not in policy.called_ae_titles:
        return CALLED_AE_TITLE_NOT_RECOGNIZED
    if policy.calling_ae_titles and rq.calling_ae_title not in policy.calling_ae_titles:
        return CALLING_AE_TITLE_NOT_RECOGNIZED

    storage = _storage_classes(rq, policy)
    get_storage = _storage_classes_for_get(rq, storage, policy)
    count_max = policy.presentation_context_count_max
    answers = tuple(
        _answer_context(context, policy, storage, get_storage) if index < count_max else _reject(context, NO_REASON)
        for index, context in enumerate(rq.presentation_contexts)
    )
    accepted = {
        context.presentation_context_id: (context.abstract_syntax, answer.transfer_syntax)
        for context, answer in zip(rq.presentation_contexts, answers, strict=True)
        if answer.result == ACCEPTANCE
    }
    abstract_syntaxes = {abstract_syntax for abstract_syntax, _ in accepted.values()}
    roles = _answer_roles(rq, abstract_syntaxes, storage)
    are_roles_assumed = policy.lenient_get_roles and _lacks_roles(rq, abstract_syntaxes, storage)
    contexts: dict[int, AcceptedContext] = {}
    for context_id, (abstract_syntax, transfer_syntax) in accepted.items():
        role = roles.get(abstract_syntax)
        we_are_scu = role.scp_role if role else are_roles_assumed and abstract_syntax in storage
        we_are_scp = role.scu_role if role else True
        contexts[context_id] = AcceptedContext(context_id, abstract_syntax, transfer_syntax, we_are_scu, we_are_scp)

    window = _answer_window(rq.user_information.asynchronous_operations_window, policy)
    options = _answer_options(rq, abstract_syntaxes, policy, storage)
    information = UserInformation(
        maximum_length=policy.maximum_length,
        implementation_class_uid=policy.implementation_class_uid,
        implementation_version_name=policy.implementation_version_name,
        asynchronous_operations_window=window,
        role_selections=tuple(roles.values()),
        sop_class_extended_negotiations=tuple(SopClassExtendedNegotiation(*option) for option in options.items()),
    )
    effective_window = window or _SYNCHRONOUS
    return Accepted(
        AssociateAC(_titles(rq), answers, information),
        contexts,
        rq.user_information.maximum_length,
        operations_invoked_max=effective_window.performed,
        operations_performed_max=effective_window.invoked,
        options=options,
        get_roles_assumed=are_roles_assumed,
    )


def accepted_contexts(rq: AssociateRQ, ac: AssociateAC) -> Accepted:
    """The negotiated association, for the requestor. An answer to a context that was not proposed is ignored."""
    proposals = {context.presentation_context_id: context for context in rq.presentation_contexts}
    role_offers = {role.sop_class_uid: role for role in rq.user_information.role_selections}
    role_grants = {role.sop_class_uid: role for role in ac.user_information.role_selections}
    contexts: dict[int, AcceptedContext] = {}
    for answer in ac.presentation_contexts:
        context_id = answer.presentation_context_id
        context = proposals.get(context_id)
        if answer.result != ACCEPTANCE or context is None or answer.transfer_syntax not in context.transfer_syntaxes:
            continue
        uid = context.abstract_syntax
        offer, grant = role_offers.get(uid), role_grants.get(uid)
        we_are_scu, we_are_scp = True, False
        if offer is not None and grant is not None:
            we_are_scu, we_are_scp = offer.scu_role and grant.scu_role, offer.scp_role and grant.scp_role
        contexts[context_id] = AcceptedContext(context_id, uid, answer.transfer_syntax, we_are_scu, we_are_scp)
    window_offer = rq.user_information.asynchronous_operations_window
    window_grant = ac.user_information.asynchronous_operations_window
    window = _SYNCHRONOUS
    if window_offer is not None and window_grant is not None:
        window = AsynchronousOperationsWindow(
            _smaller(window_offer.invoked, window_grant.invoked),
            _smaller(window_offer.performed, window_grant.performed),
        )
    return Accepted(
        ac,
        contexts,
        ac.user_information.maximum_length,
        operations_invoked_max=window.invoked,
        operations_performed_max=window.performed,
        options={
            option.sop_class_uid: option.application_information
            for option in ac.user_information.sop_class_extended_negotiations
        },
    )


# Presentation contexts ---------------------------------------------------------------------------


def _storage_classes(rq: AssociateRQ, policy: AcceptPolicy) -> frozenset[str]:
    """The proposed abstract syntaxes of storage."""
    declared_uids = {
        offer.sop_class_uid
        for offer in rq.user_information.sop_class_common_extended_negotiations
        if offer.service_class_uid == STORAGE_SERVICE_CLASS
    }
    return frozenset(
        uid
        for uid in {context.abstract_syntax for context in rq.presentation_contexts}
        if uid not in policy.services
        and not is_not_storage(uid)
        and (
            policy.is_storage(uid)
            or (_is_uid(uid) and (uid in declared_uids or (policy.promiscuous and may_store(uid))))
        )
    )


def _is_uid(text: str) -> bool:
    return len(text) <= _UID_LENGTH_MAX and _UID.fullmatch(text) is not None


def _storage_classes_for_get(rq: AssociateRQ, storage: frozenset[str], policy: AcceptPolicy) -> frozenset[str]:
    """The storage classes whose instances the requestor may receive by C-GET on this association."""
    scp_uids = {role.sop_class_uid for role in rq.user_information.role_selections if role.scp_role}
    abstract_syntaxes = {context.abstract_syntax for context in rq.presentation_contexts}
    if policy.lenient_get_roles and _lacks_roles(rq, abstract_syntaxes, storage):
        return storage
    return storage & scp_uids


def _answer_context(
    context: PresentationContextRQ, policy: AcceptPolicy, storage: frozenset[str], get_storage: frozenset[str]
) -> PresentationContextAC:
    proposals = context.transfer_syntaxes
    choice: str | None = None
    if context.abstract_syntax in policy.services:
        preferences = policy.services[context.abstract_syntax]
        choice = next((transfer_syntax for transfer_syntax in preferences if transfer_syntax in proposals), None)
    elif context.abstract_syntax not in storage:
        return _reject(context, ABSTRACT_SYNTAX_NOT_SUPPORTED)
    elif not policy.accept_storage:
        return _reject(context, USER_REJECTION)
    else:
        we_send = context.abstract_syntax in get_storage
        choice = choose(
            proposals,
            policy.storage_transfer_syntaxes,
            we_send=we_send,
            prefer_compressed=policy.prefer_compressed,
        )
        if choice is None and we_send:
            # A private one: instances that were imported in it can only be sent as they are.
            choice = next(filter(_is_uid, proposals), None)
    if choice is None:
        return _reject(context, TRANSFER_SYNTAXES_NOT_SUPPORTED)
    return PresentationContextAC(context.presentation_context_id, ACCEPTANCE, choice)


def _reject(context: PresentationContextRQ, result: int) -> PresentationContextAC:
    # The transfer syntax has no meaning here, but some peers fail on an answer without one.
    transfer_syntax = context.transfer_syntaxes[0] if context.transfer_syntaxes else IMPLICIT_VR_LITTLE_ENDIAN
    return PresentationContextAC(context.presentation_context_id, result, transfer_syntax)


# User information --------------------------------------------------------------------------------


def _answer_roles(rq: AssociateRQ, accepted: set[str], storage: frozenset[str]) -> dict[str, RoleSelection]:
    """Grants SCU as proposed, and SCP for storage; classes without an accepted context get no answer."""
    return {
        role.sop_class_uid: RoleSelection(
            role.sop_class_uid, role.scu_role, role.scp_role and role.sop_class_uid in storage
        )
        for role in rq.user_information.role_selections
        if role.sop_class_uid in accepted
    }


def _lacks_roles(rq: AssociateRQ, accepted: set[str], storage: frozenset[str]) -> bool:
    """Whether the requestor proposes C-GET and storage, but no SCP role."""
    if any(role.scp_role for role in rq.user_information.role_selections):
        return False
    return not accepted.isdisjoint(GET_SOP_CLASSES) and not accepted.isdisjoint(storage)


def _answer_window(
    offer: AsynchronousOperationsWindow | None, policy: AcceptPolicy
) -> AsynchronousOperationsWindow | None:
    """The smaller of the offer and our limits; None without an offer (PS3.7 D.3.3.3)."""
    if offer is None or not policy.asynchronous:
        return None
    return AsynchronousOperationsWindow(
        _smaller(offer.invoked, policy.operations_performed_max),
        _smaller(offer.performed, policy.operations_invoked_max),
    )


def _smaller(one: int, other: int) -> int:
    """The smaller of two limits; 0 means unlimited."""
    return min(one, other) if one and other else one or other


def _answer_options(
    rq: AssociateRQ, accepted: set[str], policy: AcceptPolicy, storage: frozenset[str]
) -> dict[str, bytes]:
    """The options that both sides support for each accepted class, with at most as many bytes as were proposed."""
    options: dict[str, bytes] = {}
    for offer in rq.user_information.sop_class_extended_negotiations:
        uid, proposal = offer.sop_class_uid, offer.application_information
        if uid not in accepted:
            continue
        if uid in storage:
            options[uid] = policy.storage_options
        elif uid in policy.options:
            options[uid] = bytes(ours & theirs for ours, theirs in zip(policy.options[uid], proposal, strict=False))
    return options


def _titles(rq: AssociateRQ) -> bytes:
    """Bytes 11-74 for the answer; made from the titles for a request that was not received from the wire."""
    if rq.titles:
        return rq.titles
    titles = rq.called_ae_title.ljust(16) + rq.calling_ae_title.ljust(16)
    return titles.encode("latin-1").ljust(64, b"\0")
