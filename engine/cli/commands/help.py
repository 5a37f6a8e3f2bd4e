"""`filmroom help [COMMAND]...`: the same as `filmroom COMMAND --help`."""

from __future__ import annotations

import click


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command: filmroom help hold set."""
    parent = ctx.parent
    assert parent is not None
    shown: click.Command = parent.command
    for word in words:
        group = shown
        found = group.get_command(parent, word) if isinstance(group, click.Group) else None
        if found is None:
            raise click.UsageError(f"there is no command {word!r}")
        parent, shown = click.Context(found, info_name=word, parent=parent), found
    click.echo(shown.get_help(parent))
