"""transcoding.transcode and what it is made of: plans, decoded data sets, and processes that fail, hang or idle."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended

from engine.archive.transcoding import decompress as decompress_module
from engine.archive.transcoding import pixels, process_pool, transcode
from engine.archive.transcoding.decompress import decompress
from engine.archive.transcoding.head import ImagePixel
from engine.archive.transcoding.spool import MEMORY_BYTES_MAX, Spool
from engine.archive.transcoding.transcode import Transcoder, plan
from engine.dicom import part10, transfer_syntax
from engine.dicom.sources import Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, UNCOMPRESSED
from engine.errors import TranscodeError
from tests import samples
from tests.corpus import STRIDE, corpus_files, corpus_part, needs_corpus
from tests.oracle import jpeg_lossless as oracle

pytestmark = pytest.mark.slow

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
LOSSLESS = "1.2.840.10008.1.2.4.70"
BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
J2K = "1.2.840.10008.1.2.4.90"
J2K_LOSSY = "1.2.840.10008.1.2.4.91"
HTJ2K = "1.2.840.10008.1.2.4.201"
JPEG_XL, JPEG_XL_OF_JPEG, JPEG_XL_LOSSY = (f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
SEED = 20261124
BYTES_MAX = 64 << 20


# Plans -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "accepted", "target"),
    [
        (J2K, [IMPLICIT, J2K], J2K),
        (J2K, [IMPLICIT, EXPLICIT], EXPLICIT),
        (J2K, [IMPLICIT], IMPLICIT),
        (J2K, [BASELINE], None),
        (J2K, [], None),
        (EXPLICIT, [IMPLICIT], IMPLICIT),
        (IMPLICIT, [BIG, DEFLATED], DEFLATED),
        (DEFLATED, [BIG], BIG),
        (EXPLICIT, [J2K], J2K),
        (EXPLICIT, [J2K, IMPLICIT], IMPLICIT),
        (RLE, [J2K, HTJ2K], HTJ2K),
        (EXPLICIT, [BASELINE], None),
        ("1.2.840.10008.1.2.4.100", [EXPLICIT, IMPLICIT], None),
        ("1.2.840.10008.1.2.4.92", [EXPLICIT, IMPLICIT], None),
        ("1.2.840.10008.1.2.4.110", [EXPLICIT, IMPLICIT], EXPLICIT),
        ("1.2.840.10008.1.2.4.94", [EXPLICIT, IMPLICIT], None),
        ("1.2.3.4", [EXPLICIT, IMPLICIT], None),
        ("1.2.3.4", [EXPLICIT, "1.2.3.4"], "1.2.3.4"),
    ],
)
def test_plans(source: str, accepted: list[str], target: str | None) -> None:
    assert plan(source, accepted) == target


def test_the_list_of_what_is_decodable_is_that_of_the_decoders() -> None:
    assert frozenset(pixels._DECODERS) == transcode.DECODABLE


def test_a_serving_process_loads_no_codec() -> None:
    program = (
        "import sys; from engine.archive.transcoding import transcode; transcode.Transcoder();"
        "heavy = {'numpy', 'pydicom', 'PIL', 'openjpeg'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


# Data sets made here -----------------------------------------------------------------------------


def compressed(ds: pydicom.Dataset, syntax: str, frames: list[bytes], *, has_bot: bool = False) -> bytes:
    """The data set with these encoded frames, in its compressed transfer syntax."""
    ds.PixelData = encapsulate(frames, has_bot=has_bot)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax if syntax != DEFLATED_FRAME else J2K  # pydicom does not know it
    return samples.encoded(ds)


def native_bytes(ds: pydicom.Dataset) -> bytes:
    return bytes(ds.PixelData)


def read(data: bytes, syntax: str = EXPLICIT) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(part10.write_file_meta("1.2", "1.2.3", syntax) + data))


def decompressed(data: bytes, source: str, target: str = EXPLICIT, bytes_max: int = BYTES_MAX) -> pydicom.Dataset:
    syntaxes = transfer_syntax.of(source), transfer_syntax.of(target)
    return read(decompress(data, *syntaxes, decoded_bytes_max=bytes_max), target)


def picture(rows: int, columns: int, seed: int = SEED) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(4096) for _ in range(rows * columns)]


def lossless(frames: int = 1, *, rows: int = 9, columns: int = 7, **more: object) -> tuple[bytes, bytes]:
    """A data set in JPEG Lossless, and its native pixels."""
    pictures = [picture(rows, columns, SEED + frame) for frame in range(frames)]
    ds = samples.instance(**more)
    ds.Rows, ds.Columns = rows, columns
    if frames > 1:
        ds.NumberOfFrames = frames
    encoded = [oracle.encode(values, rows, columns, precision=12) for values in pictures]
    native = b"".join(struct.pack(f"<{len(values)}H", *values) for values in pictures)
    return compressed(ds, LOSSLESS, encoded), native


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("target", [syntax.uid for syntax in UNCOMPRESSED])
def test_decoded_pixels_and_everything_else_as_it_was(frames: int, target: str) -> None:
    data, native = lossless(frames, patient_name="Ärger^Ödön")
    before, after = read(data, LOSSLESS), decompressed(data, LOSSLESS, target)
    if target == BIG:
        native = np.frombuffer(native, "<u2").astype(">u2").tobytes()
    assert native_bytes(after) == native
    assert after["PixelData"].VR == "OW"
    assert [element.tag for element in after] == [element.tag for element in before]
    assert all(after[element.tag] == element for element in before if element.keyword != "PixelData")


def test_elements_that_are_not_touched_keep_their_very_bytes() -> None:
    data, native = lossless()
    header = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", len(native))
    out = decompress(data, transfer_syntax.of(LOSSLESS), EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=BYTES_MAX)
    assert out == data[: data.index(b"\xe0\x7f\x10\x00")] + header + native


def test_eight_bits_of_odd_length_are_padded_and_ob() -> None:
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 3, 3, 8, 8, 7
    after = decompressed(compressed(ds, LOSSLESS, [oracle.encode(list(range(9)), 3, 3, precision=8)]), LOSSLESS)
    assert after["PixelData"].VR == "OB"
    assert native_bytes(after) == bytes(range(9)) + b"\0"


def test_signed_samples_are_extended_to_bits_allocated() -> None:
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.PixelRepresentation = 2, 2, 1
    values = [-2048, -1, 0, 2047]
    frame = oracle.encode([value & 0xFFF for value in values], 2, 2, precision=12)
    after = decompressed(compressed(ds, LOSSLESS, [frame]), LOSSLESS)
    assert struct.unpack("<4h", native_bytes(after)) == tuple(values)


@pytest.mark.parametrize(("bits", "is_signed"), [(8, False), (12, False), (12, True), (16, True)])
def test_lossless_jpeg_xl_keeps_every_sample(bits: int, is_signed: bool) -> None:
    import imagecodecs

    ds = samples.instance()
    ds.Rows, ds.Columns, ds.PixelRepresentation = 16, 24, int(is_signed)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    low = -(1 << bits - 1) if is_signed else 0
    values = np.random.default_rng(SEED).integers(low, low + (1 << bits), (16, 24))
    coded = (values & (1 << bits) - 1).astype(np.uint8 if bits == 8 else np.uint16)
    after = decompressed(
        compressed(ds, JPEG_XL, [imagecodecs.jpegxl_encode(coded, lossless=True, bitspersample=bits)]), JPEG_XL
    )
    assert (after.pixel_array == values).all()
    assert "LossyImageCompressionMethod" not in after


@pytest.mark.parametrize(
    ("syntax", "said", "method"),
    [(JPEG_XL_OF_JPEG, "YBR_FULL_422", "ISO_10918_1"), (JPEG_XL_LOSSY, "XYB", "ISO_18181_1")],
)
def test_colours_of_lossy_jpeg_xl_are_rgb(syntax: str, said: str, method: str) -> None:
    import imagecodecs

    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, said, 0
    picture = np.full((32, 32, 3), (200, 60, 20), np.uint8)
    if syntax == JPEG_XL_OF_JPEG:
        frame = imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(picture, 95))
    else:
        frame = imagecodecs.jpegxl_encode(picture, distance=1.0)
    after = decompressed(compressed(ds, syntax, [frame]), syntax)
    assert after.PhotometricInterpretation == "RGB"
    assert after.LossyImageCompressionMethod == method
    assert np.abs(after.pixel_array.astype(int) - picture).max() < 16


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_come_by_pixel(planar: int) -> None:
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 2, 3, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", planar
    values = list(range(18))
    after = decompressed(compressed(ds, LOSSLESS, [oracle.encode(values, 2, 3, 3, precision=8)]), LOSSLESS)
    assert native_bytes(after) == bytes(values)
    assert after.PlanarConfiguration == 0
    by_plane = bytes(values[0::3] + values[1::3] + values[2::3])
    frame = by_plane if planar else bytes(values)
    after = decompressed(compressed(ds, ENCAPSULATED_UNCOMPRESSED, [frame]), ENCAPSULATED_UNCOMPRESSED)
    assert native_bytes(after) == bytes(values)
    assert after.PlanarConfiguration == 0


def test_rle_keeps_bits_beyond_bits_stored() -> None:
    """Overlays lie there in data sets of old."""
    ds = samples.instance()
    ds.Rows, ds.Columns = 4, 4
    native = struct.pack("<16H", *(0x8000 | value for value in range(16)))
    ds.PixelData = native
    from pydicom.pixels import compress

    compress(ds, RLE, generate_instance_uid=False)
    assert native_bytes(decompressed(samples.encoded(ds), RLE)) == native


@pytest.mark.parametrize("rows", [8, 5])
def test_single_bits_follow_one_another_across_frames(rows: int) -> None:
    import zlib

    rng = np.random.default_rng(SEED)
    frames = rng.integers(0, 2, (3, rows, 5), dtype=np.uint8)
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, 5, 3
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    packed = [np.packbits(frame, bitorder="little").tobytes() for frame in frames]
    deflated = []
    for frame in packed:
        deflater = zlib.compressobj(wbits=-15)
        stream = deflater.compress(frame) + deflater.flush()
        deflated.append(stream + bytes(len(stream) % 2))
    after = decompressed(compressed(ds, DEFLATED_FRAME, deflated), DEFLATED_FRAME)
    assert (after.pixel_array == frames).all()
    wanted = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    assert native_bytes(after) == wanted + bytes(len(wanted) % 2)


def test_offset_tables_and_group_lengths_go() -> None:
    data, native = lossless(2)
    ds = read(data, LOSSLESS)
    frames = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=2))
    value, offsets, lengths = encapsulate_extended(frames)
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = value, offsets, lengths
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = LOSSLESS
    group_lengths = b"\x28\0\0\0UL\4\0\xff\xff\0\0", b"\xe0\x7f\0\0UL\4\0\xff\xff\0\0"
    out = samples.encoded(ds)
    at = out.index(b"\x28\x00\x02\x00US")
    out = out[:at] + group_lengths[0] + out[at:]
    at = out.index(b"\xe0\x7f\x01\x00OV")
    out = out[:at] + group_lengths[1] + out[at:]
    after = decompressed(out, LOSSLESS)
    assert native_bytes(after) == native
    assert not {0x7FE00000, 0x7FE00001, 0x7FE00002, 0x00280000} & set(after.keys())


def jpeg(colour: bool = True, **options: object) -> tuple[pydicom.Dataset, bytes]:
    from PIL import Image

    rng = np.random.default_rng(SEED)
    shape = (16, 24, 3) if colour else (16, 24)
    flat = np.full(shape, 128) + rng.integers(-20, 20, shape)
    target = io.BytesIO()
    Image.fromarray(flat.astype(np.uint8)).save(target, "JPEG", quality=95, **options)
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 24, 8, 8, 7
    if colour:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    return ds, target.getvalue()


ARITHMETIC = {
    name: base64.b64decode(text)
    for name, text in {
        "sequential": (
            "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
            "FRUVDA8XGBYUGBIUFRT/yQALCAAQABgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wDlk2SK/oEhL9RITjA9enTq1WZuZyI+JcoOWGtR"
            "Uf8AIk6bjMOA/9k="
        ),
        "progressive in colour": (
            "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
            "FRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
            "FBQUFBQUFBT/ygARCAAQABgDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAf8As6zw3t62H6IflGbJA1hY0P/MAAQQBf/a"
            "AAgBAQABBQIYFbD+Msg2v28xgP/MAAQRBf/aAAgBAwEBPwEWLwFQj0E+w+aA/8wABBEF/9oACAECAQE/ATsDCtOGl9RQt4D/zAAE"
            "EAX/2gAIAQEABj8CXhPy/8wABBAF/9oACAEBAAE/IaZqLP/aAAwDAQACAAMAAAAQtjD/zAAEEQX/2gAIAQMBAT8QTEf/zAAEEQX/"
            "2gAIAQIBAT8QJQbA/8wABBAF/9oACAEBAAE/EFQ4wfWQ9Exi/9k="
        ),
        "sequential of 12 bits": (
            "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
            "CgoKBggLDAsKDAkKCgr/yQALDAAQABgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wD+8Tv73L4aPiRJyPGzLlsL0wLU0aiRArSZQ4Ob"
            "atiRaVO8y/gPzsQfFC8TVMD7XiNBduA017FMCNcB90/JGrEw15ay9173SK1ueNfeT7nXrBw+ATq4/9k="
        ),
        "progressive of 12 bits": (
            "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
            "CgoKBggLDAsKDAkKCgr/ygALDAAQABgBAREA/8wABAAQ/9oACAEBAAAAAf8A/eJ2RXsW20w3OOIaumD/zAAEEAX/2gAIAQEAAQUC"
            "FrkI/BfbuIL8GwPd+IxaI9F+jzqTQP/MAAQQBf/aAAgBAQAGPwIWb19YCj5SG1jkYibFCUxEDSI/rm4YnwiKWwwg/8wABBAF/9oA"
            "CAEBAAE/Iaiz80lB0P/aAAgBAQAAABBQ/8wABBAF/9oACAEBAAE/ECRcN29nbLABfD7ngP/Z"
        ),
    }.items()
}
"""Ramps of 16 rows and 24 columns, written by libjpeg-turbo with `arith_code`: no encoder here has that."""


@pytest.mark.parametrize(
    ("number", "name", "bits"),
    [
        (52, "sequential", 8),
        (56, "progressive in colour", 8),
        (52, "sequential of 12 bits", 12),
        (54, "progressive of 12 bits", 12),
    ],
)
def test_arithmetic_coding_is_decoded(number: int, name: str, bits: int) -> None:
    """Within the loss of the quality with which it was written."""
    syntax, in_colour = f"1.2.840.10008.1.2.4.{number}", "colour" in name
    ds, _ = jpeg(colour=in_colour)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (bits + 7) // 8 * 8, bits, bits - 1
    after = decompressed(compressed(ds, syntax, [ARITHMETIC[name]]), syntax)
    row, column = np.mgrid[:16, :24]
    grey = column * 9 + row * 3 if bits == 8 else column * 150 + row * 40
    ramps = np.dstack([grey, row * 15, 255 - column * 10]) if in_colour else grey
    decoded = np.frombuffer(native_bytes(after), np.uint8 if bits == 8 else np.uint16).reshape(ramps.shape)
    assert np.abs(decoded.astype(int) - ramps % (1 << bits)).max() <= (13 if in_colour else 1)
    assert after.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_jpeg_becomes_rgb_and_is_said_to_be_lossy(options: dict[str, object]) -> None:
    from PIL import Image

    ds, frame = jpeg(**options)
    after = decompressed(compressed(ds, BASELINE, [frame]), BASELINE)
    assert after.PhotometricInterpretation == "RGB"
    assert native_bytes(after) == Image.open(io.BytesIO(frame)).tobytes()
    assert (after.LossyImageCompression, after.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(after.LossyImageCompressionRatio) == pytest.approx(16 * 24 * 3 / len(after.PixelData), abs=9)
    tags = [element.tag for element in after]
    assert tags == sorted(tags)


def test_what_is_said_of_lossy_compression_stays() -> None:
    ds, frame = jpeg(colour=False)
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", ["3.5", "10"]
    after = decompressed(compressed(ds, BASELINE, [frame]), BASELINE)
    assert after.LossyImageCompressionRatio == [3.5, 10]
    assert after.PhotometricInterpretation == "MONOCHROME2"
    lossless_after = decompressed(lossless()[0], LOSSLESS)
    assert "LossyImageCompression" not in lossless_after


@pytest.mark.parametrize(
    ("syntax", "name", "method"),
    [("1.2.840.10008.1.2.4.81", "near", "ISO_14495_1"), ("1.2.840.10008.1.2.4.91", "ratio", "ISO_15444_1")],
)
def test_lossy_and_lossless_codestreams_of_one_syntax_are_told_apart(syntax: str, name: str, method: str) -> None:
    rng = np.random.default_rng(SEED)
    image = (rng.integers(0, 64, (32, 32)) + 1000).astype(np.uint16)
    if name == "near":
        import jpeg_ls

        frames = {lossy: jpeg_ls.encode_array(image, lossy_error=3 if lossy else 0) for lossy in (True, False)}
    else:
        from openjpeg.utils import encode_array

        frames = {True: encode_array(image, compression_ratios=[4]), False: encode_array(image)}
    for lossy, frame in frames.items():
        ds = samples.instance()
        ds.Rows = ds.Columns = 32
        ds.BitsStored, ds.HighBit = 16, 15
        after = decompressed(compressed(ds, syntax, [bytes(frame)]), syntax)
        assert after.get("LossyImageCompressionMethod", "") == (method if lossy else "")


def test_an_icon_is_decoded_or_left_out() -> None:
    data, native = lossless()
    for icon_data, is_kept in ((oracle.encode([1, 2, 3, 4], 2, 2, precision=8), True), (b"no image", False)):
        ds = read(data, LOSSLESS)
        icon = pydicom.Dataset()
        icon.SamplesPerPixel, icon.PhotometricInterpretation, icon.Rows, icon.Columns = 1, "MONOCHROME2", 2, 2
        icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 8, 7, 0
        icon.PixelData = encapsulate([icon_data])
        icon["PixelData"].VR, icon["PixelData"].is_undefined_length = "OB", True
        ds.IconImageSequence = [icon]
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = LOSSLESS
        ds["PixelData"].is_undefined_length = True
        for target in (EXPLICIT, IMPLICIT):
            after = decompressed(samples.encoded(ds), LOSSLESS, target)
            assert native_bytes(after) == native
            assert ("IconImageSequence" in after) is is_kept
            if is_kept:
                assert after.IconImageSequence[0].PixelData == bytes([1, 2, 3, 4])


def test_a_native_icon_stays_as_it_is() -> None:
    data, _ = lossless()
    ds = read(data, LOSSLESS)
    icon = pydicom.Dataset()
    icon.Rows = icon.Columns = 2
    icon.PixelData = b"1234"
    icon["PixelData"].VR = "OB"
    ds.IconImageSequence = [icon]
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = LOSSLESS
    assert decompressed(samples.encoded(ds), LOSSLESS).IconImageSequence[0].PixelData == b"1234"


def test_a_data_set_without_pixels_only_changes_its_syntax() -> None:
    ds = samples.instance(transfer_syntax=J2K)
    del ds.PixelData
    data = samples.encoded(ds)
    assert decompress(data, transfer_syntax.of(J2K), EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=9) == data


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("Rows", 8, "rows, columns and components are"),
        ("Rows", 0, "are no valid image"),
        ("NumberOfFrames", 2, "there are 1 frames, Number of Frames (0028,0008) is 2"),
        ("NumberOfFrames", 2**31 - 1, "are no valid image"),
        ("BitsAllocated", 12, "Bits Allocated (0028,0100) is 12"),
        ("BitsAllocated", 8, "is invalid"),
        ("BitsStored", 0, "is invalid"),
        ("PixelRepresentation", 2, "is invalid"),
        ("SamplesPerPixel", 5, "are no valid image"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(keyword: str, value: int, reason: str) -> None:
    ds = read(lossless()[0], LOSSLESS)
    setattr(ds, keyword, value)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = LOSSLESS
    with pytest.raises(TranscodeError) as caught:
        decompressed(samples.encoded(ds), LOSSLESS)
    assert reason in str(caught.value)


def test_what_would_be_too_large_is_refused_before_it_is_decoded() -> None:
    data, native = lossless(3)
    one = len(native) // 3
    assert native_bytes(decompressed(data, LOSSLESS, bytes_max=one)) == native
    with pytest.raises(TranscodeError, match=f"would have {one} bytes a frame .*the limits are {one - 1} and"):
        decompressed(data, LOSSLESS, bytes_max=one - 1)
    ds = read(data, LOSSLESS)
    ds.Rows = ds.Columns = 60_000
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = LOSSLESS
    with pytest.raises(TranscodeError, match="and 21600000000 in all, the limits are"):
        decompressed(samples.encoded(ds), LOSSLESS, bytes_max=1 << 40)


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_pixel_data_that_is_cut_within_a_fragment_is_refused_before_a_frame_is_decoded(cut: int) -> None:
    data, _ = lossless(3)
    end = data.rindex(b"\xfe\xff\xdd\xe0")
    pieces = decompress_module.decompressed(
        Whole(data[: end - cut]), transfer_syntax.of(LOSSLESS), decoded_bytes_max=BYTES_MAX
    )
    with pytest.raises(TranscodeError, match="is truncated"):
        next(pieces)
    whole = decompress(data[:end], transfer_syntax.of(LOSSLESS), EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=BYTES_MAX)
    assert whole == decompress(
        data, transfer_syntax.of(LOSSLESS), EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=BYTES_MAX
    )


@pytest.mark.parametrize("rest", [1, 7, 8, 11, 100, 2048])
@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, BIG])
def test_bytes_behind_encapsulated_pixel_data_are_forgiven(rest: int, target: str) -> None:
    data, native = lossless()
    after = decompressed(data + bytes(rest), LOSSLESS, target)
    assert len(native_bytes(after)) == len(native)


def test_pixel_data_that_is_not_encapsulated_is_refused() -> None:
    ds = samples.instance()
    with pytest.raises(TranscodeError, match="is not encapsulated"):
        decompressed(samples.encoded(ds), J2K)


def test_a_jpeg_with_more_bits_than_the_data_set_says_is_refused() -> None:
    ds, frame = jpeg(colour=False)
    at = frame.index(b"\xff\xc0")
    twelve = frame[: at + 4] + b"\x0c" + frame[at + 5 :]
    with pytest.raises(TranscodeError, match="Bits Allocated"):
        decompressed(compressed(ds, "1.2.840.10008.1.2.4.51", [twelve]), "1.2.840.10008.1.2.4.51")


@pytest.mark.parametrize("syntax", sorted(transcode.DECODABLE))
def test_mutated_data_sets_decode_or_are_refused(syntax: str) -> None:
    data, _ = lossless(2)
    for seed in range(SEED, SEED + 60):
        rng = random.Random(seed)
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed) // 2, len(changed))] = rng.randrange(256)
        try:
            decompress(changed, transfer_syntax.of(syntax), EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=1 << 20)
        except TranscodeError as error:
            assert str(error), f"seed {seed}"


# Colours -----------------------------------------------------------------------------------------

COLOUR_SYNTAXES = [RLE, LOSSLESS, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80", J2K, JPEG_XL]
SAID = ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"]
NATIVE = {"YBR_FULL_422": "YBR_FULL", "YBR_RCT": "RGB", "YBR_ICT": "RGB"}


def colour(syntax: str, said: str, planar: int = 0) -> tuple[bytes, bytes]:
    """A colour data set that says `said` of samples that no codec transforms, and its samples by pixel."""
    values = bytes(random.Random(SEED).randrange(256) for _ in range(32 * 32 * 3))
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, said, planar
    if syntax == RLE:
        from pydicom.pixels.encoders import RLELosslessEncoder

        options = {"rows": 32, "columns": 32, "samples_per_pixel": 3, "bits_allocated": 8, "bits_stored": 8}
        frame = RLELosslessEncoder.encode(
            values,
            number_of_frames=1,
            pixel_representation=0,
            photometric_interpretation="RGB",
            planar_configuration=0,
            encoding_plugin="pylibjpeg",
            **options,
        )
    elif syntax.endswith((".57", ".70")):
        frame = oracle.encode(list(values), 32, 32, 3, precision=8)
    elif syntax == JPEG_XL:
        import imagecodecs

        frame = imagecodecs.jpegxl_encode(np.frombuffer(values, np.uint8).reshape(32, 32, 3), lossless=True)
    elif syntax.endswith(".80"):
        import jpeg_ls

        frame = bytes(jpeg_ls.encode_array(np.frombuffer(values, np.uint8).reshape(32, 32, 3), interleave_mode=2))
    else:
        from openjpeg.utils import encode_array

        frame = encode_array(
            np.frombuffer(values, np.uint8).reshape(32, 32, 3), photometric_interpretation=1, use_mct=False
        )
    return compressed(ds, syntax, [frame]), values


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("syntax", COLOUR_SYNTAXES)
def test_native_colour_never_claims_a_form_that_only_compressed_data_sets_have(syntax: str, said: str) -> None:
    """A native YBR_FULL_422 has two bytes a pixel and YBR_RCT exists in JPEG 2000 only."""
    data, values = colour(syntax, said, planar=1)
    after = decompressed(data, syntax)
    assert native_bytes(after) == values
    assert after.PhotometricInterpretation == NATIVE.get(said, said)
    assert after.PlanarConfiguration == 0
    assert after.pixel_array.shape == (32, 32, 3)  # pydicom reads it


@pytest.mark.parametrize("said", ["YBR_PARTIAL_422", "YBR_PARTIAL_420"])
def test_samples_of_the_reduced_range_become_rgb(said: str) -> None:
    black_and_white = [16, 128, 128] * 24 + [235, 128, 128] * 24
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 6, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, said, 0
    after = decompressed(compressed(ds, LOSSLESS, [oracle.encode(black_and_white, 8, 6, 3, precision=8)]), LOSSLESS)
    assert after.PhotometricInterpretation == "RGB"
    assert native_bytes(after) == bytes(72) + b"\xff" * 72


@pytest.mark.parametrize("marker", [b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1"])
def test_markers_of_lossless_jpeg_change_no_sample(marker: bytes) -> None:
    values = list(range(144))
    frame = oracle.encode(values, 8, 6, 3, precision=8)
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 6, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL", 0
    after = decompressed(compressed(ds, LOSSLESS, [frame[:2] + marker + frame[2:]]), LOSSLESS)
    assert native_bytes(after) == bytes(values)
    assert after.PhotometricInterpretation == "YBR_FULL"


def test_an_encapsulated_frame_that_is_subsampled_gets_its_colours_for_each_pixel() -> None:
    ds = samples.instance()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 4, 8, 8, 7
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    after = decompressed(compressed(ds, ENCAPSULATED_UNCOMPRESSED, [bytes(range(8))]), ENCAPSULATED_UNCOMPRESSED)
    assert native_bytes(after) == bytes([0, 2, 3, 1, 2, 3, 4, 6, 7, 5, 6, 7])
    assert after.PhotometricInterpretation == "YBR_FULL"


@pytest.mark.skipif(not which("dcmcjpeg"), reason="no DCMTK")
@pytest.mark.parametrize("said", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("option", ["+e1", "+eb", "+el"])
def test_colour_that_dcmtk_has_compressed_is_what_dcmtk_decompresses(tmp_path: Path, said: str, option: str) -> None:
    data, _ = colour(LOSSLESS, said)
    ds = decompressed(data, LOSSLESS)
    native, coded, back = tmp_path / "native", tmp_path / "coded", tmp_path / "back"
    native.write_bytes(part10.write_file_meta(ds.SOPClassUID, ds.SOPInstanceUID, EXPLICIT) + samples.encoded(ds))
    subprocess.run(["dcmcjpeg", option, native, coded], check=True, capture_output=True)
    subprocess.run(["dcmdjpeg", "+cn", coded, back], check=True, capture_output=True)
    meta = part10.read_file_meta(coded.read_bytes())
    after = decompressed(coded.read_bytes()[meta.data_set_offset :], meta.transfer_syntax_uid)
    theirs = pydicom.dcmread(back)
    if option == "+e1":
        assert native_bytes(after) == native_bytes(theirs)
        assert after.PhotometricInterpretation == theirs.PhotometricInterpretation
    assert after.pixel_array.shape == theirs.pixel_array.shape


# The corpus --------------------------------------------------------------------------------------


def compressed_corpus() -> Iterator[tuple[Path, str, bytes]]:
    for path in corpus_files():
        data = path.read_bytes()
        try:
            meta = part10.read_file_meta(data)
        except Exception:
            continue
        if meta.transfer_syntax_uid in transcode.DECODABLE:
            yield path, meta.transfer_syntax_uid, data[meta.data_set_offset :]


@needs_corpus()
def test_one_siemens_image_in_nine_syntaxes_has_the_same_pixels() -> None:
    async def work() -> set[bytes]:
        transcoder = Transcoder()
        found = set()
        for path in corpus_files("series/mr-siemens-one-image-nine-syntaxes"):
            data = path.read_bytes()
            meta = part10.read_file_meta(data)
            for target in (EXPLICIT, IMPLICIT):
                out = await transcoder.transcode(data[meta.data_set_offset :], meta.transfer_syntax_uid, target)
                found.add(native_bytes(read(out, target)))
        transcoder.close()
        return found

    assert len(corpus_files("series/mr-siemens-one-image-nine-syntaxes")) == 9
    assert len(asyncio.run(work())) == 1


@needs_corpus()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_corpus_decodes_as_pydicom_decodes_it() -> None:
    decoded = 0
    for path, syntax, data in corpus_part([*compressed_corpus()]):
        try:
            after = decompressed(data, syntax)
        except TranscodeError as error:
            assert path.parent.name == "odd", f"{path.name}: {error}"
            continue
        if "PixelData" not in after:
            continue
        decoded += 1
        pixels_found = after.pixel_array
        try:
            reference = pydicom.dcmread(path, force=True).pixel_array
        except Exception:
            continue  # pydicom has no decoder for it here
        difference = np.abs(pixels_found.astype(int) - reference.astype(int)).max()
        # Chroma is brought to full resolution and RGB by libjpeg here and by numpy there.
        assert difference <= (60 if syntax == BASELINE or syntax.endswith(".51") else 0), path.name
    assert decoded >= 40 // STRIDE


@needs_corpus()
def test_the_lossless_jpeg_of_the_corpus_is_decoded() -> None:
    done = 0
    for path, syntax, data in compressed_corpus():
        if syntax.endswith((".57", ".70")) and path.parent.name != "odd":
            assert decompressed(data, syntax).pixel_array.any(), path.name
            done += 1
    assert done >= 9


# Processes ---------------------------------------------------------------------------------------


@pytest.fixture
def transcoder() -> Iterator[Transcoder]:
    transcoder = Transcoder(processes=2, decoded_bytes_max=64 << 20)
    yield transcoder
    transcoder.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Transcoder]:
    """For tests that leave its process as it is."""
    transcoder = Transcoder(processes=1, time_limit_s=10)
    yield transcoder
    transcoder.close()


def processes(transcoder: Transcoder) -> list[int]:
    pool = transcoder._pool
    return [process._process.pid for process in (*pool._idle, *pool._working)]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    event = threading.Event()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        event.wait(0.01)


def test_no_process_is_started_for_what_is_not_compressed(transcoder: Transcoder) -> None:
    data = samples.encoded(samples.instance())
    big = samples.instance()
    big.Rows, big.PixelData = 1000, random.Random(SEED).randbytes(600_000)

    async def work() -> None:
        for source in (data, samples.encoded(big)):
            there = await transcoder.transcode(source, EXPLICIT, IMPLICIT)
            assert await transcoder.transcode(there, IMPLICIT, EXPLICIT) == source
            deflated = await transcoder.transcode(memoryview(source), EXPLICIT, DEFLATED)
            assert await transcoder.transcode(deflated, DEFLATED, EXPLICIT) == source
            assert await transcoder.transcode(source, EXPLICIT, EXPLICIT) == source

    asyncio.run(work())
    assert processes(transcoder) == []


def test_jobs_share_few_processes(transcoder: Transcoder) -> None:
    data, native = lossless()

    async def work() -> list[bytes]:
        return await asyncio.gather(*(transcoder.transcode(data, LOSSLESS, EXPLICIT) for _ in range(12)))

    assert {native_bytes(read(out)) for out in asyncio.run(work())} == {native}
    assert 1 <= len(processes(transcoder)) <= 2


def test_a_refusal_names_the_reason_and_keeps_the_process(transcoder: Transcoder) -> None:
    data, _ = lossless()

    async def work() -> None:
        with pytest.raises(TranscodeError, match="frame 1"):
            await transcoder.transcode(data.replace(b"\xff\xc3", b"\xff\xc9"), LOSSLESS, EXPLICIT)
        (pid,) = processes(transcoder)
        await transcoder.transcode(data, LOSSLESS, EXPLICIT)
        assert processes(transcoder) == [pid]

    asyncio.run(work())


@pytest.mark.parametrize("syntax", [J2K, HTJ2K, JPEG_LS, BASELINE, LOSSLESS, RLE, JPEG_XL])
def test_a_truncated_codestream_is_refused_at_once(shared: Transcoder, syntax: str) -> None:
    """A decoder neither searches for its end until the time limit nor fills the rest with grey."""
    side = 60
    image = ImagePixel(1, side, side, 1, 8, 8, 0, "MONOCHROME2", 0)
    native = random.Random(SEED).randbytes(side * side)

    async def work() -> None:
        if syntax == LOSSLESS:
            whole = oracle.encode(list(native), side, side, precision=8)
        elif syntax == JPEG_XL:
            import imagecodecs

            whole = imagecodecs.jpegxl_encode(np.frombuffer(native, np.uint8).reshape(side, side), lossless=True)
        else:
            whole = await shared.frame(native, EXPLICIT, syntax, image)
        assert len(await shared.frame(whole, syntax, "", image)) == len(native)
        for length in (len(whole) // 3, len(whole) // 2, len(whole) - 100):
            with pytest.raises(TranscodeError, match="^(?!.*took more)"):
                await shared.frame(whole[:length], syntax, "", image)

    asyncio.run(work())


def test_what_has_no_way_is_refused_at_once(transcoder: Transcoder) -> None:
    async def work() -> None:
        for source, target, reason in (
            (EXPLICIT, J2K_LOSSY, "there is no encoder for JPEG 2000"),
            ("1.2.840.10008.1.2.4.100", EXPLICIT, "there is no decoder for MPEG2"),
            ("1.2.840.10008.1.2.4.58", EXPLICIT, "there is no decoder for JPEG Lossless, Non-Hierarchical"),
            ("1.2.840.10008.1.2.4.59", EXPLICIT, "there is no decoder for JPEG Extended, Hierarchical"),
        ):
            with pytest.raises(TranscodeError, match=reason):
                await transcoder.transcode(b"", source, target)

    asyncio.run(work())
    assert processes(transcoder) == []


def test_a_process_that_dies_costs_its_job_only(transcoder: Transcoder) -> None:
    data, native = lossless()

    async def work() -> None:
        await transcoder.transcode(data, LOSSLESS, EXPLICIT)
        (pid,) = processes(transcoder)
        os.kill(pid, signal.SIGSTOP)  # so that the job is in it when it dies
        job = asyncio.ensure_future(transcoder.transcode(data, LOSSLESS, EXPLICIT))
        while not transcoder._pool._working:
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(TranscodeError, match=r"its process ended by signal 9"):
            await job
        assert native_bytes(read(await transcoder.transcode(data, LOSSLESS, EXPLICIT))) == native
        assert is_gone(pid)

    asyncio.run(work())


@pytest.mark.parametrize("ahead", [0, 1, 200, 1 << 20])
def test_what_does_not_come_with_a_job_is_asked_for(
    shared: Transcoder, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    data, native = lossless()
    monkeypatch.setattr(process_pool, "AHEAD_BYTES_MAX", 0 if ahead < len(data) else ahead)
    monkeypatch.setattr(process_pool, "AHEAD_BYTES", ahead)
    assert native_bytes(read(asyncio.run(shared.transcode(data, LOSSLESS, EXPLICIT)))) == native


def test_an_idle_process_that_died_is_replaced(transcoder: Transcoder) -> None:
    data, native = lossless()

    async def work() -> None:
        await transcoder.transcode(data, LOSSLESS, EXPLICIT)
        (pid,) = processes(transcoder)
        (process,) = transcoder._pool._idle
        os.kill(pid, signal.SIGKILL)
        until(lambda: not process.is_alive)
        assert native_bytes(read(await transcoder.transcode(data, LOSSLESS, EXPLICIT))) == native

    asyncio.run(work())


def test_a_job_that_takes_too_long_is_ended() -> None:
    data, _ = lossless()
    transcoder = Transcoder(processes=1)

    async def work() -> None:
        await transcoder.transcode(data, LOSSLESS, EXPLICIT)
        (pid,) = processes(transcoder)
        transcoder._pool._time_limit_s = 0.05
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TranscodeError, match=r"decoding transfer syntax .*\.70 took more than 0.05 s"):
            await transcoder.transcode(data, LOSSLESS, EXPLICIT)
        assert is_gone(pid)
        transcoder._pool._time_limit_s = 60
        await transcoder.transcode(data, LOSSLESS, EXPLICIT)

    asyncio.run(work())
    transcoder.close()


def test_idle_processes_end() -> None:
    transcoder = Transcoder(idle_s=0.01)
    data, _ = lossless()
    asyncio.run(transcoder.transcode(data, LOSSLESS, EXPLICIT))
    until(lambda: not processes(transcoder))
    transcoder.close()


def test_processes_end_with_the_transcoder_and_with_its_last_reference() -> None:
    data, _ = lossless()
    for way in ("close", "forget"):
        transcoder = Transcoder()
        asyncio.run(transcoder.transcode(data, LOSSLESS, EXPLICIT))
        (pid,) = processes(transcoder)
        if way == "close":
            transcoder.close()
            with pytest.raises(TranscodeError, match="is closed"):
                asyncio.run(transcoder.transcode(data, LOSSLESS, EXPLICIT))
        del transcoder
        until(lambda pid=pid: is_gone(pid))


def test_closing_ends_the_job_under_way() -> None:
    data, _ = lossless()
    transcoder = Transcoder(processes=1)

    async def work() -> None:
        await transcoder.transcode(data, LOSSLESS, EXPLICIT)
        os.kill(processes(transcoder)[0], signal.SIGSTOP)
        job = asyncio.ensure_future(transcoder.transcode(data, LOSSLESS, EXPLICIT))
        while not transcoder._pool._working:
            await asyncio.sleep(0)
        transcoder.close()
        with pytest.raises(TranscodeError):
            await job

    asyncio.run(work())


def test_an_image_larger_than_it_says_ends_in_an_answer() -> None:
    """A JPEG 2000 codestream of 60000 by 60000 in a data set of 64 by 64: the address space is what stops it."""
    from openjpeg.utils import encode_array

    frame = bytearray(encode_array(np.zeros((64, 64), np.uint16)))
    size = frame.index(b"\xff\x51")
    for at in (8, 12, 24, 28):  # Xsiz, Ysiz, XTsiz, YTsiz
        struct.pack_into(">I", frame, size + at - 2, 60000)
    ds = samples.instance()
    ds.Rows = ds.Columns = 64
    data = compressed(ds, J2K, [bytes(frame) + bytes(len(frame) % 2)])
    transcoder = Transcoder(decoded_bytes_max=1 << 20)
    with pytest.raises(TranscodeError, match="frame 1 cannot be decoded"):
        asyncio.run(transcoder.transcode(data, J2K, EXPLICIT))
    transcoder.close()


@pytest.mark.parametrize(
    "answer",
    [
        process_pool.ANSWER.pack(process_pool.PIECE, 1 << 40, 0),
        process_pool.ANSWER.pack(process_pool.NOT_POSSIBLE, 1 << 40, 0),
        process_pool.ANSWER.pack(process_pool.READ, 0, 11),
        process_pool.ANSWER.pack(process_pool.READ, 1 << 63, 1 << 63),
        process_pool.ANSWER.pack(77, 0, 0),
    ],
)
def test_an_answer_that_cannot_be_is_not_believed(answer: bytes) -> None:
    process = process_pool._Process(transcode.CODECS, 100)
    ours, theirs = os.pipe()
    os.write(theirs, answer)
    os.dup2(ours, process._process.stdout.fileno())  # type: ignore[union-attr]
    with pytest.raises(TranscodeError, match="failed"):
        process.run(Whole(bytes(10)), {"job": "decoding", "syntax": LOSSLESS}, lambda piece: None, 10)
    process.end()
    os.close(ours)
    os.close(theirs)


def test_a_damaged_last_frame_is_known_before_anything_is_given_out(transcoder: Transcoder) -> None:
    data, _ = lossless(3)
    at = data.rindex(b"\xff\xda")
    damaged = data[:at] + bytes(8) + data[at + 8 :]
    with pytest.raises(TranscodeError, match="frame 3"):
        asyncio.run(transcoder.decode(Whole(damaged), transfer_syntax.of(LOSSLESS)))


@pytest.mark.parametrize("length", [0, 10, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX + 1, 3 * MEMORY_BYTES_MAX])
def test_a_spool_gives_back_what_was_written_wherever_it_is(tmp_path: Path, length: int) -> None:
    spool = Spool(str(tmp_path), 0)
    data = random.Random(SEED).randbytes(length)
    for at in range(0, length, 700_001):
        spool.write(data[at : at + 700_001])
    source = spool.source()
    assert source.length == length
    assert bytes(source.read(0, length + 5)) == data
    assert bytes(source.read(length // 2, 7)) == data[length // 2 :][:7]
    assert list(tmp_path.iterdir()) == []


def test_a_spool_leaves_the_reserve_of_the_disk_alone_and_needs_no_folder_of_its_own(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1 << 60)
    with pytest.raises(TranscodeError, match="reserve"):
        spool.write(bytes(MEMORY_BYTES_MAX + 1))
    spool = Spool(str(tmp_path / "not there"), 0)
    spool.write(bytes(MEMORY_BYTES_MAX + 1))
    assert spool.source().length == MEMORY_BYTES_MAX + 1


MEASURE = """
import asyncio, json, resource, sys
from pathlib import Path
import numpy as np
import pydicom
from pydicom.pixels.encoders import RLELosslessEncoder
from engine.archive.transcoding.transcode import Transcoder
from engine.dicom import transfer_syntax
from engine.dicom.sources import Whole
from tests import samples
from tests.archive.test_transcode import RLE, compressed

def peak(who):
    return resource.getrusage(who).ru_maxrss >> 10

frames = 150
ds = samples.instance()
ds.Rows = ds.Columns = 1024
ds.BitsStored, ds.HighBit, ds.NumberOfFrames = 16, 15, frames
frame = RLELosslessEncoder.encode(
    np.arange(1 << 20, dtype="<u2").reshape(1024, 1024) // 1024, encoding_plugin="pylibjpeg", number_of_frames=1,
    rows=1024, columns=1024, samples_per_pixel=1, bits_allocated=16, bits_stored=16, pixel_representation=0,
    photometric_interpretation="MONOCHROME2",
)
data = compressed(ds, RLE, [bytes(frame)] * frames)

async def main():
    transcoder = Transcoder(directory=Path(sys.argv[1]))
    before = peak(resource.RUSAGE_SELF)
    source, _ = await transcoder.decode(Whole(data), transfer_syntax.of(RLE))
    transcoder.close()
    return [source.length >> 20, peak(resource.RUSAGE_SELF) - before, peak(resource.RUSAGE_CHILDREN)]

print(json.dumps(asyncio.run(main())))
"""


def test_neither_side_holds_all_frames(tmp_path: Path) -> None:
    """300 MiB of pixels, and what the two processes take beside themselves."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    length_mib, grown_mib, decoder_mib = json.loads(done.stdout)
    assert length_mib == 300
    assert grown_mib <= 32
    assert decoder_mib <= 220
