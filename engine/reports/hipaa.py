"""HIPAA Security Rule, 45 CFR 164.308 to 164.316: every standard and specification, with evidence from this server.

A verdict is about the server as it is configured, not about what it could do. Where only people can comply, the verdict
is "operator", and the text names what of ours they can use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from engine.reports.document import Document, Section, table
from engine.reports.evidence import Evidence, Requirement, State, judged, operator
from engine.reports.facts import Facts
from engine.reports.safeguards import (
    access_ended,
    audit_kept,
    backups_taken,
    backups_verified,
    copies_elsewhere,
    emergency_access,
    encrypted_at_rest,
    encrypted_on_the_way,
    integrity_verified,
    log_in_monitored,
    passwords_managed,
    peers_authenticated,
    people_authenticated,
    review_possible,
    roles_in_force,
    sessions_end,
)

REQUIREMENTS = (
    Requirement(
        "164.308(a)(1)(ii)(A)",
        "Risk analysis",
        True,
        "O",
        operator("The threat model (threat-model.md) and `filmroom doctor --security` are material for it."),
    ),
    Requirement("164.308(a)(1)(ii)(B)", "Risk management", True, "O", lambda facts: _open_findings(facts)),
    Requirement("164.308(a)(1)(ii)(C)", "Sanction policy", True, "O", operator("A policy of the organisation.")),
    Requirement("164.308(a)(1)(ii)(D)", "Information system activity review", True, "E, O", review_possible),
    Requirement("164.308(a)(2)", "Assigned security responsibility", True, "O", operator("A named person.")),
    Requirement("164.308(a)(3)(ii)(A)", "Authorization and supervision of workforce", False, "E, O", roles_in_force),
    Requirement("164.308(a)(3)(ii)(B)", "Workforce clearance", False, "O", operator("A policy of the organisation.")),
    Requirement(
        "164.308(a)(3)(ii)(C)",
        "Termination procedures",
        False,
        "E, O",
        access_ended,
    ),
    Requirement(
        "164.308(a)(4)(ii)(A)", "Isolating clearinghouse functions", True, "O", operator("Not a clearinghouse.")
    ),
    Requirement("164.308(a)(4)(ii)(B)", "Access authorization", False, "E, O", roles_in_force),
    Requirement("164.308(a)(4)(ii)(C)", "Access establishment and modification", False, "E, O", roles_in_force),
    Requirement("164.308(a)(5)(ii)(A)", "Security reminders", False, "O", operator("Training of the workforce.")),
    Requirement(
        "164.308(a)(5)(ii)(B)",
        "Protection from malicious software",
        False,
        "O",
        operator(
            "The server executes nothing that it stores, and decodes pixels in processes of their own. Stored files may"
            " be harmful to those who open them elsewhere."
        ),
    ),
    Requirement("164.308(a)(5)(ii)(C)", "Log-in monitoring", False, "E, O", log_in_monitored),
    Requirement("164.308(a)(5)(ii)(D)", "Password management", False, "E, O", passwords_managed),
    Requirement("164.308(a)(6)(ii)", "Response and reporting of incidents", True, "E, O", review_possible),
    Requirement("164.308(a)(7)(ii)(A)", "Data backup plan", True, "E, O", backups_taken),
    Requirement("164.308(a)(7)(ii)(B)", "Disaster recovery plan", True, "E, O", copies_elsewhere),
    Requirement(
        "164.308(a)(7)(ii)(C)",
        "Emergency mode operation plan",
        True,
        "O",
        operator("A replica can be read at any time, and takes over with `filmroom promote`."),
    ),
    Requirement("164.308(a)(7)(ii)(D)", "Testing and revision procedures", False, "E, O", backups_verified),
    Requirement(
        "164.308(a)(7)(ii)(E)", "Applications and data criticality analysis", False, "O", operator("An analysis.")
    ),
    Requirement("164.308(a)(8)", "Evaluation", True, "O", lambda facts: _open_findings(facts)),
    Requirement("164.308(b)(1)", "Business associate contracts", True, "O", operator("Contracts.")),
    Requirement("164.310(a)(1)", "Facility access controls", True, "O", operator("Doors, keys, visitors.")),
    Requirement("164.310(b), (c)", "Workstation use and security", True, "O", operator("Screens and rooms.")),
    Requirement("164.310(d)(2)(i)", "Disposal of media", True, "E, O", encrypted_at_rest),
    Requirement("164.310(d)(2)(ii)", "Media re-use", True, "E, O", encrypted_at_rest),
    Requirement("164.310(d)(2)(iii)", "Accountability for media", False, "O", operator("Records of moves.")),
    Requirement("164.310(d)(2)(iv)", "Data backup before moving equipment", False, "E, O", backups_taken),
    Requirement("164.312(a)(1)", "Access control", True, "E", roles_in_force),
    Requirement("164.312(a)(2)(i)", "Unique user identification", True, "E", people_authenticated),
    Requirement(
        "164.312(a)(2)(ii)",
        "Emergency access procedure",
        True,
        "E",
        emergency_access,
    ),
    Requirement("164.312(a)(2)(iii)", "Automatic log-off", False, "E", sessions_end),
    Requirement("164.312(a)(2)(iv)", "Encryption and decryption", False, "E", encrypted_at_rest),
    Requirement("164.312(b)", "Audit controls", True, "E", audit_kept),
    Requirement("164.312(c)(1)", "Integrity", True, "E", integrity_verified),
    Requirement("164.312(c)(2)", "Mechanism to authenticate ePHI", False, "E", integrity_verified),
    Requirement("164.312(d)", "Person or entity authentication: people", True, "E", people_authenticated),
    Requirement("164.312(d)", "Person or entity authentication: systems", True, "E", peers_authenticated),
    Requirement("164.312(e)(1)", "Transmission security", True, "E", encrypted_on_the_way),
    Requirement("164.312(e)(2)(i)", "Integrity controls", False, "E", encrypted_on_the_way),
    Requirement("164.312(e)(2)(ii)", "Encryption", False, "E", encrypted_on_the_way),
    Requirement("164.314(a), (b)", "Organizational requirements", True, "O", operator("Contracts and plan documents.")),
    Requirement("164.316(a), (b)(1)", "Policies, procedures, documentation", True, "O", operator("Documents.")),
    Requirement("164.316(b)(2)(i)", "Six years of retention", True, "E, O", lambda facts: _six_years(facts)),
)
SIX_YEARS_DAYS = 6 * 365 + 1
"""At least one of six years is a leap year."""


def make(facts: Facts) -> Document:
    """The table, and the tests that each verdict names."""
    verdicts = [(requirement, requirement.judge(facts)) for requirement in REQUIREMENTS]
    counts = Counter(evidence.state.value for _, evidence in verdicts)
    summary = ", ".join(f"{counts[state.value]} {state.value}" for state in State)
    return Document(
        "hipaa",
        "HIPAA Security Rule: evidence",
        (
            Section(
                "Summary",
                (
                    f"Of {len(verdicts)} standards and specifications: {summary}.",
                    "R: required, A: addressable. E: the engine answers for it, O: the operator. A verdict is about"
                    " this server as it is configured now; it is no legal advice, and no certificate.",
                ),
            ),
            Section(
                "Standards", tables=(table("45 CFR | standard | R/A | who | verdict | evidence", _rows(verdicts)),)
            ),
            Section(
                "Tests",
                ("Each of these fails when what it shows is taken away.",),
                (table("test | 45 CFR", _tests(verdicts)),),
            ),
        ),
        {verdict.replace(" ", "_"): count for verdict, count in counts.items()},
    )


def _rows(verdicts: list[tuple[Requirement, Evidence]]) -> Iterator[tuple[str, ...]]:
    for requirement, evidence in verdicts:
        kind = "R" if requirement.is_required else "A"
        yield (
            requirement.clause,
            requirement.title,
            kind,
            requirement.responsible,
            evidence.state.value,
            evidence.text,
        )


def _tests(verdicts: list[tuple[Requirement, Evidence]]) -> Iterator[tuple[str, str]]:
    clauses: dict[str, list[str]] = {}
    for requirement, evidence in verdicts:
        for test in evidence.tests:
            clauses.setdefault(test, []).append(requirement.clause)
    for test, named in clauses.items():
        yield test, ", ".join(dict.fromkeys(named))


def _open_findings(facts: Facts) -> Evidence:
    """What the doctor says of this server's security."""
    problems = [f"{finding.subject}: {finding.what}" for finding in facts.problems]
    text = f"Open findings of `filmroom doctor --security`: {'; '.join(problems)}." if problems else (
        "`filmroom doctor --security` finds nothing open."
    )  # fmt: skip
    return Evidence(State.OPERATOR, text)


def _six_years(facts: Facts) -> Evidence:
    days = facts.config.audit.keep_days
    return judged(
        facts.config.audit.enabled and days >= SIX_YEARS_DAYS,
        f"Audit events are kept for {days} days (audit.keep_days). Policies are the operator's.",
        f"Audit events are kept for {days} days; six years are {SIX_YEARS_DAYS} (audit.keep_days)."
        if facts.config.audit.enabled
        else "No audit is kept (audit.enabled).",
    )
