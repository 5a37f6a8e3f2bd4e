"""Assembles instances from metadata and bulk data (PS3.18 10.5.1, 8.6.2), and passes them to `upload` as files.

    application/dicom+json   one part, an array of data sets
    application/dicom+xml    one data set in each part
    others                   bulk data, whose Content-Location is its BulkDataURI

Bulk data is kept in an unnamed file until the end of the body: parts come in any order, and an instance needs the
lengths of its values. Several parts with the same location are the frames of its pixel data.

    application/octet-stream                      native little endian, or any other value
    image/jpeg, jls, jp2, jphc, …                 one frame each, encapsulated; the codestream determines the transfer
                                                  syntax and missing Image Pixel attributes
    image/png, image/gif                          decoded in a process of the codecs: native
    video/mp4                                     one stream; its boxes determine the same
    application/pdf, text/xml, model/…            an Encapsulated Document
    any type with transfer-syntax=…               one frame each in that transfer syntax
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from engine.archive.transcoding.spool import Spool
from engine.dicom import model_reader, movies, part10, tags, transfer_syntax, xml_model
from engine.dicom.codestreams import LOOK_BYTES_MAX, Codestream, describe
from engine.dicom.model_reader import BulkData, Draft, Model
from engine.dicom.sources import Part
from engine.errors import DataSetError, EngineError, InstanceRefused, Refusal, TranscodeError
from engine.web.errors import TooLarge
from engine.web.forms import EXPLICIT, IMAGE_TYPES, OCTET_STREAM

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.transcoding.raster import Raster
    from engine.dicom.sources import Source
    from engine.runtime.engine import Engine
    from engine.web.accept import MediaType
    from engine.web.upload import Uploads

JSON_TYPES: Final = frozenset(("application/dicom+json", "application/json"))
XML_TYPES: Final = frozenset(("application/dicom+xml",))
METADATA_TYPES: Final = JSON_TYPES | XML_TYPES
TEXT_BYTES_MAX: Final = 32 << 20
"""The maximum of the metadata of one request, since each attribute is held as a Python object."""
BULK_PARTS_MAX: Final = 100_000

_GATHERED_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 20
_VALUE_BYTES_MAX: Final = 0xFFFFFFFE
_PIXEL_DATA: Final = f"{tags.PixelData:08X}"
PICTURE_TYPES: Final = frozenset(("image/png", "image/gif"))
PICTURE_FILE_BYTES_MAX: Final = 64 << 20
"""Of one PNG or GIF file, which is held in memory until it is decoded."""
_FRAME_TYPES: Final = frozenset((*IMAGE_TYPES, "image/jph"))
_MP4: Final = "video/mp4"
_BEGIN: Final = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
_END: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


class _Bulk(NamedTuple):
    """One part of bulk data in the file."""

    media_type: str
    transfer_syntax_uid: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Frames:
    """Encapsulated pixel data."""

    transfer_syntax_uid: str
    ranges: tuple[tuple[int, int], ...]
    """Offset and length of each frame in the file."""


class Models:
    """Metadata and bulk data of one request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._models: list[Model] = []
        self._texts_length = 0
        self._text: bytearray | None = None
        self._is_xml = False
        self._spool = self._new_spool()
        self._spooled = 0
        self._gathered = bytearray()
        self._bulk: dict[str, list[_Bulk]] = {}
        self._bulk_count = 0
        self._location = ""
        """The location of the current part."""
        self._source: Source | None = None
        self._pictures: Source | None = None
        """The native pixel data of the current instance if it was sent as PNG or GIF."""

    # -- parts ------------------------------------------------------------------------------------

    def begin(self, content_type: MediaType, location: str) -> None:
        """Begins a part with metadata or bulk data."""
        if content_type.name in METADATA_TYPES:
            self._text, self._is_xml = bytearray(), content_type.name in XML_TYPES
            return
        self._text = None
        self._bulk_count += 1
        if self._bulk_count > BULK_PARTS_MAX:
            raise TooLarge(f"more than {BULK_PARTS_MAX} parts of bulk data")
        bulk = _Bulk(content_type.name, content_type.parameter("transfer-syntax"), self._spooled, 0)
        self._bulk.setdefault(location, []).append(bulk)
        self._location = location

    async def add(self, data: memoryview, summed_from: int = -1, crc: int = 0) -> None:
        """What follows of it; its checksum is not needed. Raises TooLarge, InstanceRefused."""
        if self._text is not None:
            self._texts_length += len(data)
            if self._texts_length > TEXT_BYTES_MAX:
                raise TooLarge(f"more than {TEXT_BYTES_MAX} bytes of metadata")
            self._text += data
            return
        self._spooled += len(data)
        if self._spooled > self._engine.config.limits.data_set_bytes_max:
            raise TooLarge("the bulk data is too long")
        self._gathered += data
        if len(self._gathered) >= _GATHERED_BYTES:
            await self._flush()

    async def end(self) -> None:
        """Ends the part. Raises DataSetError."""
        if self._text is None:
            parts = self._bulk[self._location]
            parts[-1] = parts[-1]._replace(length=self._spooled - parts[-1].offset)
            return
        text, is_xml = bytes(self._text), self._is_xml
        self._text = None

        def parse() -> list[Model]:
            return [xml_model.parse(text)] if is_xml else model_reader.parse(text)

        for model in await self._engine.pools.slow.run(parse):
            self._models.append({key.upper(): attribute for key, attribute in model.items()})

    async def _flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        await self._engine.pools.slow.run(lambda: _write(self._spool, gathered))

    # -- instances --------------------------------------------------------------------------------

    async def store(self, uploads: Uploads) -> None:
        """Assembles each instance and passes it on."""
        await self._flush()
        self._source = self._spool.source()
        models, self._models = self._models, []
        for model in models:
            sop_class_uid, sop_instance_uid = _text(model, "00080016"), _text(model, "00080018")
            try:
                await self._decode_pictures(model)
                draft, frames, syntax_uid = await self._engine.pools.slow.run(lambda model=model: self._draft(model))  # type: ignore[misc]
            except EngineError as error:
                uploads.refuse(error, sop_class_uid, sop_instance_uid)
                continue
            uploads.begin()
            await uploads.add(part10.write_file_meta(sop_class_uid, sop_instance_uid, syntax_uid))
            async for piece in self._pieces(draft, frames, model):
                await uploads.add(piece)
            await uploads.end()

    async def _decode_pictures(self, model: Model) -> None:
        """Decodes the pixel data if it is PNG or GIF, and describes it in the model. Raises DataSetError and others."""
        self._pictures = None
        uri = _pixel_uri(model)
        parts = self._bulk.get(uri or "", [])
        if not parts or any(part.media_type not in PICTURE_TYPES for part in parts):
            return
        assert self._source is not None
        spool, room = self._new_spool(), self._engine.config.limits.data_set_bytes_max

        def write(piece: Buffer) -> None:
            nonlocal room
            room -= len(piece)  # type: ignore[arg-type]
            if room < 0:
                raise InstanceRefused("out of resources: the pictures are too long", Refusal.OUT_OF_RESOURCES)
            _write(spool, piece)

        frame_count, first = 0, None
        for part in parts:
            if part.length > PICTURE_FILE_BYTES_MAX:
                raise DataSetError(f"a picture of more than {PICTURE_FILE_BYTES_MAX} bytes")
            data = b"".join([piece async for piece in _read(self._engine, self._source, part.offset, part.length)])
            try:
                raster = await self._engine.transcoder.picture(data, _number(model, "00280002"), write)
            except TranscodeError as error:
                raise DataSetError(str(error)) from error
            if first is not None and raster[:4] != first[:4]:
                raise DataSetError("the pictures of one instance are of several sizes or kinds")
            first = first or raster
            frame_count += raster.frame_count
        assert first is not None
        _describe_raster(model, first._replace(frame_count=frame_count))
        self._pictures = spool.source()

    def _draft(self, model: Model) -> tuple[Draft, _Frames | None, str]:
        """A data set with gaps for bulk data, its pixel data if encapsulated, and its transfer syntax."""
        frames: _Frames | None = None
        uri = _pixel_uri(model)
        if uri is not None and self._pictures is None:
            parts = self._parts_of(uri)
            is_movie = parts[0].media_type == _MP4 and not parts[0].transfer_syntax_uid
            if is_movie or any(part.media_type in _FRAME_TYPES or _is_encapsulated(part) for part in parts):
                frames = self._movie(parts, model) if is_movie else self._frames(parts, model)
                model[_PIXEL_DATA] = {"vr": "OB", "BulkDataURI": uri}
            elif any(part.media_type != OCTET_STREAM for part in parts):
                raise InstanceRefused(f"pixel data of {parts[0].media_type[:80]} is not supported")
        self._describe_document(model)
        draft = model_reader.draft(model)
        for gap in draft.bulk_data:
            self._parts_of(gap.uri)
        return draft, frames, frames.transfer_syntax_uid if frames is not None else EXPLICIT

    def _parts_of(self, uri: str) -> list[_Bulk]:
        parts = self._bulk.get(uri)
        if not parts:
            raise InstanceRefused("no part has the BulkDataURI as its Content-Location")
        return parts

    def _describe_document(self, model: Model) -> None:
        attribute = model.get("00420011")
        uri = attribute.get("BulkDataURI") if isinstance(attribute, dict) else None
        if isinstance(uri, str) and (parts := self._bulk.get(uri)) and parts[0].media_type != OCTET_STREAM:
            _default(model, "00420012", "LO", parts[0].media_type)
            _default(model, "00420015", "UL", parts[0].length)

    def _frames(self, parts: list[_Bulk], model: Model) -> _Frames:
        """Encapsulated pixel data; adds missing Image Pixel attributes from it to the model."""
        assert self._source is not None
        first: Codestream | None = None
        ranges = []
        for part in parts:
            start, length = part.offset, part.length
            if part.media_type in _FRAME_TYPES and part.media_type not in ("image/dicom-rle", "image/jxl"):
                codestream = describe(bytes(self._source.read(start, min(length, LOOK_BYTES_MAX))))
                first = first or codestream
                if codestream.transfer_syntax_uid != first.transfer_syntax_uid:
                    raise DataSetError("the frames have different transfer syntaxes")
                stop = length if codestream.stop is None else min(codestream.stop, length)
                start, length = start + codestream.start, stop - codestream.start
            ranges.append((start, length))
        named = parts[0].transfer_syntax_uid
        if first is not None:
            _describe_pixels(model, first, len(parts))
            syntax_uid = first.transfer_syntax_uid
        else:
            syntax_uid = named or IMAGE_TYPES.get(parts[0].media_type, ("",))[0]
        if not transfer_syntax.of(syntax_uid).known or not transfer_syntax.of(syntax_uid).encapsulated:
            raise InstanceRefused("pixel data of this transfer syntax is not supported", Refusal.TRANSFER_SYNTAX)
        return _Frames(syntax_uid, tuple(ranges))

    def _movie(self, parts: list[_Bulk], model: Model) -> _Frames:
        """A video as pixel data; adds what is missing of its description to the model."""
        assert self._source is not None
        if len(parts) > 1:
            raise DataSetError("a video is one part")
        start, end = parts[0].offset, parts[0].offset + parts[0].length
        movie = movies.describe(Part(self._source, start, end))
        _describe_movie(model, movie)
        return _Frames(movie.transfer_syntax_uid, ((start, end - start),))

    async def _pieces(self, draft: Draft, frames: _Frames | None, model: Model) -> AsyncIterator[bytes]:
        """The pieces of the data set."""
        pixels = model.get(_PIXEL_DATA, {}).get("BulkDataURI") if frames is not None else None
        for piece in draft.pieces:
            if isinstance(piece, bytes):
                yield piece
            elif frames is not None and piece.tag == tags.PixelData and piece.uri == pixels:
                yield _BEGIN
                for offset, length in frames.ranges:
                    yield struct.pack("<HHI", 0xFFFE, 0xE000, length + length % 2)
                    async for data in self._read(offset, length):
                        yield data
                    if length % 2:
                        yield b"\0"
                yield _END
            else:
                async for data in self._value(piece):
                    yield data

    async def _value(self, gap: BulkData) -> AsyncIterator[bytes]:
        if gap.tag == tags.PixelData and self._pictures is not None:
            length = self._pictures.length
            yield gap.header(length + length % 2)
            async for data in _read(self._engine, self._pictures, 0, length):
                yield data
            if length % 2:
                yield b"\0"
            return
        parts = self._bulk[gap.uri]
        length = sum(part.length for part in parts)
        yield gap.header(length + length % 2)
        for part in parts:
            async for data in self._read(part.offset, part.length):
                yield data
        if length % 2:
            yield b" " if gap.vr in ("LT", "ST", "UT", "UC", "UR", "DS", "IS") else b"\0"

    def _read(self, offset: int, length: int) -> AsyncIterator[bytes]:
        assert self._source is not None
        return _read(self._engine, self._source, offset, length)

    def _new_spool(self) -> Spool:
        return Spool(str(self._engine.archive.scratch_folder), self._engine.config.limits.disk_reserve_bytes)


async def _read(engine: Engine, source: Source, offset: int, length: int) -> AsyncIterator[bytes]:
    for at in range(0, length, _PIECE_BYTES):
        count = min(_PIECE_BYTES, length - at)
        yield bytes(await engine.pools.reads.run(lambda at=at, count=count: source.read(offset + at, count)))  # type: ignore[misc]


def _write(spool: Spool, piece: Buffer) -> None:
    try:
        spool.write(piece)
    except TranscodeError as error:
        raise InstanceRefused("out of resources: no disk space for bulk data", Refusal.OUT_OF_RESOURCES) from error


def _is_encapsulated(part: _Bulk) -> bool:
    return bool(part.transfer_syntax_uid) and transfer_syntax.of(part.transfer_syntax_uid).encapsulated


def _describe_pixels(model: Model, image: Codestream, frame_count: int) -> None:
    """The Image Pixel attributes (PS3.3 C.7.6.3) that the client may leave out."""
    bits_allocated = 8 if image.bits_stored <= 8 else 16
    _default(model, "00280002", "US", image.samples_per_pixel)
    _default(model, "00280004", "CS", image.photometric_interpretation)
    if image.samples_per_pixel > 1:
        _default(model, "00280006", "US", 0)
    if frame_count > 1:
        _default(model, "00280008", "IS", frame_count)
    _default(model, "00280010", "US", image.rows)
    _default(model, "00280011", "US", image.columns)
    _default(model, "00280100", "US", bits_allocated)
    _default(model, "00280101", "US", image.bits_stored)
    _default(model, "00280102", "US", image.bits_stored - 1)
    _default(model, "00280103", "US", int(image.is_signed))
    if image.is_lossy:
        _default(model, "00282110", "CS", "01")


def _describe_movie(model: Model, movie: movies.Movie) -> None:
    """The same for a video, and how long its frames are shown (PS3.3 C.7.6.5)."""
    bits_allocated = 8 if movie.bits_stored <= 8 else 16
    for key, vr, value in (
        ("00280002", "US", 3),
        ("00280004", "CS", "YBR_PARTIAL_420"),
        ("00280006", "US", 0),
        ("00280008", "IS", movie.frame_count),
        ("00280010", "US", movie.rows),
        ("00280011", "US", movie.columns),
        ("00280100", "US", bits_allocated),
        ("00280101", "US", movie.bits_stored),
        ("00280102", "US", movie.bits_stored - 1),
        ("00280103", "US", 0),
        ("00282110", "CS", "01"),
        ("00282114", "CS", movie.lossy_method),
    ):
        _default(model, key, vr, value)
    if movie.frame_ms and "00280009" not in model and "00181063" not in model:
        _default(model, "00181063", "DS", movie.frame_ms)
        _default(model, "00280009", "AT", "00181063")


def _describe_raster(model: Model, raster: Raster) -> None:
    """The same for native pixels. Raises DataSetError if the client says something else of them."""
    facts = [
        ("00280002", "US", raster.samples_per_pixel),
        ("00280010", "US", raster.rows),
        ("00280011", "US", raster.columns),
        ("00280100", "US", raster.bits),
        ("00280103", "US", 0),
    ]
    if raster.samples_per_pixel > 1:
        facts.append(("00280006", "US", 0))
    if raster.frame_count > 1 or "00280008" in model:
        facts.append(("00280008", "IS", raster.frame_count))
    for key, vr, value in facts:
        _default(model, key, vr, value)
        if _number(model, key) != value:
            raise DataSetError(f"the metadata says {_number(model, key)} for {key}, the picture has {value}")
    usual = "RGB" if raster.samples_per_pixel > 1 else "MONOCHROME2"
    _default(model, "00280004", "CS", usual)
    if _text(model, "00280004") not in (usual, *(("MONOCHROME1",) if raster.samples_per_pixel == 1 else ())):
        raise DataSetError(f"the metadata does not say {usual} for a picture that is")
    _default(model, "00280101", "US", raster.bits)
    _default(model, "00280102", "US", (_number(model, "00280101") or raster.bits) - 1)
    model[_PIXEL_DATA] = {**model[_PIXEL_DATA], "vr": "OW" if raster.bits > 8 else "OB"}


def _pixel_uri(model: Model) -> str | None:
    attribute = model.get(_PIXEL_DATA)
    uri = attribute.get("BulkDataURI") if isinstance(attribute, dict) else None
    return uri if isinstance(uri, str) else None


def _number(model: Model, key: str) -> int:
    """The one number of an attribute; 0 where there is none."""
    attribute = model.get(key)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    value = values[0] if isinstance(values, list) and values else 0
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 12:
        return int(value)
    return value if isinstance(value, int) else 0


def _default(model: Model, key: str, vr: str, value: Any) -> None:
    attribute = model.get(key)
    if not isinstance(attribute, dict) or attribute.get("Value") in (None, [], [None]):
        model[key] = {"vr": vr, "Value": [value]}


def _text(model: Model, key: str) -> str:
    """The first value of an attribute if it is a short text, otherwise ""."""
    attribute = model.get(key)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return value if isinstance(value, str) and value.isascii() and len(value) <= 64 else ""
