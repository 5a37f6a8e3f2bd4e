"""Thumbnails: drawn once, cached in files that may be removed at any time, and drawn ahead when a series is quiet.

A file's name depends on the instance and its stored version, so another version has another file. Callers see only the
error of an instance that cannot be drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import orjson

from engine import log
from engine.archive import locks
from engine.archive.feed.event import SERIES_QUIET
from engine.archive.feed.layout import directory_of
from engine.archive.feed.subscription import Feed, Watch
from engine.archive.rendering.options import PictureOptions, Viewport
from engine.archive.rendering.representative import representative
from engine.dicom import tags
from engine.errors import (
    CorruptRecord,
    CursorRefused,
    EngineError,
    FeedError,
    FeedMissing,
    SegmentGone,
    StorageError,
    TranscodeError,
    for_log,
)
from engine.index.format.types import KeyValue, Level, Query
from engine.sole_worker import run_alone

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.rendering.renderer import Renderer
    from engine.index.format.types import Instance

Result = TypeVar("Result")

logger = log.get("archive.thumbnails")

SIDE: Final = 256
QUALITY: Final = 80
USUAL: Final = PictureOptions(frame=None, viewport=Viewport(SIDE, SIDE), quality=QUALITY, is_thumbnail=True)
"""The options of thumbnails that are drawn ahead."""

SUBSCRIBER: Final = "thumbnails"
PAUSE_S: Final = 5.0
"""The pause between checks for a feed that does not exist yet."""
GATHER_S: Final = 5.0
"""The pause after a new event: the series has been quiet for half a minute by then, and ingest goes first."""
SAVE_S: Final = 60.0
"""The pause between saves of the cursor, which wait for the disk. A restart reads some events again, but draws no
thumbnail again."""


_DRAWING: Final = (3, find_spec("av") is not None)
"""Changes whenever the same instance gets another picture, so that no older file is used: the number of the way in
which thumbnails are drawn, and whether those of videos can be."""


class Run(Protocol):
    """Runs work in a thread."""

    async def __call__(self, work: Callable[[], Result]) -> Result: ...


class Thumbnails:
    """Thumbnails of one archive."""

    def __init__(self, archive: Archive, renderer: Renderer) -> None:
        self._archive = archive
        self._renderer = renderer
        self._files = archive.thumbnail_files

    def cached(self, instance: Instance, options: PictureOptions = USUAL) -> bytes | None:
        """The cached thumbnail, if there is one. Blocks for one file."""
        return self._files.read(*_names(instance, options))

    async def draw(self, instance: Instance, options: PictureOptions = USUAL) -> bytes:
        """Draws a thumbnail; give it to `cache` then. Raises TranscodeError, CorruptRecord, SegmentGone."""
        stored = self._archive.retrieval.open(instance)
        return await self._renderer.picture(stored, stored.syntax, options)

    def cache(self, instance: Instance, picture: bytes, options: PictureOptions = USUAL) -> None:
        """Writes a thumbnail to its file. Blocks."""
        self._files.write(*_names(instance, options), picture)


def _names(instance: Instance, options: PictureOptions) -> tuple[bytes, bytes]:
    position = instance.position
    variant = orjson.dumps([_DRAWING, position.payload_crc, position.payload_length, options.as_dict()])
    return instance.sop_instance_uid.encode(), variant


class ThumbnailsAhead:
    """Draws the usual thumbnail of each quiet series. Runs in one worker of a server."""

    def __init__(self, archive: Archive, thumbnails: Thumbnails, run: Run) -> None:
        """`run`: runs blocking work in a thread."""
        self._archive = archive
        self._thumbnails = thumbnails
        self._run = run

    async def run(self) -> None:
        """Follows the feed until it is cancelled."""
        parts = self._archive.parts
        await run_alone(
            lambda: locks.thumbnails(parts.layout, parts.files),
            self._follow,
            is_needed=lambda: True,
            check_s=PAUSE_S,
            logger=logger,
            failure="thumbnails are not drawn ahead",
        )

    async def _follow(self) -> None:
        try:
            feed = self._archive.feed()
            await self._draw_ahead(feed, Watch(directory_of(self._archive.parts.layout), asyncio.get_running_loop()))
        except FeedMissing:
            return  # the next check comes soon
        except (FeedError, StorageError) as error:
            logger.info("thumbnails are not drawn ahead at the moment", reason=for_log(error))

    async def _draw_ahead(self, feed: Feed, watch: Watch) -> None:
        clock = asyncio.get_running_loop().time
        try:
            cursor = saved = feed.cursors.load(SUBSCRIBER) or feed.oldest()
            saved_at = clock()
            while True:
                changed = watch.changed()
                try:
                    page = await self._run(partial(feed.read, cursor))
                except CursorRefused:
                    cursor = feed.newest()
                    continue
                for event in page.events_of(SERIES_QUIET):
                    await self._make(event.study_instance_uid, event.series_instance_uid)
                cursor = page.cursor
                if cursor != saved and clock() - saved_at >= SAVE_S:
                    await self._run(partial(feed.cursors.save, SUBSCRIBER, cursor))
                    saved, saved_at = cursor, clock()
                if not page.lines:
                    await changed
                    await asyncio.sleep(GATHER_S)
        finally:
            watch.close()
            feed.close()

    async def _make(self, study_instance_uid: str, series_instance_uid: str) -> None:
        keys: dict[int, KeyValue] = {
            tags.StudyInstanceUID: study_instance_uid.encode(),
            tags.SeriesInstanceUID: series_instance_uid.encode(),
        }
        try:
            instances = await self._run(lambda: self._archive.instances(Query(Level.SERIES, keys)))
            if not instances:
                return
            instance = representative(instances)
            if await self._run(lambda: self._thumbnails.cached(instance)) is None:
                picture = await self._thumbnails.draw(instance)
                await self._run(lambda: self._thumbnails.cache(instance, picture))
        except (TranscodeError, CorruptRecord, SegmentGone) as error:
            logger.debug("no thumbnail was made", series_instance_uid=series_instance_uid, reason=for_log(error))
        except EngineError as error:
            logger.warning("no thumbnail was made", series_instance_uid=series_instance_uid, reason=for_log(error))
