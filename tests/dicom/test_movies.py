"""dicom.movies: what MP4 files say of their video, films of the corpus, and files that are wrong."""

from __future__ import annotations

import random
import struct

import pydicom
import pytest
from pydicom.encaps import generate_fragments

from engine.dicom.movies import Movie, describe
from engine.dicom.sources import Whole
from engine.errors import DataSetError
from tests.corpus import corpus_root, needs_corpus

SEED = 20261130
ROOT = "1.2.840.10008.1.2.4."
AVC = bytes((1, 100, 0, 41))
HEVC = bytes((1, 1, *bytes(10), 153))


def box(kind: str, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind.encode()) + body


def mp4_of(configuration: bytes, *, kind: str = "avc1", handler: bytes = b"vide", is_long: bool = False) -> bytes:
    """A film of 50 frames of 480 rows and 640 columns, 25 a second, after a track of sound."""
    entry = bytes(24) + struct.pack(">HH", 640, 480) + bytes(50)
    name = "avcC" if kind.startswith("avc") else "hvcC"
    stsd = box("stsd", struct.pack(">II", 0, 1), box(kind, entry, box(name, configuration)))
    stsz = box("stsz", struct.pack(">III", 0, 0, 50), bytes(200))
    if is_long:
        mdhd = box("mdhd", b"\1\0\0\0", bytes(16), struct.pack(">IQ", 12800, 25600), bytes(4))
    else:
        mdhd = box("mdhd", bytes(12), struct.pack(">II", 12800, 25600), bytes(4))
    sound = box("trak", box("mdia", box("hdlr", bytes(8), b"soun", bytes(13))))
    film = box(
        "trak", box("mdia", mdhd, box("hdlr", bytes(8), handler, bytes(13)), box("minf", box("stbl", stsd, stsz)))
    )
    data = struct.pack(">I4sQ", 1, b"mdat", 16 + 300) + bytes(300)
    return box("ftyp", b"isom", bytes(4)) + data + box("moov", sound, film)


@pytest.mark.parametrize(
    ("kind", "configuration", "syntax", "bits"),
    [
        ("avc1", AVC, "102", 8),
        ("avc3", bytes((1, 77, 0, 31)), "102", 8),
        ("avc1", bytes((1, 66, 0xC0, 30)), "102", 8),
        ("avc1", bytes((1, 100, 0, 42)), "104", 8),
        ("avc1", bytes((1, 128, 0, 42)), "106", 8),
        ("hvc1", HEVC, "107", 8),
        ("hev1", bytes((1, 2, *bytes(10), 120)), "108", 10),
    ],
)
def test_profile_and_level_are_the_transfer_syntax(kind: str, configuration: bytes, syntax: str, bits: int) -> None:
    for is_long in (False, True):
        movie = describe(Whole(mp4_of(configuration, kind=kind, is_long=is_long)))
        method = "ISO_14496_10" if kind.startswith("avc") else "ISO_23008_2"
        assert movie == Movie(ROOT + syntax, 480, 640, bits, 50, 40.0, method)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no MP4"),
        (b"\0\0\1\xba" + bytes(100), "no MP4|shorter"),
        (mp4_of(AVC, handler=b"text"), "no video"),
        (mp4_of(AVC, kind="mp4v"), "neither"),
        (mp4_of(bytes((1, 100, 0, 51))), "profile 100 at level 5.1"),
        (mp4_of(bytes((1, 66, 0, 30))), "profile 66"),
        (mp4_of(bytes((1, 3, *bytes(10), 153)), kind="hvc1"), "HEVC of profile 3 at level 5.1"),
        (mp4_of(AVC)[:-210], "stsz|ends within|no frames"),
    ],
)
def test_what_is_no_film_of_dicom_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataSetError, match=reason):
        describe(Whole(data))


def test_wrong_bytes_are_a_film_or_an_error() -> None:
    rng, outcomes = random.Random(SEED), set()
    for _ in range(2000):
        wrong = bytearray(mp4_of(AVC))
        for _ in range(rng.randrange(1, 4)):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        try:
            describe(Whole(bytes(wrong[: rng.randrange(len(wrong))] if rng.random() < 0.3 else wrong)))
            outcomes.add("read")
        except DataSetError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}, f"seed {SEED}"


@needs_corpus("synthetic")
def test_the_film_of_the_corpus_is_what_its_instance_says() -> None:
    root = corpus_root()
    assert root is not None
    ds = pydicom.dcmread(root / "synthetic/video-mpeg4-avc-hp41.dcm")
    film = b"".join(list(generate_fragments(ds.PixelData))[1:])
    movie = describe(Whole(film))
    assert movie.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
    assert (movie.rows, movie.columns, movie.frame_count) == (ds.Rows, ds.Columns, int(ds.NumberOfFrames))
    assert movie.frame_ms == float(ds.FrameTime)
