"""The journal of HL7 messages of an archive: in its folder, encrypted if the archive is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.archive.feed.subscription import Watch
from engine.journal import History, Journal
from engine.journal.history import folder

if TYPE_CHECKING:
    import asyncio

    from engine.archive.archive import Archive


def open_journal(archive: Archive) -> Journal:
    """The writer's end, for one process. Raises ArchiveInUse, StorageError."""
    layout = archive.parts.layout
    return Journal(folder(layout.data), archive.parts.files, layout.archive_id, data_key=layout.data_key)


def history_of(archive: Archive) -> History:
    """The journal for readers."""
    return History(folder(archive.parts.layout.data), archive.parts.files)


def messages_watch(archive: Archive, loop: asyncio.AbstractEventLoop) -> Watch:
    """Wakes the tasks of a loop when something is written to the journal."""
    path = Path(folder(archive.parts.layout.data))
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
    return Watch(str(path), loop)
