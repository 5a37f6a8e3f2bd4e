"""Reads the TOML files of profiles and targets: shipped ones by name, others by path."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from perf.harness import PerfError

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


def names(folder: str) -> list[str]:
    """The names of the shipped files of `profiles` or `targets`."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.toml"))


def read(folder: str, name: str, kind: type[T]) -> T:
    """Reads a shipped file by its name, or another one by its path. Raises PerfError."""
    is_path = "/" in name or name.endswith(".toml")
    path = Path(name) if is_path else ROOT / folder / f"{name}.toml"
    if not is_path and name not in names(folder):
        raise PerfError(f"there is no {name!r} in {folder}; there are {', '.join(names(folder))}, or give a path")
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise PerfError(f"{path}: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise PerfError(f"{path}: {error}") from None
