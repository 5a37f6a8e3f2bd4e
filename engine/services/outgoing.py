"""Converts a stored instance for sending: changed attributes, another transfer syntax.

`contexts` chooses the transfer syntax, `coercion` the attributes. The conversion has bounded memory, however long the
instance is:

    stored ─ (inflated) ─ (changed attributes) ─ (decoded, encoded) ─ native form ─► data, or a Stream

A short result is data; a longer one is a stream, of which a few megabytes are in memory at a time. Instances that are
stored with an odd length are converted too, so that their last element gets its padding.
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
from engine.services import coercion

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.archive import Archive
    from engine.archive.retrieve import StoredInstance
    from engine.archive.transcoding.transcode import Transcoder
    from engine.dicom.coercion import Changes
    from engine.index.format.types import Instance
    from engine.runtime.pools import ThreadPool

SHORT_BYTES: Final = 256 << 10
"""A native data set up to this length needs at most four times its length to be converted."""
WHOLE_BYTES_MAX: Final = 4 << 20
"""A result up to this length is made as a whole."""
VERIFIED_BYTES_MAX: Final = 8 << 20
"""An instance up to this length is read for its checksum before its stream begins: damage found in the middle would
cost the association."""


class Stream:
    """A data set that is converted while it is sent. Blocks."""

    def __init__(self, pieces: Iterator[Buffer], finish: Callable[[], None] | None = None) -> None:
        """`finish`: called at the end, verifies the checksum of the stored instance."""
        self._pieces = pieces
        self._finish = finish
        self._piece = memoryview(b"")
        """The part of the present piece that was not used yet."""

    def fill(self, target: memoryview) -> int:
        """Fills `target` with the next bytes and returns their count, which is less than its length only at the end.

        Raises CorruptRecord, TranscodeError.
        """
        length = 0
        while length < len(target):
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    self._end()
                    break
                self._piece = memoryview(piece)
            count = min(len(self._piece), len(target) - length)
            target[length : length + count] = self._piece[:count]
            self._piece = self._piece[count:]
            length += count
        return length

    def _end(self) -> None:
        if self._finish is not None:
            finish, self._finish = self._finish, None
            finish()


@dataclass(frozen=True, slots=True)
class OutgoingDataSet:
    """A converted data set: either data or a stream; both None: it is sent as it is stored."""

    data: bytes | None
    stream: Stream | None


def is_short(instance: Instance, changes: Changes | None) -> bool:
    """Whether the memory of its conversion depends on its length only."""
    syntax = transfer_syntax.of(instance.transfer_syntax_uid)
    is_native = syntax.convertible and not syntax.deflated
    return changes is None and is_native and instance.position.payload_length <= SHORT_BYTES


def conversion_bytes(instance: Instance, changes: Changes | None) -> int:
    """The memory of its conversion. Take it from the budget before."""
    return 4 * instance.position.payload_length + 4096 if is_short(instance, changes) else BYTES_HELD


async def convert(
    archive: Archive,
    transcoder: Transcoder,
    reads: ThreadPool,
    instance: Instance,
    target_uid: str,
    changes: Changes | None,
) -> OutgoingDataSet:
    """The data set of an instance in `target_uid`, with `changes`. Raises CorruptRecord, TranscodeError."""
    stored = archive.retrieval.open(instance)
    syntax, target = transfer_syntax.of(instance.transfer_syntax_uid), transfer_syntax.of(target_uid)
    source: Source = stored
    if changes is not None:
        source, syntax = await reads.run(lambda: _change(stored, syntax, instance.pixel_data_offset, changes))
    if syntax.uid != target_uid and not (syntax.convertible and target.convertible):
        source, syntax = await _recode(transcoder, source, syntax, target)
        await reads.run(stored.finish)
    return await reads.run(lambda: _finish(source, stored, syntax, target))


def _change(
    source: Source, syntax: TransferSyntax, pixel_data_offset: int, changes: Changes
) -> tuple[Source, TransferSyntax]:
    if syntax.deflated:
        source, syntax = Inflated(source), EXPLICIT_VR_LITTLE_ENDIAN
    return coercion.apply(source, syntax, pixel_data_offset, changes), syntax


def _finish(source: Source, stored: StoredInstance, syntax: TransferSyntax, target: TransferSyntax) -> OutgoingDataSet:
    if syntax.uid == target.uid and not syntax.deflated:
        source = padded(source, syntax.encoding)
    conversion = Conversion(source, syntax, target)
    if conversion.length is not None and conversion.length <= WHOLE_BYTES_MAX:
        data = b"".join([bytes(piece) for piece in conversion.pieces()])
        stored.finish()
        return OutgoingDataSet(data, None)
    if stored.length <= VERIFIED_BYTES_MAX:
        stored.finish()
    return OutgoingDataSet(None, Stream(conversion.pieces(), stored.finish))


async def stream_of(
    transcoder: Transcoder, reads: ThreadPool, source: Source, syntax: TransferSyntax, target: TransferSyntax
) -> Stream:
    """A data set in another transfer syntax, or with its last element padded. Raises TranscodeError."""
    if syntax.uid != target.uid and not (syntax.convertible and target.convertible):
        source, syntax = await _recode(transcoder, source, syntax, target)

    def work() -> Stream:
        is_same = syntax.uid == target.uid and not syntax.deflated
        return Stream(Conversion(padded(source, syntax.encoding) if is_same else source, syntax, target).pieces())

    return await reads.run(work)


async def _recode(
    transcoder: Transcoder, source: Source, syntax: TransferSyntax, target: TransferSyntax
) -> tuple[Source, TransferSyntax]:
    """A data set with its Pixel Data decoded or encoded for the target. Raises TranscodeError."""
    if target.convertible:
        return await transcoder.decode(source, syntax)
    return await transcoder.encode(source, syntax, target), target
