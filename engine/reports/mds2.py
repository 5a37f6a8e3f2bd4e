"""Answers to MDS2 (ANSI/NEMA HN 1-2019), the form that hospitals ask makers for, by the sections of the form.

The questions are in our words, since the form is not ours to copy; sections and numbers lead to the form's own. Those
about screens, removable drives and bodies of devices are left out: this is software for a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from engine import __version__
from engine.reports import safeguards
from engine.reports.document import Document, Section, table
from engine.reports.evidence import Evidence, State
from engine.reports.facts import Facts

_ANSWERS: Final = {State.MET: "Yes", State.PARTLY: "See note", State.NOT_MET: "No", State.OPERATOR: "See note"}


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the form."""

    number: str
    text: str
    answer: Callable[[Facts], tuple[str, str]]
    """Yes, No, N/A or See note; and the note."""


def _yes(note: str = "") -> Callable[[Facts], tuple[str, str]]:
    return lambda facts: ("Yes", note)


def _no(note: str = "") -> Callable[[Facts], tuple[str, str]]:
    return lambda facts: ("No", note)


def _not_applicable(note: str = "Software for a server of the operator.") -> Callable[[Facts], tuple[str, str]]:
    return lambda facts: ("N/A", note)


def _see(note: str) -> Callable[[Facts], tuple[str, str]]:
    return lambda facts: ("See note", note)


def _judged(judge: Callable[[Facts], Evidence]) -> Callable[[Facts], tuple[str, str]]:
    def answer(facts: Facts) -> tuple[str, str]:
        evidence = judge(facts)
        return _ANSWERS[evidence.state], evidence.text

    return answer


def _ports(facts: Facts) -> tuple[str, str]:
    config = facts.config
    ports = [f"DICOM {config.host}:{config.dicom_port}"]
    ports += [f"DICOM over TLS {config.tls.host}:{config.tls.port}"] if config.tls.enabled else []
    ports += [f"HTTP {config.http.host}:{config.http.port}"] if config.http.enabled else []
    return "Yes", "; ".join(ports)


def _destinations(facts: Facts) -> tuple[str, str]:
    return "Yes", f"Only a [[peer]] is sent to: {len(facts.config.peers)} are configured."


def _providers(facts: Facts) -> tuple[str, str]:
    names = ", ".join(provider.name for provider in facts.config.oidc)
    return "Yes", f"OpenID Connect, [[oidc]]: {names or 'none is configured'}."


_SECTIONS: Final[tuple[tuple[str, tuple[Question, ...]], ...]] = (
    (
        "Management of personally identifiable information (MPII)",
        (
            Question("MPII-1", "Does it display, transmit, store or modify such information?", _yes()),
            Question("MPII-2", "Does it keep such information?", _yes("In its archive, until it is deleted.")),
            Question("MPII-2.1", "In volatile memory for a while?", _yes("While it receives and sends.")),
            Question("MPII-2.2", "On internal media?", _yes("In the folder of the archive.")),
            Question("MPII-2.3", "Until it is erased?", _yes("`filmroom delete`, retention rules; holds keep it.")),
            Question("MPII-2.4", "In a database?", _yes("LMDB, derived from the log.")),
            Question("MPII-2.7", "Over a loss of power?", _yes("What was acknowledged in durable mode.")),
            Question("MPII-3.2", "Does it print?", _no("It has no printing service.")),
            Question("MPII-3.3", "Does it read and write removable media?", _yes("Folders, zip, DICOMDIR.")),
            Question("MPII-3.5", "Does it transmit over a wired network?", _yes("DICOM and HTTP.")),
        ),
    ),
    (
        "Automatic log-off (ALOF)",
        (
            Question("ALOF-1", "Must users authenticate again after a time without activity?",
                     _judged(safeguards.sessions_end)),
        ),
    ),
    (
        "Audit controls (AUDT)",
        (
            Question("AUDT-1", "Does it make audit logs of its own?", _judged(safeguards.audit_kept)),
            Question("AUDT-2", "Which events are recorded?",
                     _see("Those in 7.3 of the conformance statement, with user, patient and study.")),
            Question("AUDT-3", "Can the operator choose the events?", _no("All of them, or none (audit.enabled).")),
            Question("AUDT-4.1", "Do they have date and time?", _yes("UTC, microseconds.")),
            Question("AUDT-4.1.1", "Is the time synchronised by NTP?",
                     _see("By the operating system; `filmroom doctor` warns when it is not.")),
            Question("AUDT-5.2", "Can they be sent by IHE ATNA?",
                     lambda facts: ("Yes" if facts.config.audit.collector else "No",
                                    "DICOM audit messages by syslog over TLS (audit.collector).")),
            Question("AUDT-6", "Can the operator review them?", _yes("`filmroom audit search`.")),
            Question("AUDT-7", "Are audit logs protected from modification?",
                     _judged(safeguards.audit_kept)),
        ),
    ),
    (
        "Authorization (AUTH)",
        (
            Question("AUTH-1", "Does it prevent access by others through log-in?",
                     _judged(safeguards.people_authenticated)),
            Question("AUTH-2", "Can users have different privileges by role?", _yes("[[role]]; built-in roles.")),
            Question("AUTH-3", "Can the operator have unrestricted privileges?",
                     _yes("The account of the operating system that owns the archive has them.")),
            Question("AUTH-4", "Is every request to an API authorized?", _judged(safeguards.roles_in_force)),
        ),
    ),
    (
        "Upgrades (CSUP)",
        (
            Question("CSUP-1", "Does it contain software that may need security updates?",
                     _yes("See the software bill of materials.")),
            Question("CSUP-2", "Does it contain an operating system?", _no("The operator's Linux.")),
            Question("CSUP-5", "Does it contain components of others, apart from an operating system?",
                     _yes("Versions and hashes are locked; the operator installs upgrades (upgrade.md).")),
            Question("CSUP-8", "Does it update itself?", _no("Nothing is fetched by a running server.")),
        ),
    ),
    (
        "De-identification (DIDT)",
        (
            Question("DIDT-1", "Can it de-identify?",
                     _see("[[coercion]] removes attributes of what is sent; it is no profile of PS3.15 E.")),
        ),
    ),
    (
        "Data backup and disaster recovery (DTBK)",
        (
            Question("DTBK-1", "Does it keep such information for long?", _yes()),
            Question("DTBK-4", "Can it make backups elsewhere?", _judged(safeguards.backups_taken)),
            Question("DTBK-5", "Is the configuration in a backup?",
                     _see("The settings that the archive needs are; keep filmroom.toml yourself.")),
            Question("DTBK-6", "Is a backup checked for integrity?", _judged(safeguards.backups_verified)),
        ),
    ),
    (
        "Emergency access (EMRG)",
        (Question("EMRG-1", "Is there access in an emergency?", _judged(safeguards.emergency_access)),),
    ),
    (
        "Integrity and authenticity of data (IGAU)",
        (
            Question("IGAU-1", "Are stored data checked?", _judged(safeguards.integrity_verified)),
            Question("IGAU-2", "Is there protection from and recovery of errors?",
                     _yes("Damage is healed from backups and replicas; no damaged byte is sent.")),
        ),
    ),
    (
        "Malware (MLDP)",
        (
            Question("MLDP-1", "Can executable software be run on it?",
                     _see("The server runs nothing that it receives; the machine is the operator's.")),
            Question("MLDP-2", "Does it support anti-malware software?",
                     _yes("Exclude the folder of the archive: a segment must not be moved or changed.")),
        ),
    ),
    (
        "Node authentication (NAUT)",
        (
            Question("NAUT-1", "Are sender and receiver authenticated?", _judged(safeguards.peers_authenticated)),
            Question("NAUT-2", "Can network access be limited?",
                     _yes("networks of a [[peer]], http.allow, accept_unknown_peers.")),
            Question("NAUT-3", "By certificates?", _judged(safeguards.peers_authenticated)),
        ),
    ),
    (
        "Connectivity (CONN)",
        (
            Question("CONN-1", "Does it have hardware for connections?", _not_applicable()),
            Question("CONN-2", "Is there a list of its ports and protocols?", _ports),
            Question("CONN-3", "Does it communicate with other systems of the operator?", _destinations),
            Question("CONN-4", "Does it communicate beyond the operator's network?",
                     _no("Only with peers and webhooks that the configuration names.")),
            Question("CONN-6", "Does it need the internet?", _no()),
            Question("CONN-7", "Does it support TLS?", _yes("PS3.15 B.12 and HTTPS; CONN-2 names the ports.")),
        ),
    ),
    (
        "Person authentication (PAUT)",
        (
            Question("PAUT-1", "Does each user have a name and prove it?", _judged(safeguards.people_authenticated)),
            Question("PAUT-2", "Can another service authenticate users?", _providers),
            Question("PAUT-3", "Are accounts protected from guessing?", _judged(safeguards.passwords_managed)),
            Question("PAUT-4", "Are accounts that exist at first documented?",
                     _not_applicable("There is none: the first user comes by a link.")),
            Question("PAUT-8", "Is there a second factor?", _yes("TOTP and passkeys.")),
        ),
    ),
    (
        "Physical locks (PLOK)",
        (Question("PLOK-1", "Is it software only?", _yes("The rest of this section does not apply.")),),
    ),
    (
        "Roadmap for components (RDMP)",
        (
            Question("RDMP-1", "Was a secure development process followed?",
                     _see("Threat model, fuzzing, fault injection, locked dependencies: threat-model.md.")),
            Question("RDMP-3", "Is there a page about support?", _yes("SECURITY.md.")),
        ),
    ),
    (
        "Software bill of materials (SBOM)",
        (
            Question("SBOM-1", "Is there one?", _yes("sbom.cdx.json beside this file.")),
            Question("SBOM-2", "Does it follow a standard?", _yes("CycloneDX 1.6.")),
        ),
    ),
    (
        "Hardening (SAHD)",
        (
            Question("SAHD-1", "Is it hardened by a standard?",
                     _see("tools/filmroom.service has a sandbox of systemd; the image runs without root.")),
            Question("SAHD-4", "Can the operator verify installed files?",
                     _yes("The bill of materials compares every file with its hash.")),
        ),
    ),
    (
        "Guidance (SGUD)",
        (
            Question("SGUD-1", "Is there documentation about security?", _yes("security.md, threat-model.md.")),
            Question("SGUD-2", "Can data be deleted for good?", _yes("`filmroom trash empty`, `filmroom compact`.")),
        ),
    ),
    (
        "Confidentiality of stored data (STCF)",
        (Question("STCF-1", "Are data encrypted at rest?", _judged(safeguards.encrypted_at_rest)),),
    ),
    (
        "Confidentiality of transmission (TXCF)",
        (
            Question("TXCF-2", "Are data encrypted before transmission?", _judged(safeguards.encrypted_on_the_way)),
            Question("TXCF-3", "Are destinations fixed?", _destinations),
            Question("TXCF-4", "Are connections limited to authenticated systems?",
                     _judged(safeguards.peers_authenticated)),
            Question("TXCF-5", "Are secure methods of DICOM supported?", _yes("PS3.15 B.12; HTTPS.")),
        ),
    ),
    (
        "Integrity of transmission (TXIG)",
        (Question("TXIG-1", "Is modification detected?", _judged(safeguards.encrypted_on_the_way)),),
    ),
    (
        "Remote service (RMOT)",
        (Question("RMOT-1", "Can the maker connect to it?", _no("There is no such access.")),),
    ),
)  # fmt: skip


def make(facts: Facts) -> Document:
    """The answers for this server."""
    columns = "number | question | answer | note"
    count = sum(len(questions) for _, questions in _SECTIONS)
    return Document(
        "mds2",
        "MDS2 (HN 1-2019): answers",
        (
            Section(
                "About",
                (
                    f"Filmroom {__version__}, an archive of medical images. It is software, not a device; a maker that"
                    " builds one from it answers the form for the device.",
                    "The questions are in our words: compare each number with your copy of the form. An answer is about"
                    " this server as it is configured now.",
                ),
            ),
            *(Section(title, tables=(table(columns, _rows(questions, facts)),)) for title, questions in _SECTIONS),
        ),
        {"answers": count},
    )


def _rows(questions: tuple[Question, ...], facts: Facts) -> Iterator[tuple[str, ...]]:
    for question in questions:
        yield (question.number, question.text, *question.answer(facts))
