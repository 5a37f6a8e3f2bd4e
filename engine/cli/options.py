"""Options that several commands share, and how they become a `Config`.

Some options are also configuration keys (`with_settings`). Without such an option the value comes from the environment,
then from the file, then from the default; `engine.config` decides.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, time
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from engine import config as configuration
from engine import log
from engine.cli import output, units
from engine.config import Config
from engine.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])


reason_option = click.option("--reason", metavar="TEXT", required=True, help="Why; recorded with your user name.")


class _Amount(click.ParamType[int]):
    """A size or a rate with a suffix, in bytes."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return self.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = _Amount("size", units.parse_bytes)
RATE = _Amount("rate", units.parse_rate)

rate_option = click.option(
    "--rate", type=RATE, default=0, metavar="SIZE", help="Maximum rate, such as 10MB or 64MiB/s.  [no limit]"
)


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A time in ISO 8601, by default in the machine's zone. A date means the end of that day: its newest state."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if re.fullmatch(r"\d{8}|\d{4}-\d\d-\d\d|\d{4}-?W\d\d(-?\d)?", value):
            moment = datetime.combine(moment, time.max)
        return moment.astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time; write 2026-11-24, 2026-11-24T18:00 or 2026-11-24T18:00:00Z"
        ) from None


at_option = click.option(
    "--at", callback=_moment, metavar="TIME", help="Use the newest state up to TIME (a date: up to its end)."
)
lineage_option = click.option(
    "--lineage", metavar="NAME", help="Use this history; the start of its name is enough. Needed if there are several."
)


# What every command takes ------------------------------------------------------------------------


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> object:
    """Stores an option for the command, wherever it is in the command line; the last one counts."""
    if value not in (None, False):
        ctx.meta[_META[str(param.name)]] = value
    return value


_META = {"data": "filmroom.data", "config_file": "filmroom.config", "as_json": output.JSON_FLAG}


def _common_options() -> list[click.Option]:
    data, config, json = _KEY_OPTIONS["data"], configuration.DEFAULT_FILE, "Write JSON."
    return [
        click.Option(
            ["--data", "data"],
            metavar=data["metavar"],
            help=f"{data['help']}  [{configuration.environment_variable('data')}]",
            callback=_remember,
            expose_value=False,
        ),
        click.Option(
            ["--config", "config_file"],
            metavar="FILE",
            type=click.Path(dir_okay=False),
            help=f"Configuration file (TOML).  [first {config} here, in DIR, next to it or in /etc/filmroom]  "
            "[FILMROOM_CONFIG]",
            callback=_remember,
            expose_value=False,
        ),
        click.Option(["--json", "as_json"], is_flag=True, help=json, callback=_remember, expose_value=False),
    ]


def _with_common(given: Sequence[click.Parameter] | None) -> list[click.Parameter]:
    parameters = list(given or ())
    names = {parameter.name for parameter in parameters}
    return [*parameters, *(option for option in _common_options() if option.name not in names)]


class Command(click.Command):
    """A command that takes --data, --config and --json, as its groups do."""

    def __init__(self, name: str | None, params: list[click.Parameter] | None = None, **attributes: Any) -> None:
        super().__init__(name, params=_with_common(params), **attributes)


class Group(click.Group):
    """A group that takes them too, lists its commands with nothing cut off, and says which one was meant."""

    command_class = Command

    def __init__(self, name: str | None = None, params: list[click.Parameter] | None = None, **attributes: Any) -> None:
        super().__init__(name, params=_with_common(params), **attributes)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(limit=1000)) for name, found in commands if found])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"No such command {log.escape(name)!r}{nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """A command by its name; `short_help` is the line in the list of its group."""
    return click.command(name, cls=Command, **attributes)


def group(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Group]:
    """A command that has commands of its own."""
    return click.group(name, cls=Group, **attributes)


def confirmed(question: str) -> bool:
    """Whether a person at the terminal says yes. Raises UsageError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise click.UsageError("this deletes: confirm it with --yes, since there is no terminal to ask on")
    return click.confirm(log.escape(question), err=True)


def nearest(word: str, words: Iterable[str]) -> str:
    """ "; did you mean X?" where one of the words is near."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.", callback=_remember)


class Settings:
    """The configuration of one invocation: file, environment and flags."""

    def __init__(self, file: str | None, flags: dict[str, object]) -> None:
        self._file = file
        self.flags = flags

    @property
    def path(self) -> Path | None:
        """The configuration file. Searched for each time, since a reload may find a new one."""
        return configuration.find_file(self._file, os.environ, self._data)

    @property
    def _data(self) -> str | None:
        data = self.flags.get("data")
        return str(data) if data else None

    def reading(self) -> configuration.Reading:
        """Reads the configuration, and says where from. Raises ConfigError."""
        places = configuration.places(self._file, os.environ, self._data)
        return configuration.Reading(self.read(), self.path, places, self.origins())

    def load(self) -> Config:
        """Reads the configuration and quiets the log for a command, whose user reads results, not events."""
        config = self.read()
        quiet: configuration.LogLevel = "warning" if config.log.level == "info" else config.log.level
        log.configure(msgspec.structs.replace(config.log, level=quiet))
        return config

    def read(self) -> Config:
        """Reads the configuration. Raises ConfigError."""
        path = self.path
        config = configuration.load(path, os.environ, self.flags)
        if config.attributes or config.coercion:
            from engine.dicom import coercion, extra

            try:
                extra.of(config.attributes or ())
                for rule in config.coercion:
                    coercion.values_of(rule.values, rule.remove)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
        return config

    def origins(self) -> dict[str, configuration.Origin]:
        """Where the value of each key comes from."""
        return configuration.origins(self.path, os.environ, self.flags)


_KEY_OPTIONS: dict[str, dict[str, Any]] = {
    "data": {"metavar": "DIR", "help": "Folder of the archive."},
    "aet": {"metavar": "TITLE", "help": "Our AE title."},
    "host": {"metavar": "ADDRESS", "help": "Address to listen on."},
    "dicom_port": {"type": int, "metavar": "PORT", "help": "Port for DICOM associations."},
    "http.port": {"type": int, "metavar": "PORT", "help": "Port for HTTP."},
    "workers": {"type": int, "metavar": "N", "help": "Worker processes."},
    "durability": {
        "type": click.Choice(get_args(configuration.Durability)),
        "help": "Whether Success waits for the disk.",
    },
    "log.format": {"type": click.Choice(get_args(configuration.LogFormat)), "help": "Form of the log."},
    "log.level": {"type": click.Choice(get_args(configuration.LogLevel)), "help": "Lowest level that is logged."},
    "log.wire_trace": {"metavar": "DIR", "help": "Write a trace of each association to a file in DIR."},
}


def with_settings(*keys: str) -> Callable[[Function], Function]:
    """Passes `settings` to the command and adds an option for each configuration key."""
    keys = tuple(key for key in keys if key != "data")

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **given: Any) -> Any:
            meta = click.get_current_context().meta
            flags = {key: given.pop(_parameter(key)) for key in keys}
            flags["data"] = meta.get(_META["data"])
            return function(*arguments, settings=Settings(meta.get(_META["config_file"]), flags), **given)

        decorated: Any = call
        for key in reversed(keys):
            attributes = dict(_KEY_OPTIONS[key])
            attributes["help"] += f"  [{configuration.environment_variable(key)}]"
            flag = f"--{key.replace('.', '-').replace('_', '-')}"
            decorated = click.option(flag, _parameter(key), default=None, **attributes)(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def _parameter(key: str) -> str:
    return key.replace(".", "_")


def existing_paths(paths: tuple[str, ...]) -> list[Path]:
    """The paths of a command line. Raises UsageError for those that do not exist."""
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        raise click.UsageError(f"{log.escape(', '.join(missing))}: no such file or folder")
    return [Path(path) for path in paths]
