"""The events of one subscription: each has a number, and can be asked for again.

    DATA/subscriptions/ID.events    a line of JSON for each, in order: [number, before, kind, id, time]

`before` is the cursor of the change feed before the event (`feed.cursor`): an event that comes again, after a crash, is
known by it and keeps its number. Lines are appended and synced before anybody is told. A line that a crash has cut ends
the file; the next append replaces it. Beyond KEPT_MAX lines the older half is removed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT_MAX: Final = 20_000
"""Events of one subscription that can be asked for again: 3 MB."""
_AGAIN_MAX: Final = 1000
"""Among so many of the last events an event that comes again is looked for."""


class Numbered(NamedTuple):
    """An event of a subscription."""

    number: int
    """From 1 on, without gaps."""
    before: str
    """The cursor of the feed before it."""
    kind: str
    """Of the resource that it is about."""
    id: str
    time: str
    """ISO 8601."""


class SubscriptionEvents:
    """The numbered events of one subscription."""

    def __init__(self, path: str, files: Files) -> None:
        self._path = path
        self._files = files
        self._rows: list[Numbered] = []
        self._whole_bytes = 0
        """Bytes of whole lines."""
        self._state: object = None
        """Of the file that `_rows` are from."""

    def rows(self) -> list[Numbered]:
        """All that are kept."""
        state = self.state()
        if state != self._state:
            self._rows, self._whole_bytes = self._read()
            self._state = state
        return self._rows

    def after(self, number: int) -> list[Numbered]:
        """Those with a greater number."""
        return [row for row in self.rows() if row.number > number]

    def state(self) -> object:
        """Differs after each event; None: there was none. Moments of files are coarse, so it has the length too."""
        identity = self._files.identity(self._path)
        try:
            return identity and (*identity, os.path.getsize(self._path))
        except OSError:
            return None

    def last(self) -> int:
        """The number of the last event; 0: there was none."""
        rows = self.rows()
        return rows[-1].number if rows else 0

    def of(self, before: str) -> list[Numbered]:
        """The events that have their numbers already of those behind a cursor."""
        return [row for row in self.rows()[-_AGAIN_MAX:] if row.before == before]

    def append(self, before: str, foci: Sequence[tuple[str, str]], moment: str) -> list[Numbered]:
        """Gives events their numbers, durably; those that have one keep it. Raises StorageFull, StorageFailed."""
        known = self.of(before)
        new_foci = [focus for focus in foci if focus not in {(row.kind, row.id) for row in known}]
        if not new_foci:
            return known
        rows = self.rows()
        number = rows[-1].number if rows else 0
        new = [Numbered(number + at, before, *focus, moment) for at, focus in enumerate(new_foci, 1)]
        if len(rows) + len(new) > KEPT_MAX:
            rows = rows[-KEPT_MAX // 2 :]
            replace_file(self._files, self._path, _lines([*rows, *new]))
            self._whole_bytes = os.path.getsize(self._path)
        else:
            lines = _lines(new)
            self._write(lines, self._whole_bytes)
            self._whole_bytes += len(lines)
        self._rows, self._state = [*rows, *new], self.state()
        return [*known, *new]

    def _write(self, lines: bytes, offset: int) -> None:
        is_new = not self._files.exists(self._path)
        fd = self._files.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            self._files.truncate(fd, offset)
            self._files.pwritev(fd, [lines], offset, len(lines))
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        if is_new:
            self._files.sync_directory(os.path.dirname(self._path))

    def _read(self) -> tuple[list[Numbered], int]:
        """The events, and how many bytes whole lines take."""
        try:
            with open(self._path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return [], 0
        rows: list[Numbered] = []
        end = 0
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                rows.append(_decode(line))
            except msgspec.DecodeError:
                continue  # damaged: the numbers of the others stay
        return rows, end


_decode = msgspec.json.Decoder(Numbered).decode


def _lines(rows: Sequence[Numbered]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
