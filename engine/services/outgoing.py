"""What is sent of an instance when that is not simply what is stored: other attributes, another transfer syntax.

Decides nothing: `contexts` chose the transfer syntax, `coercion` the attributes. Makes it in bounded memory, whatever
the length of the instance:

    stored ─ (inflated) ─ (other attributes) ─ (decoded, encoded) ─ native form ─► data, or a Stream

A short result is data; a longer one is a stream, of which a few megabytes exist at a time. What is stored with an odd
length goes the same way, so that its last element is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.dicom import transfer_syntax
from engine.dicom.convert import BYTES_HELD, Conversion
from engine.dicom.padding import padded
from engine.dicom.sources import Inflated, Source
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, TransferSyntax
from engine.services.coercion import coerced

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.archive import Archive
    from engine.archive.retrieve import StoredInstance
    from engine.archive.transcoding.transcode import Transcoder
    from engine.dicom.coercion import Changes
    from engine.index.format.types import Instance
    from engine.runtime.pools import ThreadPool

SHORT_BYTES: Final = 256 << 10
"""Up to this a native data set takes no more than some times its length to be converted."""
WHOLE_BYTES_MAX: Final = 4 << 20
"""A result up to this is made whole."""
VERIFIED_BYTES_MAX: Final = 8 << 20
"""Up to this an instance is read for its checksum before its stream begins: found corrupt in the middle, it would cost
the association."""


class Stream:
    """A data set that is made while it is sent. Blocks."""

    def __init__(self, pieces: Iterator[Buffer], finish: Callable[[], None] | None = None) -> None:
        """`finish`: what is to be asked before the end is believed."""
        self._pieces = pieces
        self._finish = finish
        self._rest = memoryview(b"")

    def fill(self, target: memoryview) -> int:
        """So many bytes of `target` are the next ones; fewer than it has room for only at the end, then 0.

        Raises CorruptRecord, TranscodeError.
        """
        filled = 0
        while filled < len(target):
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    self._end()
                    break
                self._rest = memoryview(piece)
            count = min(len(self._rest), len(target) - filled)
            target[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        return filled

    def _end(self) -> None:
        if self._finish is not None:
            finish, self._finish = self._finish, None
            finish()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One of them is there."""

    data: bytes | None
    stream: Stream | None


def is_short(instance: Instance, changes: Changes | None) -> bool:
    """Whether its length says what it takes."""
    syntax = transfer_syntax.of(instance.transfer_syntax_uid)
    is_native = syntax.convertible and not syntax.deflated
    return changes is None and is_native and instance.position.payload_length <= SHORT_BYTES


def bytes_held(instance: Instance, changes: Changes | None) -> int:
    """What it takes to make it: to be taken from the budget before."""
    return 4 * instance.position.payload_length + 4096 if is_short(instance, changes) else BYTES_HELD


async def outgoing(
    archive: Archive,
    transcoder: Transcoder,
    reads: ThreadPool,
    instance: Instance,
    target_uid: str,
    changes: Changes | None,
) -> Outgoing:
    """What goes out of an instance in `target_uid`, with `changes`. Raises CorruptRecord, TranscodeError."""
    stored = archive.retrieval.open(instance)
    syntax, target = transfer_syntax.of(instance.transfer_syntax_uid), transfer_syntax.of(target_uid)
    source: Source = stored
    if changes is not None:
        source, syntax = await reads.run(lambda: _changed(stored, syntax, instance.pixel_data_offset, changes))
    if syntax.uid != target_uid and not (syntax.convertible and target.convertible):
        source, syntax = await _recoded(transcoder, source, syntax, target)
        await reads.run(stored.finish)
    return await reads.run(lambda: _made(source, stored, syntax, target))


def _changed(
    source: Source, syntax: TransferSyntax, pixel_data_offset: int, changes: Changes
) -> tuple[Source, TransferSyntax]:
    if syntax.deflated:
        source, syntax = Inflated(source), EXPLICIT_VR_LITTLE_ENDIAN
    return coerced(source, syntax, pixel_data_offset, changes), syntax


def _made(source: Source, stored: StoredInstance, syntax: TransferSyntax, target: TransferSyntax) -> Outgoing:
    if syntax.uid == target.uid and not syntax.deflated:
        source = padded(source, syntax.encoding)
    conversion = Conversion(source, syntax, target)
    if conversion.length is not None and conversion.length <= WHOLE_BYTES_MAX:
        data = b"".join([bytes(piece) for piece in conversion.pieces()])
        stored.finish()
        return Outgoing(data, None)
    if stored.length <= VERIFIED_BYTES_MAX:
        stored.finish()
    return Outgoing(None, Stream(conversion.pieces(), stored.finish))


async def stream_of(
    transcoder: Transcoder, reads: ThreadPool, source: Source, syntax: TransferSyntax, target: TransferSyntax
) -> Stream:
    """A data set in another transfer syntax, or with its last element padded. Raises TranscodeError."""
    if syntax.uid != target.uid and not (syntax.convertible and target.convertible):
        source, syntax = await _recoded(transcoder, source, syntax, target)

    def work() -> Stream:
        is_same = syntax.uid == target.uid and not syntax.deflated
        return Stream(Conversion(padded(source, syntax.encoding) if is_same else source, syntax, target).pieces())

    return await reads.run(work)


async def _recoded(
    transcoder: Transcoder, source: Source, syntax: TransferSyntax, target: TransferSyntax
) -> tuple[Source, TransferSyntax]:
    """Pixel Data compressed, or native, as the target wants it. Raises TranscodeError."""
    if target.convertible:
        return await transcoder.decode(source, syntax)
    return await transcoder.encode(source, syntax, target), target
