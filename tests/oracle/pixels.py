"""The frames of a file as pydicom has them, and as DCMTK has what pydicom cannot decode: the judges of our frames."""

from __future__ import annotations

import io
import subprocess
import tempfile
import warnings
import zlib
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 57, 70))
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"

Samples = np.ndarray[Any, np.dtype[Any]]


def frames_as_stored(ds: Dataset) -> list[bytes]:
    """Codestreams, or native samples in little endian."""
    count = int(ds.get("NumberOfFrames") or 1)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        extended = ds.get("ExtendedOffsetTable"), ds.get("ExtendedOffsetTableLengths")
        coded = generate_frames(
            ds.PixelData, number_of_frames=count, extended_offsets=extended if all(extended) else None
        )
        return list(coded)[:count]
    if ds.get("PhotometricInterpretation") == "YBR_FULL_422":
        # pydicom brings them to full samples.
        return [bytes(ds.PixelData)[: ds.Rows * ds.Columns * 2]]
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    frames = []
    for array, _ in decoder.iter_array(ds, raw=True, correct_unused_bits=False, view_only=True):
        if ds.get("BitsAllocated") == 1 and "PixelData" in ds:
            frames.append(np.packbits(array.reshape(-1), bitorder="little").tobytes())
            continue
        if ds.get("PlanarConfiguration") == 1 and ds.SamplesPerPixel > 1:
            array = array.transpose(2, 0, 1)  # pydicom gives colour by pixel
        frames.append(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
    return frames


def frames_decoded(file: bytes) -> list[Samples] | None:
    """The samples of each frame of a file, by pixel, YBR as RGB. None: there is no judge of them here."""
    ds = pydicom.dcmread(io.BytesIO(file), force=True)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax == DEFLATED_FRAME:
        ds.PixelData = b"".join(zlib.decompress(frame, -15) for frame in generate_frames(ds.PixelData))
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(pydicom.pixels.iter_pixels(ds))
        except Exception:  # pydicom raises what it likes
            pass
    return _by_dcmtk(file) if syntax in JPEG and which("dcmdjpeg") else None


def _by_dcmtk(file: bytes) -> list[Samples] | None:
    with tempfile.TemporaryDirectory() as folder:
        coded, native = Path(folder) / "coded", Path(folder) / "native"
        coded.write_bytes(file)
        if subprocess.run(["dcmdjpeg", coded, native], capture_output=True).returncode:
            return None
        return list(pydicom.pixels.iter_pixels(pydicom.dcmread(native)))
