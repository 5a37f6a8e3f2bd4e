"""`filmroom man DIR`: writes the manual pages."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import manual, options


@options.command("man")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Write a manual page for each command to DIR, which is created if it does not exist.

    man finds them in /usr/local/share/man/man1.
    """
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in manual.pages(root):
        (folder / name).write_text(text, encoding="utf-8")
