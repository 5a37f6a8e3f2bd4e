"""Starts Python safely: our processes import modules from the installation and from nowhere else.

`python -m` and an empty or relative entry of PYTHONPATH put the current folder first, so an orjson.py in a folder of
images would run as the user of the server (CWE-427). Children get `-P` and a PYTHONPATH without such entries; the
command removes them from its own path before it imports anything but the standard library.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

ROOT = os.path.realpath(Path(__file__).parents[1])
"""The folder that this package was imported from: site-packages, or a checkout."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours as a process. Pass it `environment` too."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment for a child that imports the same package, with `more` added."""
    # Leave out site-packages, which Python finds by itself: in PYTHONPATH it would precede the standard library.
    own = [] if ROOT in map(os.path.realpath, [*site.getsitepackages(), site.getusersitepackages()]) else [ROOT]
    paths = dict.fromkeys([*own, *(entry for entry in _entries() if os.path.isabs(entry))])
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    named = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**inherited, **named, "PYTHONSAFEPATH": "1", **more}


def keep_out_the_current_folder() -> None:
    """Removes the folders that `-m` and relative entries of PYTHONPATH added to sys.path, except this package's own."""
    unsafe = [os.path.realpath(entry or os.curdir) for entry in _entries() if not os.path.isabs(entry)]
    if not sys.flags.safe_path and sys.path:
        unsafe.append(os.path.realpath(sys.path[0]))
    named = {os.path.realpath(entry) for entry in _entries() if os.path.isabs(entry)} | {ROOT}
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) not in set(unsafe) - named]


def _entries() -> list[str]:
    inherited = os.environ.get("PYTHONPATH")
    return inherited.split(os.pathsep) if inherited else []
