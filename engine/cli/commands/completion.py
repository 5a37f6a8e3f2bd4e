"""`filmroom completion SHELL`: the script that makes a shell complete our commands and options."""

from __future__ import annotations

import click
from click import shell_completion

from engine.cli import options


@options.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Write the completion script of a shell.

    bash: filmroom completion bash > ~/.local/share/bash-completion/completions/filmroom;
    zsh: filmroom completion zsh > a file _filmroom in a folder of $fpath;
    fish: filmroom completion fish > ~/.config/fish/completions/filmroom.fish
    """
    completion = shell_completion.get_completion_class(shell)
    assert completion is not None
    root = ctx.find_root()
    # Not `source`: it starts the shell to ask for its version, which need not be installed here.
    script = completion(root.command, {}, "filmroom", "_FILMROOM_COMPLETE")
    click.echo(script.source_template % script.source_vars())
