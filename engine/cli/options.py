"""Options that several commands share, and how they become a `Config`.

An option that is also a configuration key goes by `key_option`: not given means "ask the environment, then the
file, then the default", which `engine.config` decides.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from engine import config as configuration
from engine import log
from engine.config import Config
from engine.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, also to a terminal.")

reason_option = click.option("--reason", metavar="TEXT", required=True, help="Why; recorded, with who you are.")

rate_option = click.option(
    "--rate", type=click.IntRange(min=0), default=0, metavar="BYTES", help="Bytes a second at most.  [no limit]"
)


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A time in ISO 8601; without a zone the machine's."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone()
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; write 2026-11-24T18:00 or 2026-11-24T18:00:00Z") from None


at_option = click.option("--at", callback=_moment, metavar="TIME", help="The newest state that is not after TIME.")


class Settings:
    """What the flags of one invocation say about the configuration."""

    def __init__(self, file: str | None, flags: dict[str, object]) -> None:
        self.path = configuration.find_file(file, os.environ)
        self.flags = flags

    def load(self) -> Config:
        """The configuration, with logging set up for a command: a person reads its results, not its events."""
        config = self.read()
        quiet: configuration.LogLevel = "warning" if config.log.level == "info" else config.log.level
        log.configure(msgspec.structs.replace(config.log, level=quiet))
        return config

    def read(self) -> Config:
        """The configuration, read anew. Raises ConfigError."""
        config = configuration.load(self.path, os.environ, self.flags)
        if config.attributes or config.coercion:
            from engine.dicom import coercion, extra

            try:
                extra.of(config.attributes or ())
                for rule in config.coercion:
                    coercion.values_of(rule.values, rule.remove)
            except ConfigError as error:
                raise ConfigError(f"{self.path}: {error}") from error
        return config

    def origins(self) -> dict[str, configuration.Origin]:
        """Where each key has its value from."""
        return configuration.origins(self.path, os.environ, self.flags)


_KEY_OPTIONS: dict[str, dict[str, Any]] = {
    "data": {"metavar": "DIR", "help": "Folder of the archive."},
    "aet": {"metavar": "TITLE", "help": "Our AE title."},
    "host": {"metavar": "ADDRESS", "help": "Address to listen on."},
    "dicom_port": {"type": int, "metavar": "PORT", "help": "Port for DICOM associations."},
    "http_port": {"type": int, "metavar": "PORT", "help": "Port for DICOMweb (reserved)."},
    "workers": {"type": int, "metavar": "N", "help": "Worker processes."},
    "durability": {
        "type": click.Choice(get_args(configuration.Durability)),
        "help": "Whether a Success waits for the disk.",
    },
    "log.format": {"type": click.Choice(get_args(configuration.LogFormat)), "help": "Form of the log."},
    "log.level": {"type": click.Choice(get_args(configuration.LogLevel)), "help": "Least severe level logged."},
    "log.wire_trace": {"metavar": "DIR", "help": "Trace PDUs and messages, a file an association, in here."},
}


def with_settings(*keys: str) -> Callable[[Function], Function]:
    """Adds --config and one option for each configuration key; the command gets `settings`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, config_file: str | None, **given: Any) -> Any:
            flags = {key: given.pop(_parameter(key)) for key in keys}
            return function(*arguments, settings=Settings(config_file, flags), **given)

        decorated: Any = call
        for key in reversed(keys):
            attributes = dict(_KEY_OPTIONS[key])
            attributes["help"] += f"  [{configuration.environment_variable(key)}]"
            flag = f"--{key.replace('.', '-').replace('_', '-')}"
            decorated = click.option(flag, _parameter(key), default=None, **attributes)(decorated)
        return click.option(  # type: ignore[no-any-return]
            "--config",
            "config_file",
            metavar="FILE",
            type=click.Path(dir_okay=False),
            help=f"Configuration (TOML); without it ./{configuration.DEFAULT_FILE}, if there.  [FILMROOM_CONFIG]",
        )(decorated)

    return decorate


def _parameter(key: str) -> str:
    return key.replace(".", "_")


def existing_paths(paths: tuple[str, ...]) -> list[Path]:
    """Paths from a command line; one that does not exist is a mistake in it."""
    for path in paths:
        if not os.path.lexists(path):
            raise click.UsageError(f"{log.escape(path)}: no such file or folder")
    return [Path(path) for path in paths]
