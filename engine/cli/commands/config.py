"""`filmroom config`: check the configuration and explain the settings."""

from __future__ import annotations

import shutil
import textwrap

import click
import msgspec

from engine.access.networks import is_loopback
from engine.app.ports import FilmroomComposition
from engine.archive.questions import path_of
from engine.cli import options, output
from engine.cli.options import Settings, json_option, with_settings
from engine.config import Config, Http, reference
from engine.config.composition import LISTS
from engine.errors import ConfigError, QueryError

MADE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
"""Transfer syntaxes into which Filmroom converts instances when it sends them."""

WIDTH_MAX = 100
"""Of a paragraph; longer lines are hard to read."""


@options.group("config")
def command() -> None:
    """Check and explain the configuration."""


@command.command("check")
@with_settings("data")
@click.option("--changed", is_flag=True, help="Show only values that differ from their default.")
@json_option
def check(settings: Settings, changed: bool, as_json: bool) -> None:
    """Check the configuration; show every key, its value and where the value comes from."""
    reading = settings.reading()
    config = reading.config
    origins = settings.origins()
    defaults = {entry.key: entry.default for entry in reference.entries()}
    if as_json:
        output.write_json(
            {
                "file": str(reading.path) if reading.path else None,
                "looked_for": [str(place) for place in reading.places],
                "warnings": _warnings(config),
                "values": dict(config.describe()),
                "origins": origins,
            }
        )
        return
    rows = []
    for key, value in config.describe():
        table, _, name = key.partition(".")
        in_a_list = table in LISTS
        is_default = in_a_list and value == defaults.get(f"{table}.{name.rpartition('.')[2]}", key)
        owner = f"{table}.{name.rpartition('.')[0]}" if in_a_list and not is_default else key
        origin = origins.get(owner, "default" if is_default else "file")
        if not changed or origin != "default":
            rows.append((key, _shown(value), origin))
    output.write_table(["key", "value", "from"], rows)
    for warning in _warnings(config):
        output.complain(f"warning: {warning}")
    output.complain(f"{reading.source}: no mistakes found")


@command.command("example")
def example() -> None:
    """Write a commented filmroom.toml: every key, its unit, default and reason."""
    click.echo(reference.example(), nl=False)


@command.command("explain")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@json_option
def explain(keys: tuple[str, ...], as_json: bool) -> None:
    """Describe settings: one key, one table (limits, peer), or all."""
    found = [entry for entry in reference.entries() if not keys or any(_is_meant(entry.key, key) for key in keys)]
    for key in keys:
        if not any(_is_meant(entry.key, key) for entry in found):
            near = options.nearest(key, [entry.key for entry in reference.entries()])
            raise click.UsageError(f"there is no setting {key}{near}")
    if as_json:
        for entry in found:
            default = None if entry.default is msgspec.UNSET else entry.default
            output.write_json({"key": entry.key, "type": entry.type, "default": default, "about": entry.about})
        return
    width = min(WIDTH_MAX, shutil.get_terminal_size().columns) if output.on_terminal() else WIDTH_MAX
    for entry in found:
        default = "none, must be given" if entry.default is msgspec.UNSET else _as_written(entry.default)
        click.echo(f"{entry.key}\n    type     {entry.type}\n    default  {default}")
        click.echo(textwrap.fill(entry.about, width, initial_indent="    ", subsequent_indent="    ") + "\n")


def _as_written(value: object) -> str:
    """A default as it would be in the file."""
    return "(not set)" if value is None else reference.toml_of(value)


def _is_meant(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.") or key.rpartition(".")[2] == name


def _warnings(config: Config) -> list[str]:
    """Settings that are valid but probably mistakes."""
    warnings = []
    by_title: dict[str, str] = {}
    for peer in config.peers:
        other = by_title.setdefault(peer.aet.casefold(), peer.aet)
        if other != peer.aet:
            warnings.append(f"[[peer]] {other!r} and {peer.aet!r} differ by case only: they are two titles")
        if peer.aet == config.aet and "destination" in peer.may:
            warnings.append(f"[[peer]] {peer.aet!r} is our own AE title: a C-MOVE to it sends to ourselves")
        never = [uid for uid in peer.transfer_syntaxes or () if uid not in MADE]
        if never:
            warnings.append(f"[[peer]] {peer.aet!r}: nothing is converted into {', '.join(never)}, only sent as stored")
    try:
        FilmroomComposition().ports(lambda: config)
    except ConfigError as error:
        warnings.append(f"the server does not start: {error}")
    return warnings + _http_warnings(config.http) + _route_warnings(config)


def _route_warnings(config: Config) -> list[str]:
    warnings = []
    for route in config.routes:
        for aet in route.peers:
            peer = config.peer(aet)
            if peer is None or not peer.is_reachable:
                warnings.append(f"[[route]] {route.name}: there is no [[peer]] {aet} with an address in this file")
        try:
            for name in route.keys:
                path_of(name)
        except QueryError as error:
            warnings.append(f"[[route]] {route.name}: {error}")
    if config.routes and not config.http.enabled:
        warnings.append("[[route]]: nothing is sent on, since jobs need HTTP")
    return warnings


def _http_warnings(http: Http) -> list[str]:
    if not http.enabled:
        return []
    warnings = []
    if not is_loopback(http.host) and set(http.open_to) == set(Http().open_to) and http.login != "required":
        warnings.append(f"[http] listens on {http.host}, and only this machine may use it (http.allow)")
    if "*" in http.cors_origins:
        warnings.append("[http] cors_origins: every web page that an allowed client opens can read the archive")
    if http.key is not None and http.certificate is None:
        warnings.append("[http] has a key and no certificate: it is served without TLS")
    return warnings


def _shown(value: object) -> object:
    return "(not set)" if value is None or value == () else value
