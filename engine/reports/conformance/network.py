"""Networking: application entities, SOP classes, associations, transfer syntaxes, statuses (PS3.2 Annex A.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Literal

from engine.access import Action
from engine.archive.transcoding.transcode import DECODABLE, ENCODABLE, LOSSY_ENCODABLE
from engine.config import Config
from engine.dicom import transfer_syntax, uids
from engine.dimse.messages import (
    VERIFICATION,
    CEchoRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    CStoreRQ,
    Message,
    NEventReportRQ,
    NEventReportRSP,
)
from engine.dimse.status import FindStatus, GeneralStatus, RetrieveStatus, StoreStatus, WorkitemStatus
from engine.exchange.normalized import REQUESTS
from engine.reports.document import Section, table
from engine.reports.facts import Facts
from engine.services import echo_scp, registry
from engine.services.information_models import FIND, GET, MOVE, PATIENT_ROOT, STUDY_ROOT, sop_class
from engine.services.query import FIND_OPTIONS
from engine.ul.negotiation import AcceptPolicy
from engine.ul.pdu import APPLICATION_CONTEXT_NAME

_STATUSES: Final[Mapping[Action, type[IntEnum]]] = MappingProxyType(
    {
        Action.STORE: StoreStatus,
        Action.QUERY: FindStatus,
        Action.WORKLIST: FindStatus,
        Action.WORKITEM: WorkitemStatus,
        Action.RETRIEVE: RetrieveStatus,
        Action.ASSOCIATE: GeneralStatus,
        Action.COMMIT: GeneralStatus,
    }
)
_OPTION_NAMES: Final = (
    "relational queries", "date-time matching", "fuzzy matching of names", "timezone adjustment",
    "enhanced multi-frame conversion", "empty value matching", "multiple value matching",
)  # fmt: skip
"""Of each byte of SOP class extended negotiation (PS3.4 Table C.5-2)."""


def section(facts: Facts) -> Section:
    """All of it."""
    return Section(
        "Networking",
        sections=(
            _model(facts),
            _sop_classes(facts),
            _associations(facts),
            _transfer_syntaxes(),
            _statuses(),
            _peers(facts),
            _rules(facts),
        ),
    )


def sop_class_count() -> int:
    """SOP classes as SCP."""
    return len(uids.STORAGE_SOP_CLASSES) + sum(len(service.sop_class_uids) for service in registry.SERVICES)


def _model(facts: Facts) -> Section:
    config = facts.config
    return Section(
        "Implementation model",
        (
            f"One application entity, {config.aet}. It accepts associations on {config.host}:{config.dicom_port}"
            + (f", over TLS on {config.tls.host}:{config.tls.port}" if config.tls.enabled else "")
            + ", and requests associations for C-MOVE, for reports of Storage Commitment, for events of workitems, for"
            " jobs that send and pull, for rules, and for the commands `filmroom send`, `pull` and `echo`.",
            "A C-STORE is answered with Success when the instance is on disk"
            + (" (durable)." if config.durability == "durable" else " within a second (write-behind)."),
            "Instances are stored as they are received, private elements and compressed pixels included.",
        ),
    )


def _sop_classes(facts: Facts) -> Section:
    promiscuous = (
        "Unknown and private SOP classes are stored, too (promiscuous)."
        if facts.config.promiscuous
        else "Other SOP classes are rejected (promiscuous = false)."
    )
    return Section(
        "SOP classes",
        sections=(
            Section("As SCP", tables=(table("service | SOP class | UID | requests", _served()),)),
            Section(
                "Storage as SCP and SCU",
                (
                    f"{promiscuous} Level of support 2 (full); digital signatures are kept, since every byte is;"
                    " elements are coerced on the way out only, by rule.",
                ),
                (table("SOP class | UID", _storage()),),
            ),
            Section(
                "On associations that we request",
                ("As SCU, but for N-EVENT-REPORT, which an SCP sends.",),
                (table("service | SOP class | UID | requests", requested()),),
            ),
        ),
    )


def _served() -> Iterator[tuple[str, ...]]:
    for service in registry.SERVICES:
        for uid in service.sop_class_uids:
            yield service.name, uids.name_of(uid), uid, _message_names(service.requests)


def _message_name(request: type[Message]) -> str:
    """CStoreRQ → C-STORE, NEventReportRQ → N-EVENT-REPORT."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", request.__name__.removesuffix("RQ")).upper()


def _storage() -> list[tuple[str, str]]:
    return sorted((uids.name_of(uid), uid) for uid in uids.STORAGE_SOP_CLASSES)


def requested() -> Iterator[tuple[str, str, str, str]]:
    """What we request: service, SOP class, its UID, and the requests."""
    yield echo_scp.SERVICE.name, uids.name_of(VERIFICATION), VERIFICATION, _message_names((CEchoRQ,))
    for service in registry.SERVICES:
        if NEventReportRSP in service.responses:
            for uid in service.sop_class_uids:
                yield service.name, uids.name_of(uid), uid, _message_names((NEventReportRQ,))
    for operation, name, request in (
        (FIND, "Query", CFindRQ),
        (GET, "Retrieve by C-GET", CGetRQ),
        (MOVE, "Retrieve by C-MOVE", CMoveRQ),
    ):
        for model in (STUDY_ROOT, PATIENT_ROOT):
            uid = sop_class(model, operation)
            yield name, uids.name_of(uid), uid, _message_names((request,))
    for uid, kinds in REQUESTS.items():
        yield registry.service_of(uid).name, uids.name_of(uid), uid, _message_names(kinds)
    yield "Storage", "the classes of the instances that are sent", "", _message_names((CStoreRQ,))


def _message_names(requests: Iterable[type[Message]]) -> str:
    return ", ".join(sorted(map(_message_name, requests)))


def _associations(facts: Facts) -> Section:
    config, limits = facts.config, facts.config.limits
    fields = AcceptPolicy.__dataclass_fields__
    options = [name for name, is_supported in zip(_OPTION_NAMES, FIND_OPTIONS, strict=True) if is_supported]
    rows = (
        ("application context", APPLICATION_CONTEXT_NAME),
        ("implementation class UID", uids.IMPLEMENTATION_CLASS_UID),
        ("implementation version name", uids.IMPLEMENTATION_VERSION_NAME),
        ("maximum length of a P-DATA-TF that is announced", f"{limits.pdu_length_max} bytes"),
        ("presentation contexts that are accepted", limits.presentation_contexts_max),
        ("asynchronous operations window", f"{limits.asynchronous_window} performed, "
                                            f"{fields['operations_invoked_max'].default} invoked"),
        ("associations at once", limits.associations_max),
        ("associations of one AE title at once", limits.associations_per_peer_max),
        ("associations of one address at once", limits.associations_per_address_max),
        ("ARTIM timer", f"{limits.artim_timeout_s:g} s"),
        ("idle time after which an association is ended", f"{limits.idle_timeout_s:g} s"),
        ("called AE title", "must be ours" if config.called_ae_title_check else "is not checked"),
        ("calling AE titles that are not configured", _unknown_titles(config.accept_unknown_peers)),
        ("options of C-FIND in extended negotiation", ", ".join(options)),
        ("user identity negotiation", _user_identity(config)),
    )  # fmt: skip
    return Section("Association policies", tables=(table("policy | value", rows),))


def _user_identity(config: Config) -> str:
    duty = "must prove a user" if config.tls.identity == "required" else "may prove a user"
    return (
        f"types 1 (user name, recorded), 2 (passcode) and 5 (JWT) over TLS, with a positive response; 3 and 4 are as"
        f" absent. Peers over TLS {duty} (tls.identity)"
    )


def _unknown_titles(accepted: bool | Literal["loopback"]) -> str:
    if accepted == "loopback":
        return "are accepted from this machine"
    return "are accepted" if accepted else "are rejected"


def _transfer_syntaxes() -> Section:
    encodable = {*ENCODABLE, *LOSSY_ENCODABLE}
    rows = [
        (
            syntax.name,
            syntax.uid,
            "yes",
            "yes" if syntax.convertible or syntax.uid in DECODABLE else "no",
            "yes" if syntax.convertible or syntax.uid in encodable else "no",
        )
        for syntax in transfer_syntax.ALL
    ]
    return Section(
        "Transfer syntaxes",
        (
            "Every one is stored as it is, and sent as it is to whoever accepts it. Where a peer does not, an instance"
            " is decoded or converted. Identifiers use the uncompressed ones.",
        ),
        (table("transfer syntax | UID | stored and sent | decoded for others | encoded for others", rows),),
    )


def _statuses() -> Section:
    rows = []
    for service in (*registry.SERVICES, registry.STORAGE):
        statuses = _STATUSES[service.action]
        rows += [(service.name, f"{int(status):04X}", status.name.replace("_", " ").lower()) for status in statuses]
    return Section("Statuses of responses", tables=(table("service | status | meaning", rows),))


def _peers(facts: Facts) -> Section:
    rows = [
        (
            peer.aet,
            f"{peer.host}:{peer.port}" if peer.host else peer.url or "none",
            ", ".join(peer.may),
            peer.role or "none",
            peer.tls,
            ", ".join((*peer.certificates, *peer.networks)) or "nothing",
        )
        for peer in facts.config.peers
    ]
    return Section(
        "Configured application entities",
        tables=(table("AE title | address | may | role | TLS | bound to", rows),),
    )


def _rules(facts: Facts) -> Section:
    rows = [(rule.name, rule.after, rule.action, ", ".join(rule.to)) for rule in facts.config.rules]
    return Section(
        "Rules",
        ("What this configuration tells or asks of other systems by itself, beside routes that send instances.",),
        (table("rule | after | action | to", rows),),
    )
