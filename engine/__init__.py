"""Filmroom: a PACS storage engine. The map of the code is engine/README.md.

From Python, the archive itself:

    from engine import Archive

    with Archive.open("filmroom-data", create=True) as archive:
        archive.store("ct.dcm")
        for study in archive.find(PatientName="DOE*", StudyDate="20260101-"):
            print(study["PatientName"], study["StudyDate"], study["StudyInstanceUID"])
            for instance in archive.matching(StudyInstanceUID=study["StudyInstanceUID"]):
                print(instance.sop_instance_uid, archive.dataset(instance).pixel_array.mean())

This also works while a server has the archive open. All errors derive from `engine.errors.EngineError`. Nothing is
written to standard error; messages go to the logger `filmroom` of `logging`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.archive.archive import Archive as Archive
    from engine.errors import EngineError as EngineError
    from engine.errors import InstanceRefused as InstanceRefused
    from engine.index.format.types import Instance as Instance
    from engine.index.format.types import Match as Match
    from engine.index.format.types import Outcome as Outcome

__version__ = "0.2.0"

_HOMES = {
    "Archive": "engine.archive.archive",
    "EngineError": "engine.errors",
    "InstanceRefused": "engine.errors",
    "Instance": "engine.index.format.types",
    "Match": "engine.index.format.types",
    "Outcome": "engine.index.format.types",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use: `filmroom --help` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
