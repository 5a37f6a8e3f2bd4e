"""The server under load, and how each kind of request reaches it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from perf import wire
from perf.association import Association, Target
from perf.bench import dicomweb, dimse, statuses
from perf.bench.http import Connection, WebTarget
from perf.bench.operation import Opener
from perf.bench.profiles import Stream
from perf.bench.runner import Lane
from perf.bench.studies import Studies
from perf.harness import PerfError
from perf.sink import Sink

RetrieveBy = Literal["c-move", "c-get", "wado"]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """At least one of `dicom` and `web`; requests that both can do go by DIMSE."""

    dicom: Target | None = None
    web: WebTarget | None = None
    sink: Sink | None = None
    """The destination of C-MOVEs."""
    retrieve_by: RetrieveBy = "c-get"

    @property
    def text(self) -> str:
        host, port = self.host_and_port
        dicom = f"{self.dicom.called_aet}@{host}:{port}{' (TLS)' if self.dicom.tls else ''}" if self.dicom else ""
        return " and ".join(filter(None, (dicom, self.web.url if self.web else "")))

    @property
    def host_and_port(self) -> tuple[str, int]:
        target = self.dicom or self.web
        assert target is not None
        return target.host, target.port

    def answers(self) -> bool:
        """Whether the server answers a C-ECHO, or a search."""
        try:
            self.check()
        except (PerfError, OSError):
            return False
        return True

    def check(self) -> str:
        """Asks the server whether it is there. Returns how it names its product. Raises PerfError with the reason."""
        product = ""
        if self.dicom is not None:
            association = Association(self.dicom, [wire.Context(1, wire.VERIFICATION)])
            try:
                if status := association.echo(1):
                    raise PerfError(f"{self.dicom.called_aet} answered a C-ECHO with {status:04X}")
                product = association.accepted.version_name
            finally:
                association.release()
        if self.web is not None:
            connection = Connection(self.web)
            try:
                answer = connection.get(f"{self.web.root}/studies?limit=1", "application/dicom+json", keep_body=True)
            finally:
                connection.close()
            if answer.status not in (200, 204):
                raise PerfError(f"{self.web.url}: {statuses.http_text('a search was answered with', answer.status)}")
        return product

    def lane(self, stream: Stream, studies: Studies, templates: Iterable[str], factor: float, seed: int) -> Lane | str:
        """How a stream runs, with connections for its factor; or why it cannot."""
        stream = msgspec.structs.replace(stream, connections=max(1, math.ceil(stream.connections * factor)))
        found = self._service(stream, studies, list(templates), f"{seed} {stream.name}")
        if isinstance(found, str):
            return found
        return Lane(stream, *found)

    def _service(self, stream: Stream, studies: Studies, templates: list[str], seed: str) -> tuple[str, Opener] | str:
        dicom, web = self.dicom, self.web
        if stream.does == "frames":
            if web is None:
                return "frames need DICOMweb: name it with --web"
            return "WADO-RS frames", lambda: dicomweb.Frames(web, studies, seed)
        if stream.does == "retrieve":
            return self._retrieve(studies, templates, seed)
        if stream.does == "find":
            if dicom is not None:
                return "C-FIND", lambda: dimse.Find(dicom, studies, seed)
            assert web is not None
            return "QIDO-RS", lambda: dicomweb.Find(web, studies, seed)
        if dicom is not None:
            return "C-STORE", lambda: dimse.Store(dicom, studies, stream.template, stream.series_instances)
        assert web is not None
        return "STOW-RS", lambda: dicomweb.Store(web, studies, stream.template, stream.series_instances)

    def _retrieve(self, studies: Studies, templates: list[str], seed: str) -> tuple[str, Opener] | str:
        dicom, web, sink = self.dicom, self.web, self.sink
        if self.retrieve_by == "wado":
            if web is None:
                return "WADO-RS needs DICOMweb: name it with --web"
            return "WADO-RS", lambda: dicomweb.Retrieve(web, studies, seed)
        if dicom is None:
            return "C-MOVE and C-GET need DIMSE: name it with --dicom"
        if self.retrieve_by == "c-get":
            return "C-GET", lambda: dimse.Get(dicom, studies, templates, seed)
        if sink is None:
            return "C-MOVE needs a destination: name it with --sink"
        return "C-MOVE", lambda: dimse.Move(dicom, studies, sink, seed)
