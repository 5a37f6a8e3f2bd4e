"""On PYTHONPATH with FILMROOM_JITTER (`tests.jitter`): delays the engine's processes with interpreters of their own."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path


def _is_engine() -> bool:
    return any(word == "-m" and name.split(".")[0] == "engine" for word, name in pairwise(sys.orig_argv))


if _is_engine():
    path = Path(__file__).parents[1] / "jitter.py"
    spec = importlib.util.spec_from_file_location("filmroom_jitter", path)
    assert spec is not None and spec.loader is not None
    jitter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(jitter)
    jitter.install()
