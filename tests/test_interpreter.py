"""No process of ours imports anything from the folder in which somebody happens to stand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine import interpreter

SCRIPT = Path(sys.executable).parent / "filmroom"

HOSTILE = """import os
with open({marker!r}, "a") as file:
    file.write(f"{{__name__}} in {{os.getpid()}}\\n")
raise ImportError("from the current folder")
"""

LIBRARIES = ("orjson", "lmdb", "uvloop", "msgspec", "click", "numpy", "json", "asyncio", "resource")


def hostile_folder(folder: Path, *names: str) -> Path:
    """A folder with modules of these names that write into the file that is given back."""
    folder.mkdir()
    marker = folder / "marker"
    for name in names:
        (folder / f"{name}.py").write_text(HOSTILE.format(marker=str(marker)))
    return marker


def ran_in(folder: Path, command: list[str], environment: dict[str, str]) -> str:
    """Serves from a folder until it is ready; the ready line."""
    data = folder.parent / "data"
    arguments = ["serve", "--data", str(data), "--host", "127.0.0.1", "--dicom-port", "0", "--workers", "1"]
    settings = {"FILMROOM_STORAGE_PREWRITE_BYTES": "0", "FILMROOM_CARETAKER_PAUSE_S": "0"}
    process = subprocess.Popen(
        [*command, *arguments], cwd=folder, env={**os.environ, **settings, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        process.terminate()
        _, errors = process.communicate()
        assert line, errors
        return line
    finally:
        watchdog.cancel()
        process.kill()


@pytest.mark.parametrize(
    ("command", "names", "python_path"),
    [
        ([str(SCRIPT)], (*LIBRARIES, "engine", "sitecustomize"), None),
        ([str(SCRIPT)], LIBRARIES[:6], ":"),
        ([str(SCRIPT)], LIBRARIES[:6], "."),
        ([sys.executable, "-m", "engine"], LIBRARIES[:6], None),
    ],
    ids=["command", "empty entry of PYTHONPATH", "relative entry of PYTHONPATH", "python -m"],
)
def test_a_server_that_is_started_among_hostile_files_runs_none_of_them(
    command: list[str], names: tuple[str, ...], python_path: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    marker = hostile_folder(folder, *names)
    environment = {} if python_path is None else {"PYTHONPATH": python_path}
    assert " ready: " in ran_in(folder, command, environment)
    assert not marker.exists(), marker.read_text()


@pytest.mark.parametrize(
    "module",
    ["engine.server.worker", "engine.archive.transcoding.codec_process", "engine.archive.rendering.render_process"],
)
def test_a_child_finds_what_we_found_and_nothing_else(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = hostile_folder(tmp_path / "here", *LIBRARIES, "engine", "sitecustomize")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "./here"]))
    command = interpreter.command(module)
    probe = [*command[:2], "-c", f"import {module}; print({module}.__file__)"]
    done = subprocess.run(
        probe, cwd=tmp_path / "here", env=interpreter.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(interpreter.ROOT)
    assert not marker.exists(), marker.read_text()


def test_a_folder_that_pythonpath_names_whole_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/site:relative::/opt/more")
    entries = interpreter.environment()["PYTHONPATH"].split(os.pathsep)
    assert entries[-2:] == ["/opt/site", "/opt/more"]
    assert all(os.path.isabs(entry) for entry in entries)
