"""transcoding.compress: what is compressed comes back bit for bit, by our decoders and by pydicom's."""

from __future__ import annotations

import asyncio
import io
import random

import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames

from engine.archive.transcoding import compress
from engine.archive.transcoding.compress import (
    HTJ2K_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
)
from engine.archive.transcoding.decompress import decompress
from engine.archive.transcoding.head import ImagePixel
from engine.archive.transcoding.transcode import ENCODABLE, LOSSY_ENCODABLE, Transcoder
from engine.dicom import part10, transfer_syntax
from engine.dicom.convert import convert
from engine.dicom.sources import Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import TranscodeError
from tests import samples
from tests.corpus import STRIDE, corpus_files, corpus_part, needs_corpus

EXPLICIT = EXPLICIT_VR_LITTLE_ENDIAN.uid
LOSSLESS = sorted(ENCODABLE)
SEED = 20261129
BYTES_MAX = 64 << 20


def image(
    frames: int = 1,
    *,
    colours: int = 1,
    allocated: int = 16,
    stored: int = 12,
    signed: int = 0,
    rows: int = 19,
    columns: int = 23,
    said: str = "",
    seed: int = SEED,
) -> tuple[pydicom.Dataset, bytes]:
    """A data set whose samples use all values that Bits Stored allows, and those samples."""
    chance = np.random.default_rng(seed)
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    shape = (frames, rows, columns, colours)
    values = chance.integers(low, high, shape, endpoint=True).astype(f"<{'ui'[signed]}{allocated // 8}")
    values.reshape(-1)[:2] = low, high
    pixels = values.tobytes()
    ds = samples.instance(pixels=b"\0" * 512)
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel = colours
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, stored, stored - 1, signed
    ds.PhotometricInterpretation = said or ("RGB" if colours == 3 else "MONOCHROME2")
    if colours == 3:
        ds.PlanarConfiguration = 0
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    ds["PixelData"].VR = "OW" if allocated > 8 else "OB"
    return ds, pixels


def encoded(ds: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=False, little_endian=True, force_encoding=True)
    data = buffer.getvalue()
    return data[part10.read_file_meta(data).data_set_offset :]


def compressed(data: bytes, source: str, target: str) -> bytes:
    pieces = compress.compressed(
        Whole(data), transfer_syntax.of(source), transfer_syntax.of(target), decoded_bytes_max=BYTES_MAX
    )
    return b"".join([bytes(piece) for piece in pieces])


def read(data: bytes, syntax: str) -> pydicom.Dataset:
    ds = pydicom.dcmread(io.BytesIO(part10.write_file_meta("1.2", "1.2.3", syntax) + data))
    assert ds.file_meta.TransferSyntaxUID == syntax
    return ds


def native(data: bytes, syntax: str) -> bytes:
    there = decompress(data, transfer_syntax.of(syntax), EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=BYTES_MAX)
    return bytes(read(there, EXPLICIT).PixelData)


@pytest.mark.parametrize("target", LOSSLESS)
@pytest.mark.parametrize(
    ("allocated", "stored", "signed", "colours"),
    [(16, 12, 0, 1), (16, 16, 0, 1), (16, 12, 1, 1), (16, 16, 1, 1), (8, 8, 0, 1), (8, 8, 0, 3), (16, 10, 0, 1)],
)
def test_what_is_compressed_without_loss_comes_back_bit_for_bit(
    target: str, allocated: int, stored: int, signed: int, colours: int
) -> None:
    ds, pixels = image(2, allocated=allocated, stored=stored, signed=signed, colours=colours)
    data = compressed(encoded(ds), EXPLICIT, target)
    assert native(data, target)[: len(pixels)] == pixels
    there = read(data, target)
    assert there.PatientName == ds.PatientName
    assert len(list(generate_frames(there.PixelData, number_of_frames=2))) == 2
    assert "LossyImageCompression" not in there


@pytest.mark.parametrize("target", [JPEG_2000_LOSSLESS, HTJ2K_LOSSLESS])
def test_a_colour_transform_is_named(target: str) -> None:
    ds, _ = image(colours=3, allocated=8, stored=8)
    assert read(compressed(encoded(ds), EXPLICIT, target), target).PhotometricInterpretation == "YBR_RCT"


@pytest.mark.parametrize("target", LOSSLESS)
def test_colours_by_plane_come_back_by_pixel(target: str) -> None:
    ds, pixels = image(colours=3, allocated=8, stored=8)
    by_plane = np.frombuffer(pixels, np.uint8).reshape(-1, 3).T.tobytes()
    ds.PlanarConfiguration = 1
    ds.PixelData = by_plane + b"\0" * (len(by_plane) % 2)
    data = compressed(encoded(ds), EXPLICIT, target)
    assert read(data, target).PlanarConfiguration == 0
    assert native(data, target)[: len(pixels)] == pixels


@pytest.mark.parametrize("target", LOSSLESS)
def test_bits_beyond_bits_stored_are_kept(target: str) -> None:
    ds, pixels = image(allocated=16, stored=16)
    ds.BitsStored, ds.HighBit = 12, 11
    assert native(compressed(encoded(ds), EXPLICIT, target), target)[: len(pixels)] == pixels


@pytest.mark.parametrize("source", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
@pytest.mark.parametrize("target", [JPEG_LS_LOSSLESS, RLE_LOSSLESS])
def test_other_encodings_become_explicit_vr_little_endian(source: str, target: str) -> None:
    ds, pixels = image(2)
    data = convert(encoded(ds), EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax.of(source))
    there = compressed(data, source, target)
    assert there[4:6].isalpha(), "a VR stands behind the first tag"
    assert read(there, target).PatientID == ds.PatientID
    assert native(there, target)[: len(pixels)] == pixels


@pytest.mark.parametrize(("source", "target"), [(RLE_LOSSLESS, HTJ2K_LOSSLESS), (JPEG_LS_LOSSLESS, JPEG_LOSSLESS_SV1)])
def test_one_compressed_syntax_becomes_another(source: str, target: str) -> None:
    ds, pixels = image(3, signed=1)
    between = compressed(encoded(ds), EXPLICIT, source)
    assert native(compressed(between, source, target), target)[: len(pixels)] == pixels


def test_baseline_loses_little_and_says_so() -> None:
    ds, _ = image(colours=3, allocated=8, stored=8, rows=64, columns=64)
    ramp = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8)
    ds.PixelData = ramp.tobytes()
    there = read(compressed(encoded(ds), EXPLICIT, JPEG_BASELINE), JPEG_BASELINE)
    assert there.LossyImageCompression == "01"
    assert there.LossyImageCompressionMethod == "ISO_10918_1"
    assert float(there.LossyImageCompressionRatio) > 1
    assert there.PhotometricInterpretation == "YBR_FULL_422"
    back = np.frombuffer(native(encoded(there), JPEG_BASELINE), np.uint8).astype(int)
    assert np.abs(back - ramp).mean() < 3


def test_a_data_set_without_pixel_data_only_changes_its_encoding() -> None:
    ds, _ = image()
    del ds.PixelData
    assert compressed(encoded(ds), EXPLICIT, JPEG_LS_LOSSLESS) == encoded(ds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits a pixel cannot be compressed|frame 1 is truncated"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "Bits Allocated"),
        ({"Rows": 60000, "Columns": 60000}, "the limit is"),
        ({"NumberOfFrames": 9}, "is truncated"),
        ({"Rows": 0}, "are no valid image"),
    ],
)
def test_what_cannot_be_compressed_is_refused_with_the_reason(changes: dict[str, int], reason: str) -> None:
    ds, _ = image()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    with pytest.raises(TranscodeError, match=reason):
        compressed(encoded(ds), EXPLICIT, JPEG_LS_LOSSLESS)


@pytest.mark.parametrize("target", [*LOSSLESS, ""])
def test_one_frame_alone(target: str) -> None:
    _, pixels = image(signed=1)
    numbers = ImagePixel(1, 19, 23, 1, 16, 12, 1, "MONOCHROME2", 0)
    coded = compress.frame_in(Whole(pixels), EXPLICIT, target, numbers, decoded_bytes_max=BYTES_MAX)
    back = coded if not target else compress.frame_in(Whole(coded), target, "", numbers, decoded_bytes_max=BYTES_MAX)
    assert back == pixels


def test_mutated_frames_are_encoded_or_refused() -> None:
    chance = random.Random(SEED)
    ds, _ = image()
    data = bytearray(encoded(ds))
    for _ in range(300):
        mutated = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(len(mutated) - 900)] = chance.randrange(256)
        try:
            compressed(bytes(mutated), EXPLICIT, chance.choice([RLE_LOSSLESS, JPEG_LS_LOSSLESS]))
        except TranscodeError:
            pass


def test_processes_encode_for_the_transcoder() -> None:
    ds, pixels = image(2)
    data = encoded(ds)
    transcoder = Transcoder(processes=1)

    async def work() -> None:
        coded = await transcoder.transcode(data, EXPLICIT, HTJ2K_LOSSLESS)
        assert native(coded, HTJ2K_LOSSLESS)[: len(pixels)] == pixels
        numbers = ImagePixel(1, 19, 23, 1, 16, 12, 0, "MONOCHROME2", 0)
        frame = pixels[: len(pixels) // 2]
        one = await transcoder.frame(frame, EXPLICIT, JPEG_LS_LOSSLESS, numbers)
        assert await transcoder.frame(one, JPEG_LS_LOSSLESS, "", numbers) == frame
        with pytest.raises(TranscodeError, match="cannot be decoded"):
            await transcoder.frame(one[:50], JPEG_LS_LOSSLESS, "", numbers)

    try:
        asyncio.run(work())
    finally:
        transcoder.close()


def test_the_lists_of_what_is_encodable_are_those_of_the_encoders() -> None:
    assert set(compress._ENCODERS) == {*ENCODABLE, *LOSSY_ENCODABLE}


@needs_corpus()
def test_the_corpus_compresses_and_comes_back() -> None:
    count = 0
    for path in corpus_part(corpus_files()):
        if "odd" in path.parts or path.stat().st_size > 600_000:
            continue
        try:
            ds = pydicom.dcmread(path)
            meta_syntax = str(ds.file_meta.TransferSyntaxUID)
        except Exception:
            continue
        if meta_syntax != EXPLICIT or ds.get("BitsAllocated") not in (8, 16) or "PixelData" not in ds:
            continue
        data = path.read_bytes()
        data = data[part10.read_file_meta(data).data_set_offset :]
        target = LOSSLESS[count % len(LOSSLESS)]
        try:
            coded = compressed(data, EXPLICIT, target)
        except TranscodeError as error:
            assert "truncated" in str(error) or "no valid image" in str(error), (path, error)
            continue
        said = ds.PhotometricInterpretation
        back = np.frombuffer(native(coded, target), np.uint8)
        assert said == "YBR_FULL_422" or ds.get("PlanarConfiguration") or back.tobytes().startswith(ds.PixelData), path
        count += 1
    assert count > 20 // STRIDE
