"""`filmroom config check`: reads the configuration as `serve` would and shows what comes out of it."""

from __future__ import annotations

from engine.cli import options, output
from engine.cli.options import Settings, json_option, with_settings


@options.group("config")
def command() -> None:
    """Look at the configuration."""


@command.command("check")
@with_settings("data")
@json_option
def check(settings: Settings, as_json: bool) -> None:
    """Read the configuration as serve would; show every key, its value and where that comes from."""
    config = settings.load()
    origins = settings.origins()
    if as_json:
        output.write_json(
            {
                "file": str(settings.path) if settings.path else None,
                "values": dict(config.describe()),
                "origins": origins,
            }
        )
        return
    rows = [(key, _shown(value), origins.get(key, "file")) for key, value in config.describe()]
    output.write_table(["key", "value", "from"], rows)
    output.complain(f"{settings.path or 'no configuration file'}: no mistakes found")


def _shown(value: object) -> object:
    return "(not set)" if value is None or value == () else value
