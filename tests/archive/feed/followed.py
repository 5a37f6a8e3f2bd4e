"""Archives that are followed, for the tests of the feed: a writer that is called by hand, a subscriber's picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from engine.archive.archive import Archive
from engine.archive.feed.cursor import Cursor
from engine.archive.feed.event import Event
from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.subscription import Feed
from engine.archive.feed.writer import FeedOptions, FeedWriter
from engine.archive.ingest.entry import make_entry, scan
from engine.archive.ingest.request import POLICIES
from engine.archive.ingest.writer import Writer
from engine.errors import FeedMissing
from engine.index.format.entry import Entry
from engine.storage.record import crc32c
from engine.storage.segment_log import SegmentLog
from tests.archive.filled import EXPLICIT, all_instances

NEVER = QuietTimes(86_400.0, 86_400.0, 86_400.0)


def writer_of(archive: Archive, quiet: QuietTimes = NEVER) -> FeedWriter:
    """The writer of an archive's feed, without a thread: call `follow`."""
    return FeedWriter(archive.parts.layout, archive.parts.files, archive.parts.index, FeedOptions(30.0, quiet))


def told(feed: Feed, cursor: str | None = None) -> list[Event]:
    """All events behind a cursor, else all there are."""
    at = feed.oldest() if cursor is None else Cursor.parse(cursor)
    events: list[Event] = []
    while page := feed.read(at, 7):
        events += page.events()
        if not page.lines:
            return events
        at = page.cursor
    return events


@contextmanager
def lookups_in_vain() -> Iterator[list[Feed]]:
    """The subscribers that looked for a feed before there was one, once for each time."""
    lookups: list[Feed] = []

    def noted(look: Callable[[Feed], Cursor]) -> Callable[[Feed], Cursor]:
        def looked(feed: Feed) -> Cursor:
            try:
                return look(feed)
            except FeedMissing:
                lookups.append(feed)
                raise

        return looked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "newest", noted(Feed.newest))
        patch.setattr(Feed, "oldest", noted(Feed.oldest))
        yield lookups


def actions(events: Iterable[Event]) -> list[str]:
    """What happened."""
    return [event.action for event in events]


class Picture:
    """What a subscriber believes is in the archive, by the events that it has seen."""

    def __init__(self) -> None:
        self.versions: dict[str, dict[int, str]] = {}
        """SOP Instance UID → version → action."""
        self.current: dict[str, int] = {}
        self.holds: dict[str, tuple[int, bool]] = {}

    def see(self, event: Event) -> None:
        """Takes one event in; seeing it again changes nothing that lasts."""
        uid = event.sop_instance_uid
        if event.action in ("stored", "kept_aside"):
            self.versions.setdefault(uid, {})[int(event.version)] = event.action
            if event.action == "stored":
                self.current[uid] = int(event.version)
        elif event.action == "deleted":
            for gone in event.sop_instance_uids:
                kept = {
                    version: action
                    for version, action in self.versions.pop(gone, {}).items()
                    if version > int(event.version)
                }
                if kept:
                    self.versions[gone] = kept
                if self.current.get(gone, 0) < int(event.version):
                    self.current.pop(gone, None)
        elif event.action == "restored":
            for back, current in zip(event.sop_instance_uids, event.current_versions, strict=True):
                self.current.pop(back, None)
                if current:
                    self.current[back] = int(current)
        elif event.action == "version_deleted":
            self.versions.get(uid, {}).pop(int(event.version), None)
            if event.current_version:
                self.current[uid] = int(event.current_version)
            else:
                self.current.pop(uid, None)
        elif event.action in ("held", "released"):
            known = self.holds.get(event.study_instance_uid, (0, False))
            self.holds[event.study_instance_uid] = max(known, (int(event.version), event.action == "held"))

    def differences(self, archive: Archive) -> list[object]:
        """What is not so."""
        found = {instance.sop_instance_uid: instance.stamp for instance in all_instances(archive)}
        held = {hold.study_instance_uid.decode() for hold in archive.parts.index.holds()}
        seen = {study for study, (_, is_held) in self.holds.items() if is_held}
        return [*(found.items() ^ self.current.items()), *(held ^ seen)]


class OtherWriter:
    """One more worker's log of the same archive: appends and makes visible when it is told to."""

    def __init__(self, archive: Archive, label: str, segment_bytes: int = 1 << 16) -> None:
        log = SegmentLog(
            archive.parts.layout.segments,
            archive.parts.files,
            archive.parts.layout.archive_id,
            writer=label,
            segment_bytes=segment_bytes,
        )
        self._writer = Writer(archive.parts.index, log, archive.parts.reader)
        self._schema = archive.schema
        self._waiting: list[Entry] = []

    def append(self, payload: bytes, policy: str = "keep-first", aet: str = "OTHER") -> None:
        """Appends an instance, which nobody sees yet."""
        found = scan([payload], EXPLICIT, self._schema)
        entry = make_entry(
            found,
            schema=self._schema,
            transfer_syntax_uid=EXPLICIT,
            calling_ae_title=aet,
            sop_class_uid=None,
            sop_instance_uid=None,
        )
        crc = crc32c(payload)
        if self._writer.resolver.look_up(entry, len(payload), crc) is None:
            self._writer.append(entry, [payload], len(payload), crc, POLICIES[policy])
            self._waiting.append(entry)

    def show(self) -> None:
        """Makes visible what has been appended, the last one first."""
        self._writer.log.sync()
        while self._waiting:
            self._writer.apply([self._waiting.pop()])
        self._writer.seal_rolled()

    def close(self) -> None:
        """Ends, as a worker does."""
        self.show()
        self._writer.close()
