"""State: the facts that the feed's writer needs to continue, in DATA/feed/state; replaced durably every few seconds.

    {"format": 1, "sequence": …, "progress": {"done": […], "open": […]}, "growths": …, "replicas": {…}}

Valid at the event `sequence`; the blocks of the journal after it have the rest. Compaction reads here which segments
the feed has read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from engine.archive.feed import journal
from engine.archive.feed.cursor import read_small
from engine.archive.feed.layout import directory_of
from engine.archive.feed.progress import Progress
from engine.storage import files as storage_files
from engine.storage.files import Files

if TYPE_CHECKING:
    from engine.archive.layout import Layout

FORMAT = 1


@dataclass(slots=True)
class State:
    """The content of the file."""

    sequence: int = 0
    progress: Progress = field(default_factory=Progress)
    growths: Mapping[str, object] = field(default_factory=dict)
    replicas: dict[str, int] = field(default_factory=dict)
    """Replica → sequence up to which it has everything, from its last event."""


def read_state(directory: str, files: Files) -> State | None:
    """The state of a feed; None if there is none, or the file is damaged."""
    try:
        fields = orjson.loads(read_small(f"{directory}/state", files) or b"")
        if fields["format"] != FORMAT:
            return None
        progress = Progress(
            [(int(first), int(last)) for first, last in fields["progress"]["done"]],
            [(int(segment_id), int(salt), int(offset)) for segment_id, salt, offset in fields["progress"]["open"]],
        )
        replicas = {str(name): int(through) for name, through in fields["replicas"].items()}
        return State(int(fields["sequence"]), progress, dict(fields["growths"]), replicas)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(directory: str, files: Files, state: State) -> None:
    """Replaces the file, durably. Raises StorageFull or StorageFailed."""
    content = {
        "format": FORMAT,
        "sequence": state.sequence,
        "progress": state.progress.describe(),
        "growths": state.growths,
        "replicas": state.replicas,
    }
    storage_files.replace_file(files, f"{directory}/state", orjson.dumps(content))


def progress_of(layout: Layout, files: Files) -> Progress | None:
    """The durable progress of an archive's feed in its log; None if there is no feed.

    Syncs the journal, since `state` has the progress only some seconds later, or not at all while the disk is full.
    Raises StorageError.
    """
    directory = directory_of(layout)
    state = read_state(directory, files)
    if state is None:
        return None
    for segment_id, (salt, offset) in journal.make_durable(directory, files, state.sequence).items():
        if not state.progress.is_done(segment_id):
            state.progress.move(segment_id, salt, offset)
    return state.progress
