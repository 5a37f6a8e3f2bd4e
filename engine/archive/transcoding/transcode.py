"""Chooses the transfer syntax in which to send a data set to a peer, and converts it.

`services.storage_scu` asks only if the peer has accepted no stored form. `dicom.convert` converts between uncompressed
syntaxes. Codecs run in separate processes (`process_pool`), since a codec may hold the interpreter lock, crash, or
hang, and none of that may affect an association. They work frame by frame; the result waits until it is whole
(`spool`).

`archive.transcoding.pixels` lists what can be decoded, `archive.transcoding.compress` what can be encoded.
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
from engine.archive.transcoding.raster import Raster
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
        "1.2.840.10008.1.2.4.52",
        "1.2.840.10008.1.2.4.53",
        "1.2.840.10008.1.2.4.54",
        "1.2.840.10008.1.2.4.55",
        "1.2.840.10008.1.2.4.56",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.110",
        "1.2.840.10008.1.2.4.111",
        "1.2.840.10008.1.2.4.112",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.8.1",
    }
)
"""The syntaxes that `archive.transcoding.pixels` decodes; repeated here, since that module imports numpy and codecs."""

ENCODABLE: Final = (
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.5",
)
"""The syntaxes that `archive.transcoding.compress` encodes without loss, smaller and faster ones first."""
LOSSY_ENCODABLE: Final = ("1.2.840.10008.1.2.4.50",)
"""The syntaxes that it encodes with a loss: only if a request names them."""

PREFERENCE: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN.uid,
    IMPLICIT_VR_LITTLE_ENDIAN.uid,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid,
    EXPLICIT_VR_BIG_ENDIAN.uid,
)
"""Target syntaxes in order of preference, of which the first that the peer accepted is used: those that keep VRs first,
the most expensive ones last."""

CODECS: Final = "engine.archive.transcoding.codec_process"
"""The module that the processes run."""
DECODED_BYTES_MAX: Final = 1 << 30
"""Limit of one native frame. A decoder process may use a little more than five times as much; then its allocations
fail."""
PROCESSES: Final = 2
TIME_LIMIT_S: Final = 120.0
"""For one instance, and a second more for each megabyte of the result. JPEG 2000 decodes at some 14 MB/s here."""
IDLE_S: Final = 60.0
"""After this time an idle process, of some 60 MB, is ended."""

Result = TypeVar("Result")


def plan(source: str, accepted: Sequence[str]) -> str | None:
    """The transfer syntax in which to send a data set stored in `source`; None if there is no way.

    Compressed ones come last, since a native one costs less work.
    """
    if source in accepted:
        return source
    if source not in DECODABLE and not transfer_syntax.of(source).convertible:
        return None
    return next((uid for uid in (*PREFERENCE, *ENCODABLE) if uid in accepted), None)


class Transcoder:
    """Converts data sets to other transfer syntaxes. Starts processes on demand."""

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
        """`directory`: for decoded data sets, with `reserve_bytes` of its disk left free."""
        self._directory = str(directory) if directory is not None else None
        self._reserve_bytes = reserve_bytes
        self._threads = ThreadPoolExecutor(max_workers=processes, thread_name_prefix="transcode")
        self.unfinished = 0
        """Number of conversions that run or wait."""
        self._pool = ProcessPool(CODECS, time_limit_s, decoded_bytes_max, idle_s)
        # Processes end with the last reference, even without `close`.
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
        """A data set with native Pixel Data, and its new transfer syntax. Raises TranscodeError with the reason."""
        if syntax.uid not in DECODABLE:
            raise TranscodeError(f"there is no decoder for {syntax.name}")
        spool = Spool(self._directory, self._reserve_bytes)

        def work() -> tuple[Source, TransferSyntax]:
            self._pool.run(source, {"job": "decoding", "syntax": syntax.uid}, spool.write)
            is_explicit = elements.encoding_of(source.read(0, 8), syntax) & EXPLICIT_VR
            return spool.source(), EXPLICIT_VR_LITTLE_ENDIAN if is_explicit else IMPLICIT_VR_LITTLE_ENDIAN

        return await self._in_thread(work)

    async def encode(self, source: Source, syntax: TransferSyntax, target: TransferSyntax) -> Source:
        """A data set with compressed Pixel Data, in `target`. Raises TranscodeError with the reason."""
        if target.uid not in ENCODABLE and target.uid not in LOSSY_ENCODABLE:
            raise TranscodeError(f"there is no encoder for {target.name}")
        if syntax.uid not in DECODABLE and not syntax.convertible:
            raise TranscodeError(f"there is no decoder for {syntax.name}")
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
        """One stored frame in another transfer syntax. Raises TranscodeError with the reason.

        `frame`: its codestream with fragments joined, or its native bytes. `target_uid` "": native, by pixel, in little
        endian.
        """
        options = {"job": "frame conversion", "syntax": syntax_uid, "target": target_uid, "image": asdict(image)}
        pieces: list[Buffer] = []
        await self._in_thread(lambda: self._pool.run(Whole(frame), options, pieces.append))
        return b"".join([bytes(piece) for piece in pieces])

    async def picture(self, data: Buffer, samples_per_pixel: int, write: Callable[[Buffer], None]) -> Raster:
        """The native frames of a PNG or GIF file, given to `write` in a thread; 0 samples: as many as the file has.

        Raises TranscodeError with the reason, and what `write` raises.
        """
        heads: list[Raster] = []

        def take(piece: Buffer) -> None:
            if heads:
                write(piece)
            else:
                heads.append(Raster.unpack(piece))

        options = {"job": "picture", "samples": samples_per_pixel}
        await self._in_thread(lambda: self._pool.run(Whole(data), options, take))
        return heads[0]

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
        """Ends all processes, also busy ones."""
        self._end()


def _end(threads: ThreadPoolExecutor, pool: ProcessPool) -> None:
    pool.close()
    threads.shutdown(wait=False)
