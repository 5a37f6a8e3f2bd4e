"""filmroom security-report: verdicts follow the configuration and the archive, and every named test exists."""

from __future__ import annotations

import ast
import json
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine import Archive
from engine.accounts import users
from engine.accounts.accounts import Accounts
from engine.accounts.records import User
from engine.audit import verify
from engine.audit_settings import Audit
from engine.config import Config, Http, Peer, Tls
from engine.dicom import uids
from engine.exchange.settings import Rule
from engine.reports import conformance, cryptography, hipaa, mds2, safeguards
from engine.reports.document import Document, Section, Table, to_markdown, to_plain
from engine.reports.evidence import State
from engine.reports.facts import Facts, gather
from engine.reports.papers import papers
from engine.services import registry
from engine.web.route import DICOMWEB
from engine.web.routes import ROUTES

ROOT = Path(__file__).resolve().parents[2]
CLOSED: dict[str, Any] = {
    "host": "127.0.0.1",
    "accept_unknown_peers": False,
    "http": Http(enabled=False),
    "peers": (Peer(aet="CT1", tls="required", certificates=("san:ct1.hospital.example",)),),
}
BACKUP = {
    "destination": "/backup",
    "taken": "2026-11-29T00:00:00+00:00",
    "age_s": 86400,
    "verified": "2026-11-29T01:00:00+00:00",
    "verified_age_s": 82800,
}


def facts(backups: tuple[dict[str, Any], ...] = (), damage: int = 0, **settings: Any) -> Facts:
    return Facts(Config(**settings), datetime.now(UTC), backups=backups, damage=[{}] * damage)


def verdicts(seen: Facts) -> dict[str, str]:
    """Clause and title → verdict."""
    return {f"{each.clause} {each.title}": each.judge(seen).state.value for each in hipaa.REQUIREMENTS}


def answers(seen: Facts) -> dict[str, str]:
    rows = [row for section in mds2.make(seen).sections for table in section.tables for row in table.rows]
    return {number: answer for number, _, answer, _ in rows}


def test_answers_stand_under_the_numbers_of_the_form() -> None:
    """The numbers of HN 1-2019 in filled forms of makers; each here is one that was once another question's."""
    rows = [row for section in mds2.make(facts()).sections for table in section.tables for row in table.rows]
    assert len(rows) == len({row[0] for row in rows})
    subjects = {
        "MPII-2.3": "erased", "MPII-2.4": "database", "MPII-2.7": "power", "CSUP-8": "update itself",
        "CONN-2": "ports", "CONN-3": "systems of the operator", "CONN-4": "beyond", "CONN-7": "TLS",
        "PAUT-2": "another service", "PAUT-3": "guessing", "PAUT-4": "exist at first", "PLOK-1": "software only",
        "SAHD-4": "verify installed",
    }  # fmt: skip
    texts = {number: text for number, text, _, _ in rows}
    assert {number for number, subject in subjects.items() if subject not in texts[number]} == set()


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(
    "seen", [facts(), facts((BACKUP,), **CLOSED), facts(http=Http(login="required"))], ids=["open", "closed", "login"]
)
def test_every_test_that_a_verdict_names_exists(seen: Facts) -> None:
    named = {test for requirement in hipaa.REQUIREMENTS for test in requirement.judge(seen).tests}
    assert named
    for test in named:
        path, _, name = test.partition("::")
        assert name in names_in(path), test


def test_an_open_server_is_called_so() -> None:
    open_server = facts(host="0.0.0.0", accept_unknown_peers=True)
    seen = verdicts(open_server)
    for clause in (
        "164.312(a)(1) Access control",
        "164.312(d) Person or entity authentication: systems",
        "164.312(e)(1) Transmission security",
        "164.308(a)(7)(ii)(A) Data backup plan",
    ):
        assert seen[clause] == "not met", clause
    assert answers(open_server)["TXCF-4"] == "No"


def test_a_closed_server_meets_what_an_open_one_does_not() -> None:
    closed = facts((BACKUP,), **CLOSED)
    seen = verdicts(closed)
    for clause in (
        "164.312(a)(1) Access control",
        "164.312(e)(2)(ii) Encryption",
        "164.308(a)(7)(ii)(A) Data backup plan",
        "164.308(a)(7)(ii)(D) Testing and revision procedures",
    ):
        assert seen[clause] == "met", clause
    assert answers(closed)["DTBK-6"] == "Yes"


@pytest.mark.parametrize(
    ("changes", "clause", "verdict"),
    [
        ({"audit": Audit(enabled=False)}, "164.312(b) Audit controls", State.NOT_MET),
        ({"audit": Audit(keep_days=365)}, "164.316(b)(2)(i) Six years of retention", State.NOT_MET),
        ({"http": Http(host="0.0.0.0", plain=True)}, "164.312(e)(1) Transmission security", State.NOT_MET),
        ({"tls": Tls(profile="legacy")}, "164.312(e)(1) Transmission security", State.NOT_MET),
        ({"peers": (Peer(aet="CT1"),)}, "164.312(a)(1) Access control", State.PARTLY),
    ],
    ids=["audit-off", "audit-short", "plain", "legacy", "peers"],
)
def test_one_opening_is_one_verdict(changes: dict[str, Any], clause: str, verdict: State) -> None:
    assert verdicts(facts((BACKUP,), **CLOSED))[clause] == "met"
    assert verdicts(facts((BACKUP,), **{**CLOSED, **changes}))[clause] == verdict.value


def test_a_damaged_audit_log_is_no_audit() -> None:
    whole, damaged = verify.Report(events=5), verify.Report(events=5)
    damaged.add("changed", "chain 1", "record 3")
    for report, verdict in ((whole, "met"), (damaged, "not met")):
        seen = Facts(Config(), datetime.now(UTC), audit=report)
        assert verdicts(seen)["164.312(b) Audit controls"] == verdict


def test_an_encrypted_archive_says_what_is_open() -> None:
    status = {
        "is_encrypted": True,
        "encrypts_new_records": True,
        "plain_records": 7,
        "wrappings": [{"kind": "file"}],
        "data_keys": [{}],
    }
    evidence = safeguards.encrypted_at_rest(Facts(Config(), datetime.now(UTC), encryption=status))
    assert evidence.state is State.PARTLY
    assert "7 records are not encrypted" in evidence.text and "no second wrapping" in evidence.text
    for test in evidence.tests:
        path, _, name = test.partition("::")
        assert name in names_in(path), test
    assert safeguards.encrypted_at_rest(facts()).state is State.NOT_MET


def test_an_old_backup_is_none_and_damage_is_no_integrity() -> None:
    old = {**BACKUP, "age_s": 30 * 86400, "verified": None, "verified_age_s": None}
    seen = verdicts(facts((old,), damage=1))
    assert seen["164.308(a)(7)(ii)(A) Data backup plan"] == "not met"
    assert seen["164.308(a)(7)(ii)(D) Testing and revision procedures"] == "not met"
    assert seen["164.312(c)(1) Integrity"] == "not met"


def test_accounts_answer_for_people() -> None:
    people = "164.312(a)(2)(i) Unique user identification"
    anna = User(name="anna")
    assert verdicts(facts())[people] == "not met"
    assert verdicts(Facts(Config(), datetime.now(UTC), users=(anna,)))[people] == "met"
    assert verdicts(Facts(Config(http=Http(login="off")), datetime.now(UTC), users=(anna,)))[people] == "not met"


def test_the_statement_has_every_route_of_dicomweb_and_the_settings_in_force() -> None:
    text = to_markdown(conformance.make(facts(aet="OURS", tls=Tls(profile="legacy"))), "")
    for route in ROUTES:
        if route.path.startswith(DICOMWEB):
            assert f"| {route.method} | {route.path} |" in text
    assert "One application entity, OURS." in text
    assert "AES256-SHA" in text, "a suite of the profile legacy"


def test_the_statement_has_every_service_that_is_served_or_requested_and_the_rules() -> None:
    rule = Rule(name="done", after="study_complete", action="ian", to=("RIS",))
    text = to_markdown(conformance.make(facts(rules=(rule,), peers=(Peer(aet="RIS", host="ris", port=104),))), "")
    for service in registry.SERVICES:
        for uid in service.sop_class_uids:
            assert f"| {uid} |" in text, service.name
    requested = text.partition("On associations that we request")[2].partition("###")[0]
    for uid, requests in (
        (uids.ModalityPerformedProcedureStep, "N-CREATE, N-SET"),
        (uids.InstanceAvailabilityNotification, "N-CREATE"),
        (uids.UnifiedProcedureStepEvent, "N-EVENT-REPORT"),
        (uids.StorageCommitmentPushModel, "N-EVENT-REPORT"),
    ):
        assert f"| {uid} | {requests} |" in requested
    assert "| done | study_complete | ian | RIS |" in text.replace("\\", "")


def test_every_module_with_cryptography_is_in_the_inventory() -> None:
    modules = cryptography.modules_with_cryptography()
    assert "engine.tls" in modules
    lacking = [module for module in modules if not cryptography.use_of(module)]
    assert not lacking, "describe what they use it for in engine/reports/cryptography.py"
    unused = [use.purpose for use in cryptography.USES if not any(use in cryptography.use_of(name) for name in modules)]
    assert not unused, "nothing does this any more"


def test_hostile_names_start_no_mark_up() -> None:
    hostile = "a|b <script>*x*[y](z)`q\n# t\x1b[2J"
    document = Document("x", hostile, (Section(hostile, (hostile,), (Table(("a", "b"), ((hostile, "c"),)),)),))
    text = to_markdown(document, hostile)
    assert len(text.splitlines()) == len(to_markdown(Document("x", "t", (Section("t", ("t",), (Table(
        ("a", "b"), (("t", "c"),)),)),)), "t").splitlines())  # fmt: skip
    assert "\\<script>" in text and "<script>" not in text.replace("\\<script>", "")
    assert "\x1b" not in text
    assert json.dumps(to_plain(document))


def test_the_papers_of_a_new_server_need_no_archive(tmp_path: Path) -> None:
    made = papers(Config(data=tmp_path / "none"), "json")
    assert [paper.name for paper in made] == [
        "hipaa.json", "mds2.json", "conformance.json", "cryptography.json", "sbom.cdx.json",
    ]  # fmt: skip
    assert not (tmp_path / "none").exists()
    for paper in made:
        json.loads(paper.content)
    assert gather(Config(data=tmp_path / "none")).stats == {}


def test_the_threat_model_names_tests_that_exist() -> None:
    text = (ROOT / "engine/docs/threat-model.md").read_text()
    rows = [line.split("|")[4].strip().strip("`") for line in text.split("\n") if line[:5] in
            ("| S |", "| T |", "| R |", "| I |", "| D |", "| E |")]  # fmt: skip
    attacks = text.partition("\n## Attacks\n")[2].partition("\n## ")[0]
    shown = [re.findall(r"`(tests/[^`]+::[^`]+)`", line) for line in attacks.split("\n") if line.startswith("| ")]
    assert len(rows) > 20 and len(shown) > 40 and all(shown[1:])
    rows += [test for tests in shown for test in tests]
    for test in rows:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert not name or name in names_in(path), test


def test_users_and_the_audit_of_an_archive_are_evidence(tmp_path: Path) -> None:
    config = Config(data=tmp_path)
    Archive.open(tmp_path, create=True).close()
    assert gather(config).users == []
    accounts = Accounts.open(tmp_path, lambda: config)
    users.add(accounts.database, User(name="anna"))
    accounts.close()
    seen = gather(config)
    assert [user.name for user in seen.users] == ["anna"]
    assert seen.needs_login
    assert seen.stats["instances"] == 0
    assert not seen.encryption["is_encrypted"]
