"""`filmroom reload`: make the running server read its configuration again."""

from __future__ import annotations

from engine.cli import backend, options, output
from engine.cli.options import Settings, json_option, with_settings


@options.command("reload")
@with_settings("data")
@json_option
def command(settings: Settings, as_json: bool) -> None:
    """Make the running server reload peers and limits (the same as SIGHUP).

    The server searches for the configuration file again, in the same places as at its start, and names the one it read.
    """
    answer = backend.control(settings.load(), "reload")
    if as_json:
        output.write_json(answer)
        return
    output.complain(f"peers and limits were reloaded: {answer['source']}")
    output.complain(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    for key in backend.needs_restart(answer):
        output.complain(f"{key} has changed too; restart the server to apply it")
    if answer["workers_late"]:
        late = ", ".join(map(str, answer["workers_late"]))
        output.complain(f"these workers do not answer; they get the configuration before any new connection: {late}")
