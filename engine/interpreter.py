"""How Python is started and what it may import: our processes take modules from the installation and nowhere else.

`python -m` and an empty or relative entry of PYTHONPATH put the current folder before all others, so that an orjson.py
that lies in a folder of somebody's images runs as the user of the server (CWE-427). Children get `-P` and a PYTHONPATH
without such entries; the command takes them off its own path before it imports anything that is not Python's.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

ROOT = os.path.realpath(Path(__file__).parents[1])
"""The folder that this package was imported from: site-packages, or a checkout."""


def command(module: str, *arguments: str) -> list[str]:
    """The words that run a module of ours as a process of its own, with `environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """Our environment for a child that imports the same package; `more` is added."""
    # What Python finds by itself is not named: it would come before the standard library.
    own = [] if ROOT in map(os.path.realpath, [*site.getsitepackages(), site.getusersitepackages()]) else [ROOT]
    paths = dict.fromkeys([*own, *(entry for entry in _entries() if os.path.isabs(entry))])
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    named = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**inherited, **named, "PYTHONSAFEPATH": "1", **more}


def keep_out_the_current_folder() -> None:
    """Takes off sys.path what `-m` and relative entries of PYTHONPATH put there, but for this package's own folder."""
    unsafe = [os.path.realpath(entry or os.curdir) for entry in _entries() if not os.path.isabs(entry)]
    if not sys.flags.safe_path and sys.path:
        unsafe.append(os.path.realpath(sys.path[0]))
    named = {os.path.realpath(entry) for entry in _entries() if os.path.isabs(entry)} | {ROOT}
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) not in set(unsafe) - named]


def _entries() -> list[str]:
    inherited = os.environ.get("PYTHONPATH")
    return inherited.split(os.pathsep) if inherited else []
