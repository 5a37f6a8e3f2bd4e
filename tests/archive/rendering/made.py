"""Images for the tests of rendering, and how they are drawn without a process."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from PIL import Image

from engine.archive.rendering import picture
from engine.archive.rendering.options import PNG, PictureOptions
from engine.dicom import part10
from engine.dicom.sources import Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from tests import samples

BYTES_MAX = 64 << 20


def dataset(values: np.ndarray, **more: object) -> pydicom.Dataset:
    """An image of samples: (rows, columns), (rows, columns, 3), or with NumberOfFrames (frames, rows, columns)."""
    ds = samples.instance()
    frames = int(str(more.get("NumberOfFrames", 1)))
    shape = values.shape[1:] if frames > 1 else values.shape
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = shape[2] if len(shape) > 2 else 1
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    size = values.dtype.itemsize
    ds.BitsAllocated = ds.BitsStored = 8 * size
    ds.HighBit = 8 * size - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    raw = values.tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OW" if size > 1 else "OB"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: pydicom.Dataset) -> bytes:
    """The data set in Explicit VR Little Endian."""
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, implicit_vr=False, little_endian=True, force_encoding=True)
    data = out.getvalue()
    return data[part10.read_file_meta(data).data_set_offset :]


def drawn(ds: pydicom.Dataset, options: PictureOptions | None = None) -> np.ndarray:
    """The pixels of the picture, as PNG keeps them."""
    options = options or PictureOptions(media_type=PNG)
    return np.asarray(Image.open(io.BytesIO(raw(ds, options))))


def raw(ds: pydicom.Dataset, options: PictureOptions) -> bytes:
    """The encoded picture."""
    return picture.draw(Whole(encoded(ds)), EXPLICIT_VR_LITTLE_ENDIAN, options, decoded_bytes_max=BYTES_MAX)
