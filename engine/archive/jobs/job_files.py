"""The files of all jobs of an archive, in DATA/jobs. One process runs jobs; every process may create them.

    ID.json      the job, replaced as a whole: durable when its state changes, not for its progress.
                 Encrypted where the archive is (`archive.sealing`)
    ID.taken     SOP Instance UIDs, one a line, that the peer of a sending job has: a restart sends the others. Not
                 synced: after a power cut some are sent twice, which is harmless
    ID.cancel    empty: a request to cancel; ID.retry: a request to try again. The process that runs jobs removes them

An id is the time of creation and some random digits, in hex, so ids are in the order of creation. A file that is no job
is ignored.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from engine.archive.jobs.job import ENDED, Job
from engine.archive.sealing import Unsealable, unseal
from engine.errors import JobError, JobsFull
from engine.storage.files import Files, raise_write_error, replace_file

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from engine.archive.layout import Layout
    from engine.index.format.types import Instance

CANCEL: Final = "cancel"
RETRY: Final = "retry"
FILE_BYTES_MAX: Final = 64 << 20
JOBS_MAX: Final = 2000
"""The most jobs that have not ended; a further one is refused."""

_NAME: Final = re.compile(r"([0-9a-f]{24})\.json")
_PURPOSE: Final = b"job"
_ID: Final = re.compile(r"[0-9a-f]{24}")


def new_id() -> str:
    """An id that no other job has."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


class JobFiles:
    """The jobs of one archive."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._directory = f"{layout.data}/jobs"
        self._sealing = layout.sealing
        self._files = files

    def create(self, job: Job) -> None:
        """Creates a job, durably. Raises JobsFull, StorageFull, StorageFailed."""
        if sum(other.state not in ENDED for other in self.all()) >= JOBS_MAX:
            raise JobsFull(f"{JOBS_MAX} jobs have not ended: cancel some, or wait")
        self._files.make_directory(self._directory)
        self.save(job)

    def save(self, job: Job, *, is_durable: bool = True) -> None:
        """Replaces the job's file. Raises StorageFull, StorageFailed."""
        content = self._sealing.seal(_PURPOSE, msgspec.json.encode(job), job.id.encode())
        replace_file(self._files, self._path(job.id), content, is_durable=is_durable)

    def load(self, identifier: str) -> Job:
        """The job with this id. Raises JobError if there is none."""
        job = self._load(self._path(identifier))
        if job is None:
            raise JobError("there is no job of this id")
        return job

    def all(self) -> list[Job]:
        """All jobs, the latest first."""
        try:
            names = sorted(self._files.list_directory(self._directory), reverse=True)
        except FileNotFoundError:
            return []
        paths = [f"{self._directory}/{name}" for name in names if _NAME.fullmatch(name)]
        return [job for path in paths if (job := self._load(path)) is not None]

    def changed_ns(self) -> int:
        """When a job or a request came or went last; 0: no job was ever asked for."""
        try:
            return os.stat(self._directory).st_mtime_ns
        except OSError:
            return 0

    def poll(self, known_ids: Container[str]) -> tuple[list[Job], set[str], set[str]]:
        """For the process that runs jobs: unknown jobs and those with a request, the earliest first; and the ids to
        cancel and to retry. Removes the requests."""
        try:
            names = sorted(self._files.list_directory(self._directory))
        except FileNotFoundError:
            return [], set(), set()
        requests: dict[str, set[str]] = {CANCEL: set(), RETRY: set()}
        for name in names:
            identifier, _, end = name.partition(".")
            if end in requests and _ID.fullmatch(identifier) and self.take_request(identifier, end):
                requests[end].add(identifier)
        requested = requests[CANCEL] | requests[RETRY]
        ids = [match[1] for name in names if (match := _NAME.fullmatch(name)) is not None]
        jobs = [
            self._load(self._path(identifier))
            for identifier in ids
            if identifier not in known_ids or identifier in requested
        ]
        return [job for job in jobs if job is not None], requests[CANCEL], requests[RETRY]

    def request(self, identifier: str, kind: str) -> None:
        """Requests to CANCEL or to RETRY a job. Raises JobError if there is none with this id."""
        self.load(identifier)
        path = self._path(identifier, kind)
        if not self._files.exists(path):
            self._files.close(self._files.open(path, os.O_WRONLY | os.O_CREAT))

    def take_request(self, identifier: str, kind: str) -> bool:
        """Takes a request. Returns whether there was one."""
        path = self._path(identifier, kind)
        if not self._files.exists(path):
            return False
        self._files.unlink(path)
        return True

    def remove(self, identifier: str) -> None:
        """Removes a job."""
        for end in ("taken", CANCEL, RETRY, "json"):
            self._files.unlink(self._path(identifier, end))

    def peer_instances(self, identifier: str) -> PeerInstances:
        """The instances that the peer of a sending job has."""
        return PeerInstances(self._path(identifier, "taken"), self._files)

    def _load(self, path: str) -> Job | None:
        try:
            with open(path, "rb") as file:
                content = file.read(FILE_BYTES_MAX)
            return msgspec.json.decode(unseal(_PURPOSE, content, Path(path).stem.encode()), type=Job)
        except (OSError, msgspec.DecodeError, Unsealable):
            return None

    def _path(self, identifier: str, end: str = "json") -> str:
        if not _ID.fullmatch(identifier):
            raise JobError("there is no job of this id")
        return f"{self._directory}/{identifier}.{end}"


class PeerInstances:
    """The instances that a peer has, in a growing file."""

    def __init__(self, path: str, files: Files) -> None:
        self._files = files
        self._path = path
        self._unwritten: list[str] = []
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read()
        except OSError:
            text = ""
        # Bytes after the last line end are of a line that was cut.
        self.uids = set(text.rpartition("\n")[0].splitlines())
        self._length = len(text.rpartition("\n")[0]) + 1 if self.uids else 0

    def add(self, sop_instance_uid: str) -> None:
        """Adds an instance, which `flush` writes."""
        self.uids.add(sop_instance_uid)
        self._unwritten.append(sop_instance_uid)

    def flush(self) -> None:
        """Writes new lines. Raises StorageFull, StorageFailed."""
        uids, self._unwritten = self._unwritten, []
        if not uids:
            return
        data = "".join(f"{uid}\n" for uid in uids).encode("ascii", "replace")
        try:
            fd = self._files.open(self._path, os.O_WRONLY | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {self._path}")
        try:
            self._files.pwritev(fd, [data], self._length)
        finally:
            self._files.close(fd)
        self._length += len(data)

    def unsent(self, instances: Iterable[Instance]) -> Iterator[Instance]:
        """Those of these instances that the peer lacks."""
        return (instance for instance in instances if instance.sop_instance_uid not in self.uids)
