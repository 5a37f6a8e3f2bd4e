"""Makes the negotiation policy for a peer, `ul.negotiation.AcceptPolicy`, from configuration, access and the registry.

No service supports enhanced multi-frame image conversion: its option is answered with 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.access import Access, Action, Decision, Principal
from engine.dicom import transfer_syntax, uids
from engine.services import registry
from engine.titles import wire_forms
from engine.ul import negotiation
from engine.ul.negotiation import AcceptPolicy
from engine.ul.pdu import AssociateRJ

if TYPE_CHECKING:
    from engine.config import Config
    from engine.ul.negotiation import Accepted

_STORAGE_TRANSFER_SYNTAXES = frozenset(syntax.uid for syntax in transfer_syntax.ALL)


def refusal(decision: Decision, *, busy: bool) -> AssociateRJ | None:
    """The rejection of an association, independent of its proposal; None: it may be negotiated.

    `decision`: whether the requestor may associate."""
    if busy:
        return negotiation.LOCAL_LIMIT_EXCEEDED
    if not decision:
        return negotiation.CALLING_AE_TITLE_NOT_RECOGNIZED
    return None


def only_stores(accepted: Accepted) -> bool:
    """Whether only storage was negotiated: no Verification, Storage Commitment, query or retrieval."""
    services = {registry.service_of(context.abstract_syntax) for context in accepted.contexts.values()}
    return services == {registry.STORAGE}


def accept_policy(config: Config, access: Access, principal: Principal) -> AcceptPolicy:
    """The policy for one peer."""
    settings = config.settings_of(principal.name)
    permissions = {action for action in Action if access.allowed(principal, action)}
    return AcceptPolicy(
        is_storage=uids.is_storage_sop_class,
        storage_transfer_syntaxes=_STORAGE_TRANSFER_SYNTAXES,
        services={
            uid: service.transfer_syntaxes
            for service in registry.SERVICES
            if service.action in permissions
            for uid in service.sop_class_uids
        },
        called_ae_titles=frozenset(wire_forms(config.aet)) if config.called_ae_title_check else frozenset(),
        # C-GET needs storage contexts too, on which the requestor is SCP.
        accept_storage=not permissions.isdisjoint({registry.STORAGE.action, Action.RETRIEVE}),
        prefer_compressed=settings.prefer_compressed,
        promiscuous=config.promiscuous,
        maximum_length=settings.pdu_length_max or config.limits.pdu_length_max,
        operations_performed_max=settings.receive_window,
        operations_invoked_max=settings.send_window,
        asynchronous=settings.receive_window > 1,
        presentation_context_count_max=config.limits.presentation_contexts_max,
        options=registry.OPTIONS,
        implementation_class_uid=uids.IMPLEMENTATION_CLASS_UID,
        implementation_version_name=uids.IMPLEMENTATION_VERSION_NAME,
    )
