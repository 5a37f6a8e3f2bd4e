"""What is released works where no checkout is: the wheel in an environment of its own stores instances and finds them.

Nothing is fetched: the environment borrows the packages of the one that runs the tests, and none of its checkout. A run
packs the extensions that the checkout is tested with; --all compiles them anew.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import orjson
import pytest

from tests import effort, peer, samples
from tests.peer import CT, EXPLICIT, Peer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = sorted(path.stem for path in (ROOT / "ext").glob("*.pyx"))
BUILT = f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
"""Where setuptools looks for what is compiled already."""


def bare_environment() -> dict[str, str]:
    """Nothing that would lead back to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FILMROOM_", "PIP_"))}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What it says; a failure says everything."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**bare_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def packed(checkout: Path) -> Path:
    """The wheel, made in a copy of the checkout: nothing of it is left behind there."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for folder in ("engine", "ext", "perf"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", *project_files()):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    if not effort.ALL:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        built = checkout / BUILT / "engine" / "_ext"
        built.mkdir(parents=True)
        for stem in EXTENSIONS:
            shutil.copy(ROOT / "engine" / "_ext" / f"{stem}{suffix}", built)
        if (ROOT / "build" / "cython").is_dir():
            shutil.copytree(ROOT / "build" / "cython", checkout / "build" / "cython")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", checkout / "dist")
    run(*pip, "wheel", "--quiet", *options, checkout, cwd=checkout)
    (wheel,) = (checkout / "dist").glob("*.whl")
    return wheel


def project_files() -> list[str]:
    """Licences."""
    return [path.name for path in ROOT.glob("LICENSE*")]


def installed(wheel: Path, folder: Path) -> Path:
    """The command of a new environment with the wheel, and with the packages that it depends on."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet",
        "--no-index", "--no-deps", wheel, cwd=folder)  # fmt: skip
    # The editable install of the checkout hangs on a .pth of its own, which is not read there.
    (here,) = (folder / "lib").glob("python*/site-packages")
    (here / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    imported = run(
        python, "-c", "import engine, engine._ext.elements as m; print(engine.__file__, m.__file__)", cwd=folder
    )
    assert all(Path(path).is_relative_to(folder) for path in imported.split()), imported
    return folder / "bin" / "filmroom"


def store(port: int, ds: samples.Dataset) -> None:
    """By C-STORE."""
    with Peer(port) as script:
        script.associate((1, CT, [EXPLICIT]))
        script.send(peer.message(1, peer.c_store_rq(1, CT, str(ds.SOPInstanceUID)), samples.encoded(ds)))
        assert script.expect_message().status() == 0
        script.release()


LOAD = """
title = "Tiny"
text = "stores and retrievals"
stock = { studies = 1, instances = 2, template = "tiny" }
stream = [
    { name = "scans", text = "a", does = "store", rate = 50.0, connections = 1, template = "tiny" },
    { name = "studies", text = "b", does = "retrieve", rate = 20.0, connections = 1 },
]
"""


def bench_without_a_compiler(filmroom: Path, port: int, folder: Path) -> None:
    (folder / "tiny.toml").write_text(LOAD)
    quick = ("--minutes", "0.01", "--warm-up", "0", "--report", "report.html", "--json")
    shown = run(
        filmroom, "bench", "run", "tiny.toml", "--dicom", f"FILMROOM@127.0.0.1:{port}", *quick, cwd=folder, CC="none"
    )
    (load,) = orjson.loads(shown)["runs"]
    assert [stream["failures"] for stream in load["streams"]] == [{}, {}]
    assert "generator" in [warning["kind"] for warning in load["warnings"]], "that there is no compiler"
    assert (folder / "report.html").read_bytes().startswith(b"<!doctype html>")


def test_the_wheel_holds_the_engine_and_the_loads_and_it_serves_imports_and_finds(tmp_path: Path) -> None:
    wheel = packed(tmp_path / "checkout")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names}
    assert packages == {"engine", "perf", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    modules = {Path(name).name.split(".")[0] for name in names if name.endswith(".so")}
    assert modules == set(EXTENSIONS)
    assert {"engine/py.typed", "engine/_ext/elements.pyi", "engine/docs/operation.md", "perf/receiver.c"} <= set(names)
    for folder in ("engine/web/page", "engine/web/ohif", "engine/viewer/minifier"):
        sources = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()}
        assert sources <= set(names), folder

    filmroom = installed(wheel, tmp_path / "environment")
    shutil.rmtree(tmp_path / "checkout")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    data = elsewhere / "data"
    imported, sent = samples.instance(1), samples.instance(2)
    samples.write(elsewhere / "files", imported)
    run(filmroom, "import", "files", "--data", data, cwd=elsewhere)
    serve = ("serve", "--data", data, "--host", "127.0.0.1", "--dicom-port", "0", "--workers", "1")
    server = subprocess.Popen(
        [filmroom, *serve],
        cwd=elsewhere,
        env={**bare_environment(), "FILMROOM_STORAGE_PREWRITE_BYTES": "0", "FILMROOM_HTTP_PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=(elsewhere / "log").open("w"),
        text=True,
    )
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()
        found = re.search(r" on \S+:(\d+)", ready)
        assert found, ready + (elsewhere / "log").read_text()
        store(int(found[1]), sent)
        lines = run(filmroom, "find", "--json", "-r", "StudyInstanceUID", "--data", data, cwd=elsewhere).splitlines()
        bench_without_a_compiler(filmroom, int(found[1]), elsewhere)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, (elsewhere / "log").read_text()
    studies = {str(orjson.loads(line)) for line in lines}
    assert len(studies) == 2
    for ds in (imported, sent):
        assert any(f"'{ds.StudyInstanceUID}'" in study for study in studies), studies
