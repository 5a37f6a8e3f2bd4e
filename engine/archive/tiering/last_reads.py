"""LastReads: on which days a study was read, for rules of [[tier]] that ask when it was read last.

    DATA/reads/20261130      the studies that were read on this day (UTC): a line each, perhaps several times

A process adds a study when it reads it for the first time on a day: one write of a line, no sync, no row of the index.
What a power cut takes is a day's stamp of a study. A line that is torn, or is no UID that can stand in a line, counts
for nobody. Thread-safe.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from engine import log
from engine.audit.chain import make_private
from engine.errors import StorageError, for_log
from engine.storage.files import Files

logger = log.get("archive.last_reads")

FOLDER = "reads"
KEPT_DAYS = 3660
"""Ten years of days: 400 MB of an archive from which 1000 studies are read a day."""
STUDIES_MAX = 100_000
"""Studies of the present day that a process remembers; then it forgets them, and lines come twice."""
_UID = re.compile(r"[!-~]{1,64}")
_DAY = re.compile(r"[0-9]{8}")


class LastReads:
    """What one process adds."""

    def __init__(self, data: Path, files: Files, clock: Callable[[], float] = time.time) -> None:
        """Opens nothing yet."""
        self._folder = data / FOLDER
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._day = ""
        self._studies: set[str] = set()
        self._fd = -1

    def note(self, studies: Iterable[str]) -> None:
        """These studies are read now. An error is logged, and the day's stamp is lost."""
        with self._lock:
            try:
                self._note(studies)
            except (StorageError, OSError) as error:
                logger.warning("which studies were read is not noted", error=for_log(error))
                self._close()

    def close(self) -> None:
        """Closes the day's file."""
        with self._lock:
            self._close()

    def _note(self, studies: Iterable[str]) -> None:
        day = _name_of(datetime.fromtimestamp(self._clock(), UTC).date())
        if day != self._day:
            self._close()
        fresh = [study for study in studies if study not in self._studies and _UID.fullmatch(study)]
        if not fresh:
            return
        if self._fd < 0:
            self._open(day)
        # A file with O_APPEND: lines of several processes do not mix.
        os.write(self._fd, "".join(f"{study}\n" for study in fresh).encode("ascii"))
        if len(self._studies) >= STUDIES_MAX:
            self._studies.clear()
        self._studies.update(fresh)

    def _open(self, day: str) -> None:
        make_private(self._folder, self._files)
        path = str(self._folder / day)
        is_new = not self._files.exists(path)
        self._fd = self._files.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._day = day
        if is_new:
            self._remove_old()

    def _remove_old(self) -> None:
        oldest = _name_of(datetime.fromtimestamp(self._clock(), UTC).date() - timedelta(days=KEPT_DAYS))
        for name in self._files.list_directory(str(self._folder)):
            if _DAY.fullmatch(name) and name < oldest:
                self._files.unlink(str(self._folder / name))

    def _close(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
        self._fd = -1
        self._day = ""
        self._studies.clear()


class ReadHistory:
    """What all processes have noted, as it was when this was made."""

    def __init__(self, data: Path, files: Files, now_ns: int) -> None:
        self._folder = str(data / FOLDER)
        self._files = files
        self._today = datetime.fromtimestamp(now_ns / 1e9, UTC).date()
        names = files.list_directory(self._folder) if files.exists(self._folder) else []
        self._days = sorted(name for name in names if _DAY.fullmatch(name))
        self._since: dict[str, set[str]] = {}

    def read_since(self, days: int) -> set[str] | None:
        """The studies that were read in the last `days` days; None: nobody has noted it for so long. Raises OSError."""
        first = _name_of(self._today - timedelta(days=days))
        if not self._days or self._days[0] > first:
            return None
        studies = self._since.get(first)
        if studies is None:
            studies = self._since[first] = set()
            for name in self._days:
                if name >= first:
                    studies.update(self._studies_of(name))
        return studies

    def _studies_of(self, name: str) -> list[str]:
        with open(f"{self._folder}/{name}", encoding="ascii", errors="replace") as file:
            return file.read().splitlines()


def _name_of(day: date) -> str:
    return day.strftime("%Y%m%d")
