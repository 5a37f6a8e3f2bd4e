"""Chain: the groups of one node's log, numbered 1, 2, 3, ... in the order in which they became durable.

    note of storage.journal     ["group", number, segment id, salt, start, end, is_sealed]

A group is a range of whole records of one segment. Other nodes apply groups in this order (`index.upkeep.follow`),
each once: a number that is missing shows a gap, which the order of files or the end of a segment cannot. One process
writes a chain; any may read it. A note is written when its group is durable, and is durable before other nodes count on
the group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import StorageError
from engine.storage.files import Files
from engine.storage.journal import Journal, read_notes
from engine.storage.segment_ids import slot_of


@dataclass(frozen=True, slots=True)
class Group:
    """Records that became durable together."""

    number: int
    segment_id: int
    salt: int
    start: int
    """The offset of its first record."""
    end: int
    """The end of its last record."""
    is_sealed: bool
    """Whether the segment ends with it."""

    @property
    def slot(self) -> int:
        """The slot of the node that wrote it."""
        return slot_of(self.segment_id)


class ChainWriter:
    """The end of a chain where groups are added. For one process and thread."""

    def __init__(self, path: str, files: Files) -> None:
        """Opens the chain, creates it if there is none. Raises StorageError when it is damaged."""
        self._journal = Journal(path, files)
        self.groups = _groups(self._journal.notes, self._journal.is_whole, path)
        """Those in the file when it was opened."""
        self.last = len(self.groups)
        """The number of the last group."""

    def append(self, segment_id: int, salt: int, start: int, end: int, *, is_sealed: bool = False) -> int:
        """Adds a group whose records are durable; returns its number. Raises StorageFull or StorageFailed."""
        number = self.last + 1
        self._journal.append([["group", number, segment_id, salt, start, end, is_sealed]])
        self.last = number
        return number

    def close(self) -> None:
        """Closes the file."""
        self._journal.close()


class ChainReader:
    """The groups of a chain, for those who follow it."""

    def __init__(self, path: str, files: Files) -> None:
        self._path = path
        self._files = files

    def after(self, number: int) -> list[Group]:
        """The groups behind a number, in order. Raises StorageError when the chain is damaged or cannot be read."""
        try:
            notes, is_whole = read_notes(self._path, self._files)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read: {error.strerror}") from error
        return _groups(notes, is_whole, self._path)[number:]


def _groups(notes: Iterable[list[object]], is_whole: bool, path: str) -> list[Group]:
    groups: list[Group] = []
    for note in notes:
        match note:
            case ["group", int(number), int(segment_id), int(salt), int(start), int(end), bool(is_sealed)]:
                groups.append(Group(number, segment_id, salt, start, end, is_sealed))
            case _:
                is_whole = False
    if not is_whole or [group.number for group in groups] != list(range(1, len(groups) + 1)):
        raise StorageError(f"{path} is damaged: groups are missing or out of order")
    return groups
