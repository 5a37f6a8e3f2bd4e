"""The compiled parsers under the address and undefined-behaviour sanitizers, a few seconds' worth of it.

The long run is `tools/sanitize FOLDER` (ext/README.md). Only elements, scan, receive and json_model are built here,
which read what peers send; the others count, or write what we say.

They are compiled once for the same sources, compiler and Python, and kept in the environment's folder (`cache/`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import Cython
import pytest

# The same sources and seed give the same answer. Who changes ext/ names this file, or runs tools/sanitize.
pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

ROOT = Path(__file__).resolve().parents[2]
RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "300"))
STEMS = ("elements", "scan", "receive", "json_model")
CACHE = Path(sys.prefix) / "cache" / "sanitized"

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


def built_from() -> str:
    """A digest of everything that the built modules follow from."""
    digest = hashlib.sha256()
    sources = sorted(path for path in (ROOT / "ext").iterdir() if path.is_file())
    for path in (*sources, ROOT / "setup.py"):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    for compiler in {"gcc", os.environ.get("CC", "gcc").split()[0]}:
        digest.update(subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout)
    flags = [f"{name}={os.environ.get(name, '')}" for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS")]
    # Cython writes neither paths nor dates into what it makes; the libraries are those of the system.
    digest.update(repr((STEMS, sys.version, Cython.__version__, platform.machine(), libasan(), flags)).encode())
    return digest.hexdigest()


def build(folder: Path) -> None:
    """Compiles the modules in a copy of the checkout."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"]
    builds = [
        subprocess.Popen(
            [*command, "--build-temp", f"build/{stem}"],
            cwd=folder,
            env={**os.environ, "FILMROOM_SANITIZE": "quick", "FILMROOM_EXT": stem},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for stem in STEMS
    ]
    for process in builds:
        said, _ = process.communicate()
        assert process.returncode == 0, said[-3000:]


def modules(folder: Path) -> list[Path]:
    """The compiled ones among `folder`'s files."""
    return [path for stem in STEMS for path in folder.glob(f"{stem}.*.so")]


def take_modules(copy: Path) -> None:
    """Puts the sanitized modules into a copy of the checkout: from the cache, or built, and then kept there."""
    target, kept = copy / "engine" / "_ext", CACHE / built_from()
    if len(modules(kept)) < len(STEMS):
        build(copy)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fresh-", dir=CACHE, ignore_cleanup_errors=True) as fresh:
            for path in modules(target):
                shutil.copy(path, fresh)
            for path in CACHE.iterdir():
                if path != kept and not path.name.startswith("fresh-"):
                    shutil.rmtree(path, ignore_errors=True)
            try:
                os.rename(fresh, kept)
            except OSError:
                assert len(modules(kept)) == len(STEMS), "it is there, and not whole"  # another run was faster
        return
    for path in modules(kept):
        shutil.copy(path, target)


@pytest.mark.skipif(not libasan(), reason="gcc has no libasan here")
def test_parsers_under_sanitizers(tmp_path: Path) -> None:
    for folder in ("engine", "ext", "tests"):
        # The bytecode comes along: to compile under sanitizers takes longer than to parse.
        left_out = shutil.ignore_patterns("*-pytest-*.pyc", *(f"{stem}.*.so" for stem in STEMS))
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=left_out)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    take_modules(tmp_path)
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

    names = [f"engine._ext.{stem}" for stem in STEMS]
    where = python("-c", f"import importlib\nfor name in {names}: print(importlib.import_module(name).__file__)")
    paths = [Path(line) for line in where.stdout.splitlines()]
    assert [path.name.partition(".")[0] for path in paths] == list(STEMS), where.stderr
    for path in paths:
        assert path.is_relative_to(tmp_path)
        assert b"__asan_init" in path.read_bytes()
    assert "heap-buffer-overflow" in python("-c", TOO_FAR).stderr
    done = python("-m", "tests.fuzz.run", "extract,json-model,walk,reencode,blob,identifier", str(5 * RUNS))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    done = python("-m", "tests.fuzz.receive", str(RUNS // 20))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
