"""Pictures and reports of stored instances, for front ends. Draws nothing itself: see `render_process`.

Separate processes decode the hostile bytes, with limits of memory and time; a failed drawing harms no other.
"""

from __future__ import annotations

import asyncio
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from engine.archive.transcoding.process_pool import ProcessPool
from engine.dicom.sources import Inflated, Source
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, TransferSyntax
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.rendering.options import PictureOptions

DRAWING: Final = "engine.archive.rendering.render_process"
"""The module that the processes run."""
PROCESSES: Final = 2
TIME_LIMIT_S: Final = 60.0
DECODED_BYTES_MAX: Final = 1 << 28
"""Limit of one native frame."""
IDLE_S: Final = 300.0
WAITING_MAX: Final = 256
"""The most drawings that wait or run; a further one is refused."""


class Renderer:
    """Draws in processes, which it starts on demand."""

    def __init__(
        self, *, processes: int = PROCESSES, time_limit_s: float = TIME_LIMIT_S, idle_s: float = IDLE_S
    ) -> None:
        self._threads = ThreadPoolExecutor(max_workers=processes, thread_name_prefix="render")
        self._pool = ProcessPool(DRAWING, time_limit_s, DECODED_BYTES_MAX, idle_s)
        self._end = weakref.finalize(self, _end, self._threads, self._pool)
        self.waiting_count = 0
        """Number of drawings that wait or run."""

    async def picture(self, source: Source, syntax: TransferSyntax, options: PictureOptions) -> bytes:
        """The encoded picture. Raises TranscodeError with the reason, CorruptRecord as the source does."""
        return await self._run(source, syntax, {"job": "drawing", "options": options.as_dict()})

    async def report(self, source: Source, syntax: TransferSyntax, media_type: str) -> bytes:
        """A structured report as `report.HTML` or `report.PLAIN`, in UTF-8. Raises TranscodeError."""
        return await self._run(source, syntax, {"job": "laying out", "media_type": media_type})

    async def _run(self, source: Source, syntax: TransferSyntax, options: dict[str, Any]) -> bytes:
        if self.waiting_count >= WAITING_MAX:
            raise TranscodeError(f"{WAITING_MAX} pictures wait to be drawn already")
        if syntax.deflated:
            source, syntax = Inflated(source), EXPLICIT_VR_LITTLE_ENDIAN
        pieces: list[Buffer] = []
        self.waiting_count += 1
        try:
            loop = asyncio.get_running_loop()
            job = {**options, "syntax": syntax.uid}
            await loop.run_in_executor(self._threads, lambda: self._pool.run(source, job, pieces.append))
        except RuntimeError as error:  # the executor after close
            raise TranscodeError("the server is stopping") from error
        finally:
            self.waiting_count -= 1
        return b"".join([bytes(piece) for piece in pieces])

    def close(self) -> None:
        """Ends all processes, also busy ones."""
        self._end()


def _end(threads: ThreadPoolExecutor, pool: ProcessPool) -> None:
    pool.close()
    threads.shutdown(wait=False)
