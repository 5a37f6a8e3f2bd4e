"""`filmroom encryption`: the keys of an encrypted archive; and `filmroom encrypt` for what was stored before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from engine.cli import options, output
from engine.cli.options import Settings, with_settings

KINDS = ("file", "systemd", "pkcs11", "vault")


@options.group("encryption")
def command() -> None:
    """Encrypt an archive at rest, and manage its keys.

    A provider's key, outside of the archive, wraps the archive's master key, and that wraps data keys, which encrypt
    the records. Without a provider's key the archive is lost: keep two wrappings, and try a restore with each.
    """


def _provider(function: options.Function) -> options.Function:
    function = click.argument("pairs", metavar="[SETTING=VALUE]...", nargs=-1)(function)
    function = click.option("--name", required=True, metavar="NAME", help="The name of this wrapping.")(function)
    return click.option(
        "--provider", "kind", type=click.Choice(KINDS), default="file", show_default=True, help="Who has the key."
    )(function)


@command.command("new-key", short_help="Make a key file.")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def new_key(path: Path) -> None:
    """Make a key file PATH for the providers file and systemd. Put it on another disk than the archive, and a copy on
    paper or in a safe."""
    from engine.archive.admin import encryption

    encryption.make_key_file(path)
    output.write_one({"path": str(path)})


@command.command("init", short_help="Make the keys of an archive.")
@_provider
@click.option("--data-key-days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Age of a data key.")
@with_settings()
def init(kind: str, name: str, pairs: tuple[str, ...], data_key_days: int, settings: Settings) -> None:
    """Make the keys of an archive, whose new records are encrypted from then on. Stop the server before.

    \b
    --provider file     path=FILE                            (made by `filmroom encryption new-key`)
    --provider systemd  name=CREDENTIAL [path=FILE]
    --provider pkcs11   module=LIBRARY token=LABEL label=KEY [pin_file=FILE]
    --provider vault    url=https://HOST:PORT key=NAME [mount=transit] [token_file=FILE] [ca_file=FILE]
    """
    from engine.archive.admin import encryption

    data = settings.load().data
    encryption.begin(data, name, kind, _settings(pairs), data_key_days=data_key_days)
    _show(encryption.status(data))


@command.command("status", short_help="Show wrappings, data keys, and how many records are encrypted.")
@with_settings()
def status(settings: Settings) -> None:
    """Show wrappings, data keys, and how many records of sealed segments each of them encrypts. Needs no key."""
    from engine.archive.admin import encryption

    _show(encryption.status(settings.load().data))


@command.command("add-wrapping", short_help="Wrap the master key by one more provider.")
@_provider
@with_settings()
def add_wrapping(kind: str, name: str, pairs: tuple[str, ...], settings: Settings) -> None:
    """Wrap the master key by one more provider; a wrapping of the same NAME is replaced. Settings as for init."""
    from engine.archive.admin import encryption

    data = settings.load().data
    encryption.open_keys(data).add_wrapping(name, kind, _settings(pairs))
    _show(encryption.status(data))


@command.command("remove-wrapping", short_help="Remove a wrapping, but never the last one.")
@click.argument("name")
@with_settings()
def remove_wrapping(name: str, settings: Settings) -> None:
    """Remove the wrapping NAME. Then run rotate-master too if its key is known to others."""
    from engine.archive.admin import encryption

    data = settings.load().data
    encryption.open_keys(data).remove_wrapping(name)
    _show(encryption.status(data))


@command.command("rotate-master", short_help="Make a new master key, and wrap everything anew.")
@with_settings()
def rotate_master(settings: Settings) -> None:
    """Make a new master key, wrapped by all providers anew; the server may be running. Records stay as they are."""
    from engine.archive.admin import encryption

    data = settings.load().data
    encryption.open_keys(data).rotate_master()
    _show(encryption.status(data))


@command.command("rotate-data-key", short_help="Make a new data key for new records.")
@with_settings()
def rotate_data_key(settings: Settings) -> None:
    """Make a new data key; the server may be running, and takes it with its next segment.

    `filmroom encrypt --old-keys` then encrypts what the old ones have encrypted.
    """
    from engine.archive.admin import encryption

    data = settings.load().data
    encryption.open_keys(data).rotate_data_key()
    _show(encryption.status(data))


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise click.UsageError(f"{pair!r} is no SETTING=VALUE")
        settings[name] = str(Path(value).absolute()) if name in ("path", "pin_file", "token_file", "ca_file") else value
    return settings


def _show(facts: Mapping[str, object]) -> None:
    wrappings, keys = facts.get("wrappings"), facts.get("data_keys")
    shown = {name: value for name, value in facts.items() if name not in ("wrappings", "data_keys")}
    if isinstance(wrappings, list) and isinstance(keys, list):
        shown["wrappings"] = ", ".join(f"{each['name']} ({each['kind']})" for each in wrappings)
        shown["data_keys"] = ", ".join(
            f"{each['id']} of {each['made'][:10]}: {each['records']} records" for each in keys
        )
    studies = facts.get("study_keys")
    if isinstance(studies, dict):
        shown["study_keys"] = (
            f"{studies['keys']} keys of {studies['records']} records; {studies['destroyed_keys']} destroyed,"
            f" which leaves {studies['shredded_records']} records that nobody can read"
        )
    else:
        shown.pop("study_keys", None)
    output.write_one(dict(facts), shown)
    if isinstance(wrappings, list) and len(wrappings) < 2:
        output.complain("there is one wrapping only: add a second one with `filmroom encryption add-wrapping`")
