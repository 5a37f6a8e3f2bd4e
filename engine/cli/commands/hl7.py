"""`filmroom hl7`: explain and send HL7 messages; search the journal, apply a message again, try another profile."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import click

from engine.cli import exit_codes, hl7, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped
from engine.errors import EngineError
from engine.messaging import explanation

COLUMNS = (
    whole("number"),
    whole("time"),
    cut("source"),
    whole("kind"),
    cut("control_id", "control id"),
    cut("patient_id", "patient"),
    whole("result"),
    wrapped("reason"),
)


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """A time as seconds since 1970; without an offset it is of this machine's zone."""
    if not value:
        return 0.0
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time: write 2026-01-05, or 2026-01-05T14:03") from error


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{value!r} is not HOST:PORT", param_hint="--to")
    return host.strip("[]"), int(port)


_profile_option = click.option("--profile", metavar="NAME", default="", help="ihe-2.5.1, ihe-2.3.1, or a .toml file.")
_source_option = click.option(
    "--source",
    metavar="NAME",
    default="",
    help="As from this [[hl7_source]]; default: the one that MSH-3 and MSH-4 name.",
)
_files = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))


@options.group("hl7")
def command() -> None:
    """Explain and send HL7 version 2 messages, and look into the journal of those that were received."""


@command.command("explain", short_help="Show what a message says and how it would be answered.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@_source_option
@_profile_option
@with_settings()
def explain(file: Path, source: str, profile: str, settings: Settings) -> int:
    """Show what the messages of FILE say: fields, values for the archive, and the answer that a sender would get.

    FILE may be - for standard input. Nothing is stored or applied, and no server is needed.
    """
    data = sys.stdin.buffer.read() if str(file) == "-" else _read(file)
    is_taken = True
    for message in hl7.messages_of(data):
        facts = explanation.explain(settings.load(), message, source=source, profile=profile)
        is_taken = is_taken and not facts["faults"]
        if output.as_json():
            output.write_one(facts)
            continue
        _write_explanation(facts)
    return exit_codes.OK if is_taken else exit_codes.FAILED


def _write_explanation(facts: dict[str, object]) -> None:
    segments, values = facts.pop("segments"), facts.pop("values")
    facts["faults"] = [f"{each['code']} {each['location']} {each['reason']}" for each in facts["faults"]]  # type: ignore[attr-defined]
    output.write_facts(output.in_words(facts), title="message")
    for segment in segments:  # type: ignore[attr-defined]
        fields = {f"{segment['segment']}-{number}": text for number, text in segment["fields"].items()}
        output.write_facts(fields, title=segment["segment"])
    for value in values:  # type: ignore[attr-defined]
        name = value.pop("value")
        output.write_facts(hl7.flat({name: value}), title=name)


@command.command("send", short_help="Send messages and show their answers.")
@_files
@click.option("--to", "address", metavar="HOST:PORT", default="", help="The receiver; default: our own listener.")
@click.option("--tls", "secure", is_flag=True, help="With TLS, by the settings of [tls].")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=30.0, help="Seconds for each answer.")
@with_settings()
def send(files: tuple[Path, ...], address: str, secure: bool, timeout_s: float, settings: Settings) -> int:
    """Send the messages of files over MLLP, one after another on one connection.

    Ends with 1 if one of them is not accepted (AA or CA).
    """
    config = settings.load()
    messages = [message for file in files for message in hl7.messages_of(_read(file))]
    host, port, is_tls = (*_address(address), False) if address else hl7.listener_of(config)
    is_secure = secure or is_tls
    codes: list[str] = []

    def answers() -> Iterator[dict[str, object]]:
        for answer in hl7.send(config, messages, host=host, port=port, timeout_s=timeout_s, secure=is_secure):
            codes.append(answer["code"])
            yield answer

    output.write_list(answers(), (whole("control_id", "control id"), whole("code"), wrapped("text")))
    return exit_codes.OK if all(code in ("AA", "CA") for code in codes) else exit_codes.FAILED


@command.command("journal", short_help="List messages that were received.")
@click.option("--patient", metavar="ID", default="", help="The patient's identifier in the message (PID-3.1).")
@click.option("--kind", metavar="TYPE", default="", help="ADT, or ADT^A08.")
@click.option("--source", metavar="NAME", default="", help="Of this [[hl7_source]].")
@click.option(
    "--result",
    type=click.Choice(["waiting", "applied", "unchanged", "refused", "failed"]),
    help="What became of it.",
)
@click.option("--since", metavar="TIME", default="", callback=_seconds, help="Not before: 2026-01-05T14:03.")
@click.option("--until", metavar="TIME", default="", callback=_seconds, help="Before this time.")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", default=None, help="Stop after N messages.")
@with_settings()
def journal(
    patient: str,
    kind: str,
    source: str,
    result: str | None,
    since: float,
    until: float,
    limit: int | None,
    settings: Settings,
) -> None:
    """List the messages that were received, the newest first, and what became of each."""
    which = explanation.Filter(patient, kind, source, result or "", since, until)
    rows = hl7.journal(settings.load(), which)
    taken = (row for _, row in zip(range(limit), rows, strict=False)) if limit is not None else rows
    output.write_list(taken, COLUMNS, _row, empty="no message matches")


def _row(facts: Mapping[str, object]) -> Mapping[str, object]:
    """A message for people: its time on this machine's clock, to the second."""
    return {**facts, "time": str(facts["time"])[:19].replace("T", " ")}


@command.command("show", short_help="Show one message of the journal.")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--raw", is_flag=True, help="Only its bytes, as they came.")
@with_settings()
def show(number: int, raw: bool, settings: Settings) -> None:
    """Show a message of the journal: what it did, what was odd about it, and its segments."""
    facts, data = hl7.show(settings.load(), number)
    if raw:
        sys.stdout.buffer.write(data)
        return
    text = data.decode("utf-8", "replace").replace("\r", "\n").rstrip()
    if output.as_json():
        output.write_one({**facts, "message": text})
        return
    output.write_facts(output.in_words(facts))
    for line in text.splitlines():
        output.write_line(output.to_text(line))


@command.command("replay", short_help="Apply messages again.")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True, type=click.IntRange(min=1))
@with_settings()
def replay(numbers: tuple[int, ...], settings: Settings) -> int:
    """Have the running server apply messages of the journal again, with its current configuration.

    A message that was refused because of a wrong profile can be applied so. What is known already does not change.
    Ends with 1 if one of them is refused or fails.
    """
    config = settings.load()
    is_done = True
    for number in numbers:
        try:
            facts = hl7.replay(config, number)
            output.write_one(facts)
            is_done = is_done and facts["result"] in ("applied", "unchanged")
        except EngineError as error:
            output.complain(f"message {number}: {error}")
            is_done = False
    return exit_codes.OK if is_done else exit_codes.FAILED


@command.command("diff", short_help="Show what another profile would change.")
@click.argument("profile")
@click.option("--since", metavar="TIME", default="", callback=_seconds, help="Only messages from then on.")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", default=1000, help="The latest N messages.")
@with_settings()
def diff(profile: str, since: float, limit: int, settings: Settings) -> None:
    """Map the latest messages of the journal with PROFILE too, and show which values would be others.

    Nothing is applied. Each difference is a list of the value now and the value with PROFILE.
    """
    rows = hl7.differences(settings.load(), profile, explanation.Filter(since=since), limit)
    output.write_list(rows, (whole("number"), whole("kind"), wrapped("changed")), empty="nothing would change")


def _read(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    if not data.strip():
        raise click.UsageError(f"{file}: an empty file")
    return data
