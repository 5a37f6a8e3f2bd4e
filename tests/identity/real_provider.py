"""npm's oidc-provider, a certified implementation, where it is installed; tests that want it are skipped elsewhere.

npm install --prefix .venv/cache/oidc-provider oidc-provider@9
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv/cache/oidc-provider"
SCRIPT = Path(__file__).parent / "oidc_provider.mjs"
SECRET = "a secret of the test"
API = "https://filmroom.example/api"


class RealProvider:
    """Has an address at once, and answers after `begin`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.issuer = self._line()

    def begin(self, server_url: str, name: str) -> None:
        """Lets log-ins of the [[oidc]] with this name come back to the server."""
        assert self._process.stdin is not None
        places = {"callback": f"{server_url}/api/oidc/{name}/callback", "home": f"{server_url}/"}
        self._process.stdin.write(json.dumps(places) + "\n")
        self._process.stdin.flush()
        line = ""
        while line != "ready":  # it warns of its own settings for development
            line = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the provider has ended"
        return line.strip()


@contextmanager
def real_provider() -> Iterator[RealProvider]:
    """Runs within the context; skips the test where it is not installed."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules/oidc-provider").is_dir():
        pytest.skip(f"npm's oidc-provider is not in {FOLDER.relative_to(ROOT)} (tests/README.md)")
    process = subprocess.Popen(
        [node, str(SCRIPT), str(FOLDER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield RealProvider(process)
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # it ends by itself then
        process.stdout.close()
        process.wait(60)
