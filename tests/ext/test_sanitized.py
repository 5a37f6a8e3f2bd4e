"""The compiled parsers under the address and undefined-behaviour sanitizers, a few seconds' worth of it.

The long run is `tools/sanitize FOLDER` (ext/README.md). Only elements, scan and receive are built here, which read what
peers send; the others count, or write what we say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "300"))


TOO_FAR = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset(ctypes.c_void_p(libc.malloc(10)), 0, 11)
"""
"""What must be found, or the rest proves nothing."""


def libasan() -> str:
    """The library, "" where there is none."""
    if shutil.which("gcc") is None:
        return ""
    done = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = done.stdout.strip()
    return path if os.path.isabs(path) else ""


@pytest.mark.skipif(not libasan(), reason="gcc has no libasan here")
def test_parsers_under_sanitizers(tmp_path: Path) -> None:
    for folder in ("engine", "ext", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"]
    builds = [
        subprocess.Popen(
            [*build, "--build-temp", f"build/{stem}"],
            cwd=tmp_path,
            env={**os.environ, "FILMROOM_SANITIZE": "1", "FILMROOM_EXT": stem},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for stem in ("elements", "scan", "receive")
    ]
    for process in builds:
        said, _ = process.communicate()
        assert process.returncode == 0, said[-3000:]
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{libasan()} libstdc++.so.6",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    where = python("-c", "import engine._ext.elements as m; print(m.__file__)")
    assert str(tmp_path) in where.stdout, where.stderr
    assert "heap-buffer-overflow" in python("-c", TOO_FAR).stderr
    done = python("-m", "tests.fuzz.run", "extract,walk,reencode,blob,identifier", str(5 * RUNS))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    done = python("-m", "tests.fuzz.receive", str(RUNS // 20))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
