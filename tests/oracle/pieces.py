"""Feeds a data set to the scanner in pieces of any size, and skips what it says may be skipped."""

from __future__ import annotations

import random

from engine._ext import scan
from engine.dicom import elements
from engine.dicom.elements import SCAN_LIMITS

SMALL = (0, 1, 2, 3, 7, 8, 12, 19, 20, 21, 64, 127, 128, 129, 300, 5000)
LARGE = (128, 5000, 100_000)


def scan_in_pieces(
    data: bytes,
    encoding: int,
    rng: random.Random,
    nesting_max: int = SCAN_LIMITS.nesting_depth_max,
    element_count_max: int = SCAN_LIMITS.element_count_max,
) -> scan.Head:
    """What is found. Raises Malformed."""
    scanner = scan.Scanner(elements.STANDARD, encoding, nesting_max, element_count_max)
    sizes = SMALL if len(data) < 100_000 else LARGE
    at = 0
    while at < len(data):
        ahead = min(scanner.needed_from, len(data)) - at
        if ahead > 0 and rng.random() < 0.5:
            scanner.skip(ahead)
            at += ahead
            continue
        piece = bytearray(data[at : at + rng.choice(sizes)])
        scanner.feed(piece)
        at += len(piece)
        piece[:] = b"\xa5" * len(piece)  # it was borrowed for the call only
    return scanner.finish()
