"""What one calling AE title may negotiate: configuration in, `ul.negotiation.AcceptPolicy` out.

The one place that says which SOP classes are served, in which transfer syntaxes, and which options a query has.

    C-FIND          baseline unless an option was negotiated for the SOP class of its context (PS3.4 Table C.5-2), or
                    holds for the peer by configuration ([query] options, [[peer]] query_options)
    C-MOVE, C-GET   unique keys above the level may be missing, whether relational retrieval was negotiated or not: a
                    UID needs no context, users retrieve by the UIDs that they have, and nothing else can be meant
    nobody          enhanced multi-frame image conversion: answered 0
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.config.titles import wire_forms
from engine.dicom import transfer_syntax, uids
from engine.services.operations import (
    FIND,
    GET,
    MOVE,
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    QUERY_RETRIEVE,
    STUDY_ROOT,
)
from engine.ul import negotiation
from engine.ul.negotiation import AcceptPolicy
from engine.ul.pdu import AssociateRJ

if TYPE_CHECKING:
    from engine.config import Config, QueryOption
    from engine.ul.negotiation import Accepted

_FIND_BYTES: Mapping[int, QueryOption] = {
    0: "relational",
    1: "date-time",
    2: "fuzzy",
    3: "timezone",
    5: "empty-values",
    6: "multiple-values",
}
"""Which byte of the negotiated item means which option (PS3.4 Table C.5-2)."""


def refusal(config: Config, calling_ae_title: str, *, busy: bool) -> AssociateRJ | None:
    """Why an association is rejected whatever it proposes; None when it is not."""
    if busy:
        return negotiation.LOCAL_LIMIT_EXCEEDED
    # A mere destination, which may do nothing of its own, may still verify us.
    if config.peer(calling_ae_title) is None and not config.accept_unknown_peers:
        return negotiation.CALLING_AE_TITLE_NOT_RECOGNIZED
    return None


def only_stores(accepted: Accepted) -> bool:
    """Whether nothing but storage was negotiated: no Verification, Storage Commitment, query or retrieval."""
    return bool(accepted.contexts) and not any(
        context.abstract_syntax in (negotiation.VERIFICATION, uids.StorageCommitmentPushModel, uids.RepositoryQuery)
        or context.abstract_syntax.startswith(QUERY_RETRIEVE)
        for context in accepted.contexts.values()
    )


def query_options(config: Config, calling_ae_title: str, agreed: bytes) -> frozenset[QueryOption]:
    """The options of a C-FIND: what was agreed in extended negotiation of its SOP class, and what holds anyway."""
    negotiated = [option for number, option in _FIND_BYTES.items() if agreed[number : number + 1] == b"\1"]
    return frozenset(negotiated).union(config.query_options_of(calling_ae_title))


@lru_cache(maxsize=1024)
def accept_policy(config: Config, calling_ae_title: str) -> AcceptPolicy:
    """The policy for one calling AE title."""
    peer = config.peer(calling_ae_title)
    window = config.receive_window_of(calling_ae_title)
    return AcceptPolicy(
        is_storage=uids.is_storage_sop_class,
        storage_transfer_syntaxes=frozenset(syntax.uid for syntax in transfer_syntax.ALL),
        services=_services(config, calling_ae_title),
        called_ae_titles=frozenset(wire_forms(config.aet)) if config.called_ae_title_check else frozenset(),
        # C-GET needs storage contexts too, in which the asker is SCP.
        accept_storage=config.may(calling_ae_title, "store") or config.may(calling_ae_title, "retrieve"),
        prefer_compressed=peer is not None and peer.prefer_compressed,
        promiscuous=config.promiscuous,
        maximum_length=peer.pdu_length_max if peer and peer.pdu_length_max else config.limits.pdu_length_max,
        operations_performed_max=window,
        operations_invoked_max=peer.send_window if peer else 1,
        asynchronous=window > 1,
        presentation_context_count_max=config.limits.presentation_contexts_max,
        implementation_class_uid=uids.IMPLEMENTATION_CLASS_UID,
        implementation_version_name=uids.IMPLEMENTATION_VERSION_NAME,
    )


def _services(config: Config, calling_ae_title: str) -> dict[str, tuple[str, ...]]:
    operations = [FIND] if config.may(calling_ae_title, "query") else []
    if config.may(calling_ae_title, "retrieve"):
        operations += [MOVE, GET]
    served = {
        f"{QUERY_RETRIEVE}.{model}.{operation}": negotiation.PLAIN_TRANSFER_SYNTAXES
        for model in (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
        for operation in operations
    }
    if config.may(calling_ae_title, "query"):
        served[uids.RepositoryQuery] = negotiation.PLAIN_TRANSFER_SYNTAXES
    if config.may(calling_ae_title, "store"):
        # Who may store may ask whether it is safe.
        served[uids.StorageCommitmentPushModel] = negotiation.PLAIN_TRANSFER_SYNTAXES
    return {negotiation.VERIFICATION: negotiation.PLAIN_TRANSFER_SYNTAXES, **served}
