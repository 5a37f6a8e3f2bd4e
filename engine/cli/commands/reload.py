"""`filmroom reload`: the running server reads its configuration again."""

from __future__ import annotations

from engine.cli import backend, options, output
from engine.cli.options import Settings, json_option, with_settings


@options.command("reload")
@with_settings("data")
@json_option
def command(settings: Settings, as_json: bool) -> None:
    """Have the running server read peers and limits again (the same as SIGHUP).

    It looks for the configuration file anew, in the same places as at its start, and says which one it read.
    """
    answer = backend.control(settings.load(), "reload")
    if as_json:
        output.write_json(answer)
        return
    output.complain(f"peers and limits were read again: {answer['told']}")
    output.complain(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    for key in backend.needs_restart(answer):
        output.complain(f"{key} has changed too, which takes a restart")
    if answer["workers_late"]:
        late = ", ".join(map(str, answer["workers_late"]))
        output.complain(f"workers that do not answer get it before any new connection: {late}")
