"""A foreign archive (pynetdicom's Query/Retrieve SCP) in this process; a test can make it misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from engine.config import Peer
from tests import samples

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
FIND, MOVE, GET = 1, 2, 3
PATIENT_ROOT, STUDY_ROOT = 1, 2

UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


def _model(root: int, operation: int) -> str:
    return f"1.2.840.10008.5.1.4.1.2.{root}.{operation}"


@dataclass
class Archive:
    """Its instances, its behaviour, and the requests that it received."""

    instances: list[Dataset]
    roots: Sequence[int] = (STUDY_ROOT,)
    classes: Sequence[str] = (samples.CT, samples.MR)
    counts: bool = True
    """Whether it returns the number of instances of studies and series."""
    knows_roles: bool = True
    """Whether it answers SCP/SCU Role Selection."""
    names_classes: bool = True
    """Whether it returns the SOP Class UID of an instance."""
    before_find: Callable[[Any, Dataset], list[tuple[int, Dataset | None]] | None] = lambda event, asked: None
    """Answers of a C-FIND instead of its own."""
    sent: Callable[[Any, list[Dataset]], list[Dataset]] = lambda event, chosen: chosen
    """The instances that a C-GET or C-MOVE sends, from the requested ones."""
    destination: tuple[str | None, int | None] = (None, None)
    """Host and port for every C-MOVE, whatever its destination; None: the destination is unknown."""
    asked: list[tuple[str, Dataset]] = field(default_factory=list)
    """("find", identifier), ("get", identifier), ("move", identifier)"""
    released_count: int = 0
    """Associations that their requestor released; others were aborted or lost."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note_release(self, event: Any) -> None:
        """A handler of pynetdicom's."""
        with self.lock:
            self.released_count += 1

    def matching(self, asked: Dataset) -> list[Dataset]:
        """The instances that match by unique keys and Patient ID."""
        found = self.instances
        for name in (*UNIQUE.values(), "PatientID"):
            value = asked.get(name)
            if value and "*" not in str(value):
                wanted = {str(value)} if isinstance(value, str) else set(map(str, value))
                found = [ds for ds in found if str(ds.get(name)) in wanted]
        return found

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        with self.lock:
            self.asked.append(("find", asked))
        answers = self.before_find(event, asked)
        if answers is not None:
            yield from answers
            return
        level = str(asked.QueryRetrieveLevel)
        groups: dict[str, list[Dataset]] = {}
        for ds in self.matching(asked):
            groups.setdefault(str(ds.get(UNIQUE[level])), []).append(ds)
        for group in groups.values():
            match = Dataset()
            match.QueryRetrieveLevel = level
            for element in asked:
                if element.tag in group[0] and element.keyword != "QueryRetrieveLevel":
                    match[element.tag] = group[0][element.tag]
            if self.counts:
                match.NumberOfStudyRelatedInstances = len(group)
                match.NumberOfSeriesRelatedInstances = len(group)
            if not self.names_classes and "SOPClassUID" in match:
                del match.SOPClassUID
            yield 0xFF00, match
        yield 0x0000, None

    def get(self, event: Any) -> Iterator[Any]:
        with self.lock:
            self.asked.append(("get", event.identifier))
        chosen = self.sent(event, self.matching(event.identifier))
        yield len(chosen)
        for ds in chosen:
            yield 0xFF00, ds

    def move(self, event: Any) -> Iterator[Any]:
        with self.lock:
            self.asked.append(("move", event.identifier))
        yield self.destination
        if self.destination[0] is not None:
            chosen = self.sent(event, self.matching(event.identifier))
            yield len(chosen)
            for ds in chosen:
                yield 0xFF00, ds

    def levels_of_gets(self) -> list[str]:
        """The level of each C-GET."""
        return [str(asked.QueryRetrieveLevel) for what, asked in self.asked if what == "get"]


@contextmanager
def serving(archive: Archive) -> Iterator[Peer]:
    """Serves the archive on a free port."""
    entity = AE(ae_title="OTHER")
    for root in archive.roots:
        for operation in (FIND, GET, MOVE):
            entity.add_supported_context(_model(root, operation))
    for uid in archive.classes:
        role = True if archive.knows_roles else None
        entity.add_supported_context(uid, NATIVE, scu_role=role, scp_role=role)
        entity.add_requested_context(uid, NATIVE)  # for C-MOVE
    handlers: list[Any] = [(evt.EVT_C_FIND, archive.find), (evt.EVT_C_GET, archive.get)]
    handlers += [(evt.EVT_C_MOVE, archive.move), (evt.EVT_RELEASED, archive.note_release)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield Peer(aet="OTHER", host="127.0.0.1", port=server.server_address[1])
    finally:
        server.shutdown()
