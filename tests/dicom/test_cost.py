"""The cost of hostile data sets: resident memory, measured in a process of its own, and the result.

A million elements, half a megabyte that inflates to half a gigabyte, lengths of four gigabytes, sequences 20 000 deep:
each read by every function that reads data sets. Growth is the increase of the process's resident peak during the call;
the data set is in memory before.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.archive.interchange import directory_records
from engine.dicom import elements, part10, tags
from engine.dicom.convert import convert
from engine.dicom.identifier import decode_identifier
from engine.dicom.transfer_syntax import UNCOMPRESSED, TransferSyntax
from engine.errors import EngineError
from tests.fuzz.targets import nested
from tests.oracle import data_sets

IMPLICIT, EXPLICIT, BIG, DEFLATED = UNCOMPRESSED
ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20

BOMB_MIB = 512
DEPTH = 20_000


def walk_all(data: bytes) -> int:
    """Every element of the top level, and of what is in it."""
    count = 0
    waiting = [(0, len(data))]
    while waiting:
        start, end = waiting.pop()
        for element in elements.walk(data, 1, start, end):
            count += 1
            if element.tag == tags.Item or element.vr == "SQ":
                waiting.append((element.value_offset, element.value_offset + element.length))
    return count


def scan_pieces(data: bytes, syntax: TransferSyntax) -> elements.Head:
    scanner = elements.Scanner(syntax)
    for at in range(0, len(data), 1000):
        scanner.feed(data[at : at + 1000])
    return scanner.finish()


def bomb() -> bytes:
    """A deflated data set with PatientName and then a value of zeros: a flushed block of them, many times."""
    deflater = zlib.compressobj(9, wbits=-15)
    head = data_sets.encode([data_sets.text(tags.PatientName, "Bomb^Er")], 1)
    head += data_sets.header(0x00111010, "OB", BOMB_MIB * MIB, 1)
    start = deflater.compress(head) + deflater.flush(zlib.Z_FULL_FLUSH)
    block = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return start + block * BOMB_MIB + deflater.flush()


def million(form: str) -> bytes:
    """A million elements."""
    empty = b"\x09\x00\x02\x10LO\0\0"
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    if form == "elements":
        return empty * 1_000_000
    return data_sets.header(tags.ContentSequence, "SQ", 8 * 1_000_000, 1) + item * 1_000_000


CLAIMS = [
    data_sets.header(tag, vr, 0xFFFFFFFE, 1) + b"abcd" for tag, vr in ((tags.TextValue, "UT"), (tags.PixelData, "OW"))
] + [
    data_sets.header(tags.ContentSequence, "SQ", 0xFFFFFFFF, 1) + data_sets.header(0xFFFEE000, "", 0xFFFFFFFE, 1),
    data_sets.header(tags.ContentSequence, "SQ", 0xFFFFFFFE, 1) + data_sets.header(0xFFFEE000, "", 0xFFFFFFFE, 1),
]


def claims(read: Callable[[bytes], object]) -> None:
    for data in CLAIMS:
        try:
            read(data)
        except EngineError:
            pass


CASES: dict[str, tuple[Callable[[bytes], object], str, int, str]] = {
    # What is done, to what, how many MiB it may grow, and what must come of it ("" is anything but a crash).
    "extract a million elements": (lambda d: elements.extract(d, EXPLICIT), "elements", 8, "taken"),
    "extract a million items": (lambda d: elements.extract(d, EXPLICIT), "items", 8, "taken"),
    "walk a million elements": (walk_all, "elements", 8, "taken"),
    "walk a million items": (walk_all, "items", 160, "taken"),
    "convert a million elements": (lambda d: convert(d, EXPLICIT, BIG), "elements", 24, "taken"),
    "convert a million items": (lambda d: convert(d, EXPLICIT, IMPLICIT), "items", 24, "taken"),
    "deflate a million elements": (lambda d: convert(d, EXPLICIT, DEFLATED), "elements", 24, "taken"),
    "decode a million elements": (lambda d: decode_identifier(d, EXPLICIT), "elements", 8, "more than 4096 elements"),
    "decode a million items": (lambda d: decode_identifier(d, EXPLICIT), "items", 8, "more than 4096 elements"),
    "extract a bomb": (lambda d: elements.extract(d, DEFLATED), "bomb", 8, "no Pixel Data within"),
    "scan a bomb": (lambda d: scan_pieces(d, DEFLATED), "bomb", 8, "no Pixel Data within"),
    "scan a million items": (lambda d: scan_pieces(d, EXPLICIT), "items", 8, "taken"),
    "convert a bomb": (lambda d: convert(d, DEFLATED, IMPLICIT), "bomb", 80, "more than"),
    "decode a bomb": (lambda d: decode_identifier(d, DEFLATED), "bomb", 24, "more than"),
    "a DICOMDIR's keys of a bomb": (lambda d: directory_records.keys_of([d], DEFLATED, "IMAGE"), "bomb", 24, "taken"),
    "extract claims": (lambda d: claims(lambda c: elements.extract(c, EXPLICIT)), "", 2, "taken"),
    "walk claims": (lambda d: claims(walk_all), "", 2, "taken"),
    "convert claims": (lambda d: claims(lambda c: convert(c, EXPLICIT, IMPLICIT)), "", 2, "taken"),
    "decode claims": (lambda d: claims(lambda c: decode_identifier(c, EXPLICIT)), "", 2, "taken"),
    "read claims as a file": (lambda d: claims(part10.read_file_meta), "", 2, "taken"),
    **{
        f"{verb} {form} depth": (read, form, 8, "too deeply")
        for form in ("defined", "undefined")
        for verb, read in (
            ("extract", lambda d: elements.extract(d, EXPLICIT)),
            ("convert", lambda d: convert(d, EXPLICIT, IMPLICIT)),
        )
    },
    "walk undefined depth": (lambda d: list(elements.walk(d, 1)), "undefined", 8, "too deeply"),
    "walk defined depth": (lambda d: list(elements.walk(d, 1)), "defined", 8, "taken"),
    "decode undefined depth": (lambda d: decode_identifier(d, EXPLICIT), "undefined", 8, "too deeply"),
    "decode defined depth": (lambda d: decode_identifier(d, EXPLICIT), "defined", 8, "nests more than"),
}  # fmt: skip


def hostile_data(form: str) -> bytes:
    if form in ("elements", "items"):
        return million(form)
    if form == "bomb":
        return bomb()
    return nested(DEPTH, encoding=1, undefined=form == "undefined") if form else b""


def measure(name: str) -> str:
    """Runs in a process of its own: does one case, and prints its result and its cost."""
    work, form, _, _ = CASES[name]
    data = hostile_data(form)
    # The peak so far; the parsers are imported and the data set is there.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = "taken"
    try:
        work(data)
    except EngineError as error:
        outcome = str(error)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return json.dumps({"outcome": outcome, "growth_bytes": growth})


def measure_all() -> None:
    """Forks for each case from a process that has only imported."""
    for name in CASES:
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writing, measure(name).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            sys.stdout.write(f"{name}\t{stream.read()}\n")
        os.wait()


@pytest.fixture(scope="module")
def measured() -> dict[str, str]:
    program = "from tests.dicom.test_cost import measure_all; measure_all()"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split("\t") for line in process.stdout.splitlines())


@pytest.mark.parametrize("name", CASES)
def test_the_cost_is_bounded(name: str, measured: dict[str, str]) -> None:
    assert measured[name], "the process died"
    result = json.loads(measured[name])
    _, _, growth_mib_max, outcome = CASES[name]
    assert outcome in result["outcome"]
    assert result["growth_bytes"] <= growth_mib_max * MIB


def test_growth_is_seen(measured: dict[str, str]) -> None:
    """A case that takes memory: a million tuples."""
    assert json.loads(measured["walk a million items"])["growth_bytes"] > 32 * MIB
