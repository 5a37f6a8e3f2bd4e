"""Manual pages (man) of all commands, from the same help texts that `--help` shows.

filmroom.1              the commands, and what they have in common
filmroom-COMMAND.1      one for each; the commands of a group are sections of its page
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click

from engine import __version__
from engine.cli import exit_codes

FILES = (
    ("filmroom.toml", "The configuration: here, in the data folder, next to it, or in /etc/filmroom."),
    ("/etc/filmroom/filmroom.toml", "The configuration of a service."),
    ("/var/lib/filmroom", "The usual data folder of a service."),
)
ENVIRONMENT = (
    ("FILMROOM_CONFIG", "The configuration file."),
    ("FILMROOM_DATA", "The data folder."),
    ("FILMROOM_KEY", "Any other key of the configuration: `filmroom config explain` lists them."),
)


def pages(group: click.Group) -> Iterator[tuple[str, str]]:
    """File name and contents of each page."""
    context = click.Context(group, info_name="filmroom")
    children = list(_children(group, context))
    yield "filmroom.1", _overview(group, context, children)
    for child in children:
        yield f"filmroom-{child.info_name}.1", _page(child)


def _children(group: click.Group, context: click.Context) -> Iterator[click.Context]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield click.Context(command, info_name=name, parent=context)


def _overview(group: click.Group, context: click.Context, children: list[click.Context]) -> str:
    summary = (group.help or "").strip()
    lines = [_head("filmroom"), *_name("filmroom", summary), ".SH SYNOPSIS", r"\fBfilmroom\fR \fICOMMAND\fR ..."]
    lines += [".SH DESCRIPTION", *_paragraphs(summary), ".SH OPTIONS", *_options(context), ".SH COMMANDS"]
    for child in children:
        lines += [".TP", rf"\fB{_text(f'filmroom-{child.info_name}')}\fR(1)"]
        lines += [_text(child.command.get_short_help_str(limit=1000))]
    lines += [".SH ENVIRONMENT", *_definitions(ENVIRONMENT), ".SH FILES", *_definitions(FILES)]
    lines += [".SH EXIT STATUS", *_definitions((str(code), meaning) for code, meaning in exit_codes.MEANINGS.items())]
    return "\n".join(lines) + "\n"


def _page(context: click.Context) -> str:
    name = f"filmroom-{context.info_name}"
    lines = [_head(name), *_name(name, context.command.get_short_help_str(limit=1000))]
    lines += [".SH SYNOPSIS", _synopsis(context), ".SH DESCRIPTION", *_paragraphs(context.command.help or "")]
    lines += [".SH OPTIONS", *_options(context)]
    if isinstance(context.command, click.Group):
        lines.append(".SH COMMANDS")
        for child in _children(context.command, context):
            lines += [f".SS {_synopsis(child)}", *_paragraphs(child.command.help or ""), *_options(child)]
    lines += [".SH SEE ALSO", r"\fBfilmroom\fR(1)"]
    return "\n".join(lines) + "\n"


def _head(name: str) -> str:
    return f'.TH {_text(name.upper())} 1 "" "Filmroom {__version__}" "Filmroom"'


def _name(name: str, summary: str) -> list[str]:
    return [".SH NAME", rf"{_text(name)} \- {_text(summary.split(chr(10))[0].rstrip('.'))}"]


def _synopsis(context: click.Context) -> str:
    words = _text(" ".join(context.command.collect_usage_pieces(context)))
    return rf"\fB{_text(context.command_path)}\fR {words}"


def _options(context: click.Context) -> Iterator[str]:
    """Each option with its help; arguments are in the synopsis."""
    yield from _definitions(
        record
        for parameter in context.command.get_params(context)
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
    )


def _definitions(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in pairs:
        yield from (".TP", rf"\fB{_text(term)}\fR", _text(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; those that begin with \\b keep their lines, as in the help."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        is_literal = paragraph.lstrip().startswith("\b")
        if number:
            yield ".PP"
        if is_literal:
            yield ".nf"
        lines = paragraph.replace("\b", "").strip("\n").split("\n")
        yield from (_text(line if is_literal else line.strip()) for line in lines if line.strip())
        if is_literal:
            yield ".fi"


def _text(text: str) -> str:
    """As text in roff: no line of it is a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    escaped = " ".join(escaped.split("\n"))
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
