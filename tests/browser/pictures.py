"""Pixels on the screen compared with pixels in an instance."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Locator
from pydicom.dataset import Dataset

from tests import samples

ROWS, COLUMNS = 96, 128
INTERCEPT = -1024


def slices(study: int, count: int, **more: object) -> list[Dataset]:
    """A CT series of which each image is different; instance numbers run against the positions."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    data_sets = []
    for number in range(1, count + 1):
        disc = (y - 48) ** 2 + (x - 20 - 12 * number) ** 2 < 300
        pixels = (700 + 4 * y + 3 * x + 500 * disc).astype("<u2")
        data_sets.append(
            samples.instance(
                study, 1, number, pixels=pixels.tobytes(), Rows=ROWS, Columns=COLUMNS, WindowCenter=40,
                WindowWidth=1200, RescaleIntercept=INTERCEPT, RescaleSlope=1, RescaleType="HU", PixelSpacing=[1, 1],
                ImagePositionPatient=[0, 0, -5 * number], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **more,
            )
        )  # fmt: skip
    return data_sets


def expected(ds: Dataset, center: float, width: float) -> NDArray[np.float64]:
    """Grey levels from 0 to 255 by the LINEAR function (PS3.3 C.11.2.1.2.1)."""
    values = ds.pixel_array.astype(np.float64) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)


def shown(picture: Locator) -> NDArray[np.float64]:
    """Grey levels of an <img> or <canvas> in its own resolution."""
    width, height, levels = picture.evaluate(
        """async (element) => {
            await element.decode?.();
            const canvas = document.createElement("canvas");
            canvas.width = element.naturalWidth || element.width;
            canvas.height = element.naturalHeight || element.height;
            const context = canvas.getContext("2d");
            context.drawImage(element, 0, 0);
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
            const text = Array.from(data, (level) => String.fromCharCode(level)).join("");
            return [canvas.width, canvas.height, btoa(text)];
        }"""
    )
    return np.frombuffer(base64.b64decode(levels), np.uint8).reshape(height, width, 4)[:, :, :3].mean(axis=2)


def difference(picture: Locator, ds: Dataset, center: float, width: float) -> float:
    """The mean difference of the grey levels; JPEG of quality 90 makes less than 2 of 255."""
    levels = shown(picture)
    assert levels.shape == (ds.Rows, ds.Columns)
    return float(np.abs(levels - expected(ds, center, width)).mean())
