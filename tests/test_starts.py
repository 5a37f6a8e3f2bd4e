"""What the processes of a server import when they start: every worker and every start pays for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"pydicom", "numpy", "PIL", "requests", "aiohttp", "obstore", "webauthn", "jinja2", "pynetdicom"}
"""Only who needs one of these imports it, and then late."""


@pytest.mark.parametrize("module", ["engine.app.serving", "engine.app.worker", "engine.server.caretaker"])
def test_a_start_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()
