"""JSON of every command keeps one convention: an object a line, names, lists, numbers, times with an offset, errors.

A command that is new has to be entered here: the test goes over all that there are.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from engine import cli
from engine.cli import backend, exchange, exit_codes, worklist
from engine.config import Config
from engine.dicom import tags
from engine.orders.workitems.store import Workitems
from tests import samples
from tests.cli.commands import run
from tests.orders.workitem_sets import scheduled

ROOT = samples.ROOT
WHY = ("--reason", "a reason")

RULE = '[[retention]]\nname = "old"\nolder_than_days = 1\nage_by = "study-date"\n[[peer]]\naet = "P"\n'

ONE, LIST = "one", "list"

COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "import": (ONE, ("again",)),
    "find": (LIST, ("-l", "series", "-r", "ImageType", "-r", "SeriesNumber", "-r", "RequestAttributesSequence")),
    "export": (ONE, ("out", "--study", f"{ROOT}.1")),
    "hold set": (ONE, ("--study", f"{ROOT}.1", *WHY)),
    "hold list": (LIST, ()),
    "hold release": (ONE, ("--study", f"{ROOT}.2", *WHY)),
    "worklist add": (ONE, ("PatientID=W1", "PatientName=Doe^Jane", "AccessionNumber=W2", "Modality=CT")),
    "worklist list": (LIST, ()),
    "worklist import": (ONE, ("entry.wl",)),
    "worklist cancel": (ONE, ("W1",)),
    "worklist why": (ONE, ("CT1",)),
    "workitem list": (LIST, ()),
    "workitem show": (ONE, ("1.2.3",)),
    "workitem cancel": (ONE, ("1.2.3",)),
    "patient merge": (ONE, ("P2", "P1", *WHY)),
    "patient split": (ONE, ("P9", "--study", f"{ROOT}.3", *WHY)),
    "study move": (ONE, (f"{ROOT}.3", "P1", *WHY)),
    "correct": (ONE, ("--study", f"{ROOT}.2", "StudyDescription=x", *WHY)),
    "corrections": (LIST, ("--values",)),
    "undo": (ONE, ("NUMBER", *WHY)),
    "conflicts": (LIST, ("--values",)),
    "retention list": (LIST, ()),
    "retention dry-run": (LIST, ()),
    "retention apply": (LIST, ("--yes",)),
    "study state": (LIST, (f"{ROOT}.1",)),
    "patient merges": (LIST, ()),
    "delete": (ONE, ("--study", f"{ROOT}.2", "--yes", *WHY)),
    "compact": (ONE, ("--all",)),
    "stats": (ONE, ()),
    "echo": (ONE, ("P@localhost:104",)),
    "send": (ONE, ("P@localhost:104", "again")),
    "pull": (ONE, ("P@localhost:104", "--since", "20200101")),
    "check": (ONE, ()),
    "rebuild-index": (ONE, ()),
    "reindex": (ONE, ()),
    "reindex status": (ONE, ()),
    "security-report": (LIST, ("--output", "papers")),
    "backup": (ONE, ("safe",)),
    "verify-backup": (ONE, ("safe",)),
    "restore": (ONE, ("safe", "--data", "restored")),
    "replicate": (LIST, ("copy", "--once")),
    "promote": (ONE, ("--data", "copy")),
    "scrub status": (ONE, ()),
    "scrub run": (ONE, ()),
    "scrub findings": (LIST, ()),
    "quarantine list": (LIST, ()),
    "quarantine diff": (LIST, ("VERSION",)),
    "quarantine export": (ONE, ("VERSION", "out")),
    "quarantine readmit": (ONE, ("VERSION",)),
    "quarantine drop": (ONE, ("VERSION",)),
    "commitments list": (LIST, ()),
    "commitments retry": (ONE, ()),
    "webhooks list": (LIST, ()),
    "viewer status": (ONE, ()),
    "viewer remove": (ONE, ()),
    "bench list": (LIST, ()),
    "cert authority": (ONE, ("another",)),
    "cert issue": (ONE, ("tls", "ct1", "localhost")),
    "cert renew-crl": (ONE, ("tls",)),
    "cert revoke": (ONE, ("tls", "tls/pacs.pem")),
    "cert show": (LIST, ("tls/ca.pem", "tls/pacs.pem")),
    "access report": (LIST, ()),
    "trash list": (LIST, ()),
    "audit search": (LIST, ("--limit", "3")),
    "audit tail": (LIST, ("--lines", "3")),
    "trash empty": (ONE, ("--all", "--yes", *WHY)),
    "trash expire": (ONE, ("--yes",)),
    "size": (LIST, ("--studies-per-day", "600")),
    "doctor": (LIST, ("--quick",)),
    "config check": (ONE, ()),
    "config explain": (LIST, ()),
    "version": (ONE, ()),
    "audit verify": (LIST, ()),
    "access explain": (LIST, ("ann", f"{ROOT}.1")),
    "user add": (ONE, ("bob", "--role", "radiologist")),
    "user disable": (ONE, ("ann",)),
    "user enable": (ONE, ("ann",)),
    "user link": (ONE, ("ann",)),
    "user list": (LIST, ()),
    "user password": (ONE, ("ann", "--password-file", "secret")),
    "user remove": (ONE, ("ann",)),
    "user reset-second-factor": (ONE, ("ann",)),
    "user revoke": (ONE, ("ann",)),
    "user roles": (ONE, ("ann", "referrer")),
    "user sessions": (LIST, ()),
    "key add": (ONE, ("ann", "script")),
    "key list": (LIST, ()),
    "share add": (ONE, ("--study", f"{ROOT}.1")),
    "share list": (LIST, ()),
    "grant add": (ONE, ("ann", "--study", f"{ROOT}.1", *WHY)),
    "grant list": (LIST, ()),
    "encryption new-key": (ONE, ("another-key",)),
    "encryption init": (ONE, ("path=key", "--name", "first")),
    "encryption status": (ONE, ()),
}
"""What each says, and with what arguments."""

MAYBE_EMPTY = (
    "scrub findings", "commitments list", "webhooks list", "trash list", "user sessions", "patient merges",
)  # fmt: skip
"""Lists of what the archive of this test has none of."""

ELSEWHERE = {
    "bench clean": "needs a server; see tests/perf/test_bench.py",
    "bench report": "needs a result; see test_bench",
    "bench run": "needs a server; see test_bench",
    "bench schema": "is a JSON Schema, which has names of its own",
    "bench show": "writes TOML",
    "simulate clean": "needs a server; see tests/system/test_hospital_day.py",
    "simulate hospital": "needs a server; see test_hospital_day",
    "serve": "has no result",
    "changes": "needs a server that has run; see tests/archive/feed",
    "config example": "writes TOML",
    "cluster init": "needs PostgreSQL; see tests/cli/test_cluster.py",
    "cluster join": "needs PostgreSQL; see test_cluster",
    "cluster leave": "needs PostgreSQL; see test_cluster",
    "cluster remove": "needs PostgreSQL; see test_cluster",
    "cluster status": "needs PostgreSQL; see test_cluster",
    "object-store check": "needs a bucket; see tests/cli/test_object_store.py",
    "object-store fetch": "needs a bucket; see test_object_store",
    "object-store publish": "needs a bucket; see test_object_store",
    "object-store status": "needs a bucket; see test_object_store",
    "tier plan": "needs a bucket; see test_object_store",
    "tier apply": "needs a bucket; see test_object_store",
    "hl7 explain": "needs a message; see tests/cli/test_hl7.py",
    "hl7 send": "needs a receiver; see tests/system/test_hl7.py",
    "hl7 journal": "needs messages; see tests/system/test_hl7.py",
    "hl7 show": "needs messages; see tests/system/test_hl7.py",
    "hl7 replay": "needs a server; see tests/system/test_hl7.py",
    "hl7 diff": "needs messages; see tests/system/test_hl7.py",
    "patient unmerge": "needs a merge of a message; see tests/orders/test_unmerging.py",
    "webhooks resume": "needs one that was delivered to; see tests/web/test_webhooks.py",
    "rules list": "needs receivers; see tests/exchange/test_rules.py",
    "rules resend": "needs a receiver that was set aside; see test_rules",
    "rules resume": "needs a receiver that waits; see test_rules",
    "rules try": "needs a feed; see test_rules",
    "fhir push": "needs a server that takes it; see tests/exchange/test_fhir_push.py",
    "help": "writes for people",
    "audit export": "its lines are the evidence as it is: hash and event; see tests/system/test_audit.py",
    "trash restore": "needs something in the trash; see tests/archive/lifecycle/test_trash.py",
    "viewer install": "needs npm; see tests/viewer/test_viewer_command.py",
    "completion": "writes for shells; see test_manual",
    "man": "writes for people; see test_manual",
    "reload": "needs a server; its error is looked at below",
    "commitments drop": "needs a request; see test_commitments",
    "grant revoke": "needs an id; see test_accounts",
    "key revoke": "needs an id; see test_accounts",
    "share revoke": "needs an id; see test_accounts",
    "encrypt": "needs keys; see test_encryption",
    **{
        f"encryption {name}": "needs keys; see test_encryption"
        for name in ("add-wrapping", "remove-wrapping", "rotate-master", "rotate-data-key")
    },
    "scrub acknowledge": "needs damage; see test_scrub_quarantine",
}


def leaves(group: click.Group = cli.group, prefix: str = "") -> Iterator[str]:
    """The name of every command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, f"{prefix}{name} ")
        if not isinstance(found, click.Group) or found.invoke_without_command:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs the archive leaves a copy of it."""
    return tmp_path_factory.mktemp("made") / "archive"


@pytest.fixture
def archive(tmp_path: Path, made_once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With something of everything: a version, a hold, a correction, a conflict, a backup, a replica, a rule."""
    if not made_once.exists():
        make(tmp_path, capsys)
        shutil.copytree(tmp_path, made_once)
    else:
        shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)


def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "filmroom.toml").write_text(RULE)
    (tmp_path / "secret").write_text("a password that is long enough")
    (tmp_path / "entry.wl").write_bytes(b"\x10\0\x20\0LO\2\0W3")
    samples.write(tmp_path / "files", samples.instance(1, 1, 1), samples.instance(2, 1, 1))
    samples.write(tmp_path / "roe", samples.instance(3, 1, 1, patient_name="Roe^Richard", patient_id="P2"))
    samples.write(tmp_path / "again", samples.instance(1, 1, 1, pixels=bytes(512), patient_name="Doe^Janet"))
    samples.write(tmp_path / "more", samples.instance(1, 1, 9, patient_name="Doe^Janet"))
    for arguments in (
        ["import", "files", "roe"],
        ["import", "again"],
        ["import", "more"],
        ["hold", "set", "--study", f"{ROOT}.2", *WHY],
        ["correct", "--patient", "P2", "PatientSex=M", *WHY],
        ["scrub", "run"],
        ["backup", "safe"],
        ["replicate", "copy", "--once"],
        ["hold", "release", "--study", f"{ROOT}.2", *WHY],
        ["hold", "set", "--study", f"{ROOT}.3", *WHY],
        ["cert", "authority", "tls"],
        ["cert", "issue", "tls", "pacs", "localhost"],
        ["encryption", "new-key", "key"],
        ["user", "add", "ann", "--role", "radiologist"],
        ["key", "add", "ann", "first"],
        ["worklist", "add", "PatientID=W1", "AccessionNumber=W1", "ScheduledStationAETitle=CT1"],
        ["share", "add", "--study", f"{ROOT}.1"],
        ["grant", "add", "ann", "--study", f"{ROOT}.1", *WHY],
    ):
        assert run(capsys, *arguments)[0] == exit_codes.OK, arguments
    with worklist.opened(Config()) as orders:
        Workitems(orders).create("1.2.3", scheduled(), "RIS")


def filled_in(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> list[str]:
    """With the ids that the archive gave."""
    number = json.loads(run(capsys, "corrections", "--json")[1].splitlines()[0])["number"]
    version = json.loads(run(capsys, "quarantine", "list", "--json")[1].splitlines()[0])["id"]
    return [{"NUMBER": number, "VERSION": version}.get(argument, argument) for argument in arguments]


def walk(value: object, where: str = "") -> Iterator[tuple[str, str, object]]:
    """Every name and value, however deep, and where it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield where, name, inner
            yield from walk(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, where)


# What is keyed by what people chose: settings by their dotted key.
FREE_NAMES = re.compile(r"\.(values|origins)$")
COUNTED = re.compile(r"(^|_)(bytes|instances|studies|segments|records|count|attempts|offset|lag_s|seconds|ms|port)$")


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_the_convention(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FILMROOM_HTTP_VIEWER_DIRECTORY", "no-viewer")
    monkeypatch.setattr(backend, "echo", lambda peer, config: {"association_ms": 1.5, "echo_ms": 0.5})
    monkeypatch.setattr(backend, "send", lambda *rest: SimpleNamespace(sent=1, failed=[("x.dcm", "status A700")]))
    monkeypatch.setattr(
        exchange, "pull", lambda config, peer, wish, report, *rest, **options: report.fail("1.2", "why")
    )
    kind, arguments = COMMANDS[name]
    code, out, err = run(capsys, *name.split(), *filled_in(capsys, arguments), "--json")
    assert code in (exit_codes.OK, exit_codes.FAILED), err
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    assert len(lines) == 1 if kind == ONE else lines or name in MAYBE_EMPTY
    for line in lines:
        for where, key, value in walk(line):
            assert FREE_NAMES.search(where) or re.fullmatch(r"[a-z][a-z0-9_]*", key) or tags.tag_of(key), (where, key)
            assert not key.endswith("_ns"), "nanoseconds are no time for people"
            if COUNTED.search(key) and not FREE_NAMES.search(where):
                assert value is None or isinstance(value, int | float), (where, key, value)
            if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
                assert datetime.fromisoformat(value).tzinfo is not None, (where, key, value)
            tag = tags.tag_of(key) if key[:1].isupper() else None
            if tag in tags.SEVERAL_VALUED or tag in tags.OTHERS_SEVERAL_VALUED:
                assert isinstance(value, list), (where, key, value)


def test_every_command_is_looked_at() -> None:
    assert set(leaves()) - set(ELSEWHERE) == set(COMMANDS)


@pytest.mark.parametrize("name", [*COMMANDS, "reload", "commitments drop"])
def test_what_fails_is_one_object_on_standard_error(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = run(capsys, *name.split(), "--json", "--no-such-option")
    said: dict[str, Any] = json.loads(err)
    assert (code, out, said["exit_code"]) == (exit_codes.USAGE, "", exit_codes.USAGE)
    assert "--no-such-option" in said["error"]


def test_without_a_server_reload_fails_in_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "reload", "--data", str(tmp_path), "--json")
    assert (code, out, json.loads(err)["exit_code"]) == (exit_codes.UNAVAILABLE, "", exit_codes.UNAVAILABLE)
    assert "no server is running" in json.loads(err)["error"]
