"""Manual pages and shell completion: both are generated, so each command and option is in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from engine import __version__, cli
from engine.cli import exit_codes, manual
from tests.cli.commands import run

PAGES = dict(manual.pages(cli.group))
COMMAND = Path(sys.executable).parent / "filmroom"


def shown(page: str) -> str:
    """The text without its escapes."""
    text = re.sub(r"\\f[BIR]|\\&", "", page)
    return text.replace(r"\-", "-").replace(r"\(aq", "'").replace(r"\(ga", "`").replace(r"\e", "\\")


def test_every_command_has_a_page_and_is_in_the_first_one() -> None:
    assert set(PAGES) == {"filmroom.1", *(f"filmroom-{name}.1" for name in cli.COMMANDS)}
    for name in cli.COMMANDS:
        assert f"\nfilmroom-{name}(1)\n" in shown(PAGES["filmroom.1"])
    for code in exit_codes.MEANINGS:
        assert f"\n{code}\n" in shown(PAGES["filmroom.1"])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_and_every_command_of_a_group_is_in_its_page(name: str) -> None:
    page = shown(PAGES[f"filmroom-{name}.1"])
    assert page.startswith(f'.TH FILMROOM-{name.upper()} 1 "" "Filmroom {__version__}"')
    parent = click.Context(cli.group, info_name="filmroom")
    command = cli.group.get_command(parent, name)
    assert command is not None
    commands = list(command.commands.values()) if isinstance(command, click.Group) else []
    for each in (command, *commands):
        for parameter in each.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(f"\n{option}" in page or f", {option}" in page for option in parameter.opts), parameter.opts
    for each in commands:
        assert f"\n.SS filmroom {name} {each.name} " in page


def test_no_line_of_a_text_is_a_request() -> None:
    """Text that begins with a dot or an apostrophe would be one."""
    requests = {".TH", ".SH", ".SS", ".TP", ".PP", ".nf", ".fi"}
    for page in PAGES.values():
        assert {line.split()[0] for line in page.splitlines() if line[:1] in (".", "'")} <= requests
    assert manual._text(".nf") == r"\&.nf" and manual._text("'x") == r"\(aqx"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_pages_are_valid() -> None:
    for name, page in PAGES.items():
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), name


def test_the_pages_are_written_to_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "man", str(tmp_path / "share" / "man1")) == (exit_codes.OK, "", "")
    assert {path.name: path.read_text() for path in (tmp_path / "share" / "man1").iterdir()} == PAGES


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_parses(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, script, err = run(capsys, "completion", shell)
    assert (code, err) == (exit_codes.OK, "")
    assert f"_FILMROOM_COMPLETE={shell}_complete" in script and "%(" not in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_a_command_with_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    script = run(capsys, "completion", "bash")[1]
    asking = 'COMP_WORDS=(filmroom quar); COMP_CWORD=1; _filmroom_completion filmroom; echo "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{script}\n{asking}"], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["quarantine"], done.stderr
