"""What installs the engine: a lock that is whole and names no index, scripts that parse, a consistent pyproject."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine import cli

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("tools/filmroom", "tools/check", "tools/lock", ".ci/run")


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def locked(lock: str = "tools/requirements.lock") -> dict[str, str]:
    """Package → its block in the lock, without the comments."""
    blocks = re.split(r"\n(?=[\w.-]+==)", (ROOT / lock).read_text())[1:]
    return {name_of(block): re.sub(r"\n *#.*", "", block).strip() for block in blocks}


def test_the_lock_has_everything_that_is_asked_for() -> None:
    metadata = project()["project"]
    wanted = [*metadata["dependencies"], *itertools.chain(*metadata["optional-dependencies"].values())]
    assert {name_of(requirement) for requirement in wanted} <= set(locked())


def test_the_runtime_lock_is_the_part_of_the_lock_that_a_server_needs() -> None:
    def pins(lock: str) -> dict[str, str]:
        """Versions and hashes: what needs a package, and so its marker, may differ."""
        return {name: re.sub(r" ;[^\\\n]*(?= \\)", "", block) for name, block in locked(lock).items()}

    runtime, whole = pins("tools/runtime.lock"), pins("tools/requirements.lock")
    assert runtime == {name: whole[name] for name in runtime}
    assert {name_of(requirement) for requirement in project()["project"]["dependencies"]} <= set(runtime)
    assert not {"pytest", "mypy", "cython", "pynetdicom", "av"} & set(runtime)


def test_the_lock_pins_exactly_and_with_hashes() -> None:
    for name, block in locked().items():
        assert re.match(r"[\w.-]+==\S+ ", block), name
        assert "--hash=sha256:" in block, name


@pytest.mark.parametrize("lock", ["requirements.lock", "runtime.lock"])
def test_the_lock_names_no_index(lock: str) -> None:
    text = (ROOT / "tools" / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(-index|-extra|-find|i|f)\b", text, re.MULTILINE)


def test_the_build_is_locked_with_what_builds_it() -> None:
    assert project()["build-system"]["requires"] == project()["project"]["optional-dependencies"]["build"]
    cython = re.match(r"cython==(\S+)", locked()["cython"])
    assert cython is not None
    assert f"Cython=={cython[1]}" in project()["build-system"]["requires"]


def test_the_console_script_exists() -> None:
    """It goes through __main__, which keeps the current folder off the import path."""
    assert project()["project"]["scripts"] == {"filmroom": "engine.__main__:main"}
    assert callable(cli.main)
    done = subprocess.run([Path(sys.executable).parent / "filmroom", "version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def environment(venv: Path, *commands: str) -> str:
    """What the functions of tools/environment.sh print, with `venv` for the environment; nothing is installed."""
    functions = (ROOT / "tools/environment.sh").read_text().removesuffix("prepare\n")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(
        [functions, f"root={ROOT} venv={venv}", *commands])], capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_server_from_a_checkout_installs_no_test_tools(tmp_path: Path) -> None:
    names = {line.partition("==")[0] for line in environment(tmp_path, "packages_for=server", "packages").splitlines()
             if re.match(r"[\w.-]+==", line)}  # fmt: skip
    assert names == {*locked("tools/runtime.lock"), "cython", "packaging", "setuptools", "wheel"}


def test_an_environment_with_test_tools_keeps_them(tmp_path: Path) -> None:
    ask = ["packages_for=server", "prepare", "echo $packages_for"]
    known = "is_current() { true; }; every_extension_is_there() { true; }"
    (tmp_path / "bin").mkdir()
    for name, purpose in (("filmroom", "server"), ("pytest", "everything")):
        (tmp_path / "bin" / name).write_text("")
        (tmp_path / "bin" / name).chmod(0o755)
        assert environment(tmp_path, known, *ask) == f"{purpose}\n"


@pytest.mark.parametrize(
    ("changed", "line", "parts"),
    [
        ("pyproject.toml", '    "a-new-dependency>=1",', ["none"]),
        ("tools/requirements.lock", "a-new-package==1.0", ["packages", "none"]),
        ("tools/requirements.lock", "cython==9.9", ["packages", "*"]),
        ("setup.py", "# a new flag", ["*"]),
        ("ext/crc32c.pyx", "# a change", ["*"]),
        ("README.md", "a word", []),
    ],
)
def test_extensions_are_built_again_only_when_what_builds_them_changes(
    tmp_path: Path, changed: str, line: str, parts: list[str]
) -> None:
    root, venv = tmp_path / "root", tmp_path / "venv"
    for name in ("tools", "ext"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, root / name)
    (venv / "bin").mkdir(parents=True)
    for name in ("pytest", "filmroom", "python"):
        (venv / "bin" / name).write_text("")
        (venv / "bin" / name).chmod(0o755)
    asks = [
        f"root={root}",
        "every_extension_is_there() { true; }; check_python() { true; }; check_compiler() { true; }",
        'install_packages() { echo packages >>$venv/done; }; install_ourselves() { echo "$1" >>$venv/done; }',
        "prepare",
    ]
    environment(venv, *asks)
    (venv / "done").unlink()
    with (root / changed).open("a") as file:
        file.write(f"{line}\n")
    environment(venv, *asks)
    environment(venv, *asks)  # and all is up to date after it
    done = (venv / "done").read_text().split() if (venv / "done").exists() else []
    assert done == parts


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_nothing_that_is_installed_with_us_hides_the_commands_of_dcmtk() -> None:
    metadata = project()["project"]
    assert "pynetdicom" not in {name_of(requirement) for requirement in metadata["dependencies"]}
    imports = {line.split()[1].split(".")[0] for path in (ROOT / "engine").rglob("*.py")
               for line in path.read_text().splitlines() if re.match(r"\s*(from|import) \w", line)}  # fmt: skip
    assert "pynetdicom" not in imports
    assert "remove_foreign_commands" in (ROOT / "tools/environment.sh").read_text()
