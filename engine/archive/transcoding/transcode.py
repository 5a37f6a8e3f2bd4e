"""Which transfer syntax a data set can be brought into for a peer, and the processes in which that is done.

Decides nothing about when: `services.storage_scu` asks only if the peer took no stored form. Among the uncompressed
syntaxes `dicom.convert` does it. Codecs run in processes of their own (`process_pool`), since a codec may hold the
interpreter lock, crash, or never come back, and none of that may touch an association. They work frame by frame, and
what comes of it waits until it is whole (`spool`).

`archive.transcoding.pixels` says what can be decoded, `archive.transcoding.compress` what can be encoded.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from engine.archive.transcoding.head import ImagePixel
from engine.archive.transcoding.process_pool import ProcessPool
from engine.archive.transcoding.spool import Spool
from engine.dicom import elements, transfer_syntax
from engine.dicom.convert import Conversion
from engine.dicom.sources import Inflated, Source, Whole
from engine.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

DECODABLE: Final = frozenset(
    {
        "1.2.840.10008.1.2.1.98",
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.53",
        "1.2.840.10008.1.2.4.55",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.8.1",
    }
)
"""What `archive.transcoding.pixels` decodes; listed here too, for that module brings numpy and the codecs with it."""

ENCODABLE: Final = (
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.5",
)
"""What `archive.transcoding.compress` encodes without loss, smaller and faster first."""
LOSSY_ENCODABLE: Final = ("1.2.840.10008.1.2.4.50",)
"""What it encodes with a loss: only for who asks for it by name."""

PREFERENCE: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN.uid,
    IMPLICIT_VR_LITTLE_ENDIAN.uid,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid,
    EXPLICIT_VR_BIG_ENDIAN.uid,
)
"""What a data set is brought into, the first that the peer took: what keeps VRs first, what costs most last."""

CODECS: Final = "engine.archive.transcoding.codec_process"
"""What the processes run."""
DECODED_BYTES_MAX: Final = 1 << 30
"""Of one native frame. A decoder process may use five times as much and a little, then it is told that there is no more
memory."""
PROCESSES: Final = 2
TIME_LIMIT_S: Final = 120.0
"""For one instance, and a second more for each megabyte that comes of it. JPEG 2000 decodes at some 14 MB/s here."""
IDLE_S: Final = 60.0
"""After that an unused process, of some 60 MB, is ended."""

Result = TypeVar("Result")


def plan(source: str, accepted: Sequence[str]) -> str | None:
    """The transfer syntax in which to send a data set stored in `source`; None if there is no way.

    Compressed ones come last: a peer that takes a native one can be spared the work.
    """
    if source in accepted:
        return source
    if source not in DECODABLE and not transfer_syntax.of(source).convertible:
        return None
    return next((uid for uid in (*PREFERENCE, *ENCODABLE) if uid in accepted), None)


class Transcoder:
    """Brings data sets into other transfer syntaxes. Starts no process before it has to decode."""

    def __init__(
        self,
        *,
        processes: int = PROCESSES,
        time_limit_s: float = TIME_LIMIT_S,
        decoded_bytes_max: int = DECODED_BYTES_MAX,
        idle_s: float = IDLE_S,
        directory: Path | None = None,
        reserve_bytes: int = 0,
    ) -> None:
        """`directory`: where what is decoded waits to be whole, with `reserve_bytes` of its disk left free."""
        self._directory = str(directory) if directory is not None else None
        self._reserve_bytes = reserve_bytes
        self._threads = ThreadPoolExecutor(max_workers=processes, thread_name_prefix="transcode")
        self.unfinished = 0
        """What works on a codec, and what waits for one."""
        self._pool = ProcessPool(CODECS, time_limit_s, decoded_bytes_max, idle_s)
        # Also when nobody calls close: processes end with the last reference.
        self._end = weakref.finalize(self, _end, self._threads, self._pool)

    async def transcode(self, data: Buffer, source: str, target: str) -> bytes:
        """A whole data set in another transfer syntax. Raises TranscodeError with the reason."""
        if source == target:
            return bytes(data)
        to_syntax, syntax = transfer_syntax.of(target), transfer_syntax.of(source)
        found: Source = Whole(data)
        if not to_syntax.convertible:
            encoded = await self.encode(found, syntax, to_syntax)
            return bytes(encoded.read(0, encoded.length))
        if not syntax.convertible:
            found, syntax = await self.decode(found, syntax)
        pieces = Conversion(found, syntax, to_syntax).pieces()
        return b"".join([bytes(piece) for piece in pieces])

    async def decode(self, source: Source, syntax: TransferSyntax) -> tuple[Source, TransferSyntax]:
        """A data set with native Pixel Data, and its transfer syntax then. Raises TranscodeError with the reason."""
        if syntax.uid not in DECODABLE:
            raise TranscodeError(f"nothing here decodes {syntax.name}")
        spool = Spool(self._directory, self._reserve_bytes)

        def work() -> tuple[Source, TransferSyntax]:
            self._pool.run(source, {"job": "decoding", "syntax": syntax.uid}, spool.write)
            is_explicit = elements.encoding_of(source.read(0, 8), syntax) & EXPLICIT_VR
            return spool.source(), EXPLICIT_VR_LITTLE_ENDIAN if is_explicit else IMPLICIT_VR_LITTLE_ENDIAN

        return await self._in_thread(work)

    async def encode(self, source: Source, syntax: TransferSyntax, target: TransferSyntax) -> Source:
        """A data set with Pixel Data compressed in `target`. Raises TranscodeError with the reason."""
        if target.uid not in ENCODABLE and target.uid not in LOSSY_ENCODABLE:
            raise TranscodeError(f"nothing here encodes {target.name}")
        if syntax.uid not in DECODABLE and not syntax.convertible:
            raise TranscodeError(f"nothing here decodes {syntax.name}")
        spool = Spool(self._directory, self._reserve_bytes)

        def work() -> Source:
            plain, plain_syntax = source, syntax
            if syntax.deflated:
                plain, plain_syntax = Inflated(source), EXPLICIT_VR_LITTLE_ENDIAN
            options = {"job": "encoding", "syntax": plain_syntax.uid, "target": target.uid}
            self._pool.run(plain, options, spool.write)
            return spool.source()

        return await self._in_thread(work)

    async def frame(self, frame: Buffer, syntax_uid: str, target_uid: str, image: ImagePixel) -> bytes:
        """One frame, as it is stored, in another transfer syntax. Raises TranscodeError with the reason.

        `frame`: its codestream, fragments joined, or its native bytes. `target_uid` "": native, by pixel, in little
        endian.
        """
        options = {"job": "frame conversion", "syntax": syntax_uid, "target": target_uid, "image": asdict(image)}
        pieces: list[Buffer] = []
        await self._in_thread(lambda: self._pool.run(Whole(frame), options, pieces.append))
        return b"".join([bytes(piece) for piece in pieces])

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:  # the executor after close
            raise TranscodeError("the transcoder is closed") from error
        self.unfinished += 1
        try:
            return await future
        finally:
            self.unfinished -= 1

    def close(self) -> None:
        """Ends all processes, the working ones too."""
        self._end()


def _end(threads: ThreadPoolExecutor, pool: ProcessPool) -> None:
    pool.close()
    threads.shutdown(wait=False)
