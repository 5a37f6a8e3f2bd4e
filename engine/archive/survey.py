"""A survey of the segments: counts them and finds foreign, unreadable and missing ones. Reads headers, no payload.

For `filmroom doctor`. `archive.verify` checks payloads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.archive.lifecycle import losses
from engine.errors import EngineError, SegmentGone
from engine.storage.hints import read_header_or_trailer
from engine.storage.segment import list_segments

if TYPE_CHECKING:
    from engine.archive.parts import Parts


@dataclass(slots=True)
class Survey:
    """The number of an archive's segments, and their faults."""

    segment_count: int
    newest_ns: int = 0
    """The creation time of the newest segment."""
    foreign: list[str] = field(default_factory=list)
    """Segments of another archive."""
    unreadable: list[str] = field(default_factory=list)
    """Segments whose headers cannot be read, and why."""
    set_aside: list[str] = field(default_factory=list)
    """Files that a recovery has renamed to .damaged, with losses that nobody has acknowledged."""
    missing: list[str] = field(default_factory=list)
    """Segments that are missing although the index knows instances in them."""


def survey(parts: Parts) -> Survey:
    """Makes the survey. Reads nothing of segments that are not on this machine."""
    directory, files, layout = parts.layout.segments, parts.files, parts.layout
    segment_ids = list_segments(directory, files)
    result = Survey(len(segment_ids))
    for segment_id in segment_ids:
        try:
            header = read_header_or_trailer(parts.segments.open(segment_id), segment_id)
        except SegmentGone:
            continue  # compacted away meanwhile
        except EngineError as error:
            result.unreadable.append(str(error))
            continue
        result.newest_ns = max(result.newest_ns, header.created_ns)
        if header.archive_id != layout.archive_id:
            result.foreign.append(f"{segment_id:016x}")
    acknowledged = losses.acknowledged_segments(layout, files)
    result.set_aside = [
        name
        for name in files.list_directory(directory)
        if name.endswith(".damaged") and not any(name.startswith(f"{number:016x}.") for number in acknowledged)
    ]
    marks = parts.index.segment_marks()
    present_ids = set(parts.segments.segment_ids())
    result.missing = [
        f"{segment_id:016x}" for segment_id, mark in marks.items() if mark.live_count and segment_id not in present_ids
    ]
    return result
