"""Frames against pydicom: every frame of the corpus, and synthetic pixel data of the kinds that it lacks."""

from __future__ import annotations

import random
import struct
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames

from engine.dicom import elements, fragments, frames, part10, transfer_syntax
from engine.dicom.frames import EncapsulatedFrames, NativeFrames, frame_table
from engine.dicom.sources import Inflated, Source, Whole
from engine.errors import DataSetError, FramesUnreadable
from tests import samples
from tests.corpus import corpus_files, corpus_root, needs_corpus
from tests.oracle.pixels import frames_as_stored

JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG = "1.2.840.10008.1.2.2"
MPEG4 = "1.2.840.10008.1.2.4.102"


class Counted:
    """A source that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self._whole = Whole(data)
        self.length = len(data)
        self.reads = self.bytes = 0

    def read(self, offset: int, count: int) -> memoryview:
        self.reads += 1
        data = self._whole.read(offset, count)
        self.bytes += len(data)
        return data


def table_of(
    data: bytes, syntax_uid: str, *, trust_offsets: bool = True
) -> tuple[Source, NativeFrames | EncapsulatedFrames]:
    syntax = transfer_syntax.of(syntax_uid)
    offset = elements.extract(data, syntax).pixel_data_offset
    source: Source = Inflated(Whole(data)) if syntax.deflated else Whole(data)
    return source, frame_table(source, syntax, offset, trust_offsets=trust_offsets)


def all_frames(data: bytes, syntax_uid: str, *, trust_offsets: bool = True) -> list[bytes]:
    """Reads frames by `read` and, if the table allows it, by `span` and `cut`."""
    source, table = table_of(data, syntax_uid, trust_offsets=trust_offsets)
    frames_read = []
    for number in range(1, table.count + 1):
        frame = bytes(table.read(source, number))
        span = table.span(number)
        if span is not None:
            assert bytes(table.cut(number, memoryview(source.read(*span)))) == frame
        frames_read.append(frame)
    return frames_read


# The corpus --------------------------------------------------------------------------------------


UNREADABLE = {
    "odd/badVR.dcm": "Number of Frames",
    "odd/nested_priv_SQ.dcm": "is missing",
    "odd/syn-zero-length-pixels.dcm": "is missing",
    "odd/syn-nested-3000.dcm": "too deeply",
}
"""Files of the corpus with pixels that are not video, but without frames."""


@needs_corpus()
def test_every_frame_of_the_corpus_equals_that_of_pydicom() -> None:
    root = corpus_root()
    assert root is not None
    compared: dict[str, int] = {}
    refused: dict[str, str] = {}
    for path in corpus_files():
        name = path.relative_to(root).as_posix()
        raw = path.read_bytes()
        try:
            meta = part10.read_file_meta(raw)
        except DataSetError:
            continue  # no DICOM file
        try:
            mine = all_frames(raw[meta.data_set_offset :], meta.transfer_syntax_uid)
        except (FramesUnreadable, DataSetError) as error:
            if "no Pixel Data" not in str(error) and "one video stream" not in str(error):
                refused[name] = str(error)
            continue
        if not mine:
            continue  # cut before the first frame ends
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = frames_as_stored(pydicom.dcmread(path, force=True))
        except (ValueError, AttributeError) as error:
            # pydicom does not know the transfer syntax, or cannot do without file meta information.
            assert "not a transfer syntax" in str(error) or "has no attribute" in str(error), f"{name}: {error!r}"
            continue
        assert len(mine) == len(theirs), name
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True), 1):
            assert one == other, f"{name}, frame {number}: {len(one)} and {len(other)} bytes"
        compared[meta.transfer_syntax_uid] = compared.get(meta.transfer_syntax_uid, 0) + len(mine)
    assert refused.keys() == UNREADABLE.keys()
    assert all(UNREADABLE[name] in why for name, why in refused.items()), refused
    assert sum(compared.values()) > 2000, compared
    assert len(compared) >= 17, compared


# Native ------------------------------------------------------------------------------------------


def native(
    value: bytes, *, syntax_uid: str = EXPLICIT, vr: str = "OW", tag: int = 0x7FE00010, **attributes: object
) -> bytes:
    """A data set with this pixel data and description, and nothing else."""
    ds = Dataset()
    for keyword, option in attributes.items():
        setattr(ds, keyword, option)
    if value is not None:
        ds.add_new(tag, vr, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax_uid
    return samples.encoded(ds)


def described(frames_: int, rows: int, columns: int, bits: int, spp: int = 1, **more: object) -> dict[str, object]:
    return {
        "NumberOfFrames": frames_,
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": bits,
        "SamplesPerPixel": spp,
        "PhotometricInterpretation": "MONOCHROME2" if spp == 1 else "RGB",
        **more,
    }


RANDOM = random.Random(7)


def test_an_odd_total_loses_its_padding_and_nothing_else() -> None:
    pixels = RANDOM.randbytes(3 * 3 * 5)
    frames_read = all_frames(native(pixels + b"\0", vr="OB", **described(3, 3, 5, 8)), EXPLICIT)
    assert frames_read == [pixels[:15], pixels[15:30], pixels[30:]]


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (1, 1), (5, 7), (8, 8), (16, 3)])
def test_frames_of_single_bits_begin_at_bit_zero(rows: int, columns: int) -> None:
    bits = np.array([RANDOM.getrandbits(1) for _ in range(5 * rows * columns)], np.uint8)
    value = np.packbits(bits, bitorder="little").tobytes()
    frames_read = all_frames(
        native(value + b"\0" * (len(value) % 2), vr="OB", **described(5, rows, columns, 1)), EXPLICIT
    )
    expected = [np.packbits(each, bitorder="little").tobytes() for each in bits.reshape(5, -1)]
    assert frames_read == expected


def test_samples_of_twelve_bits_are_cut_between_bytes() -> None:
    values = [RANDOM.getrandbits(12) for _ in range(3 * 9)]
    packed = sum(value << 12 * number for number, value in enumerate(values)).to_bytes(42, "little")
    frames_read = all_frames(native(packed, **described(3, 3, 3, 12)), EXPLICIT)
    for number, frame in enumerate(frames_read):
        expected = sum(value << 12 * at for at, value in enumerate(values[9 * number : 9 * number + 9]))
        assert frame == expected.to_bytes(14, "little")


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_big_endian_words_leave_as_little_endian(bits: int) -> None:
    """Also if a frame ends within a word of OW."""
    length = -(-5 * 9 * bits // 8)
    little = RANDOM.randbytes(length + length % 2)
    big = b"".join(little[at : at + 2][::-1] for at in range(0, len(little), 2))
    options = described(5, 3, 3, bits)
    little_data, big_data = native(little, **options), native(big, syntax_uid=BIG, **options)
    assert big in big_data, "pydicom turns no value round"
    assert all_frames(big_data, BIG) == all_frames(little_data, EXPLICIT)


def test_subsampled_colour_takes_two_thirds_unless_all_samples_are_stored() -> None:
    for total in (2, 3):
        pixels = RANDOM.randbytes(2 * 4 * 6 * total)
        options = described(2, 4, 6, 8, 3, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
        frames_read = all_frames(native(pixels, vr="OB", **options), EXPLICIT)
        assert frames_read == [pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]]


@pytest.mark.parametrize(("tag", "vr", "size"), [(0x7FE00008, "OF", 4), (0x7FE00009, "OD", 8)])
@pytest.mark.parametrize("syntax_uid", [EXPLICIT, BIG])
def test_floating_point_pixels_are_pixels(tag: int, vr: str, size: int, syntax_uid: str) -> None:
    pixels = RANDOM.randbytes(2 * 3 * 4 * size)
    value = pixels
    if syntax_uid == BIG:
        value = b"".join(pixels[at : at + size][::-1] for at in range(0, len(pixels), size))
    data = native(value, syntax_uid=syntax_uid, vr=vr, tag=tag, NumberOfFrames=2, Rows=3, Columns=4)
    assert value in data
    assert all_frames(data, syntax_uid) == [pixels[: 12 * size], pixels[12 * size :]]


def test_missing_frames_are_refused_with_the_reason() -> None:
    source, table = table_of(native(bytes(40), vr="OB", **described(5, 4, 4, 8)), EXPLICIT)
    assert table.count == 2
    for number in (0, -1, 3, 1 << 40):
        with pytest.raises(FramesUnreadable, match="40 bytes; 5 frames take 80"):
            table.read(source, number)
        with pytest.raises(FramesUnreadable):
            table.span(number)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"Rows": 0}, "is 0"),
        ({"Rows": None}, "is missing"),
        ({"NumberOfFrames": str(1 << 33)}, "the limit is"),
    ],
)
def test_invalid_descriptions_are_refused(attributes: dict[str, object], why: str) -> None:
    with pytest.raises(FramesUnreadable, match=why):
        all_frames(native(bytes(100), vr="OB", **{**described(1, 4, 4, 8), **attributes}), EXPLICIT)


def test_numbers_from_a_hostile_description_cost_nothing() -> None:
    options = described(1 << 21, 65535, 65535, 64, 255)
    _, table = table_of(native(bytes(100), vr="OB", **options), EXPLICIT)
    assert table.count == 0


# Encapsulated ------------------------------------------------------------------------------------


def coded(number: int, length: int = 60) -> bytes:
    """A codestream with its marks; its content has marks too."""
    return b"\xff\xd8\xff\xe0" + random.Random(number).randbytes(length) + b"\xff\xd9"


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def data_set(
    fragments_: Iterable[bytes],
    count: int | None,
    *,
    table: Sequence[int] = (),
    extended: tuple[Sequence[int], Sequence[int]] | None = None,
    delimiter: bytes = b"\xfe\xff\xdd\xe0\0\0\0\0",
    **attributes: object,
) -> bytes:
    """An instance with these fragments; `table`: the Basic Offset Table."""
    ds = Dataset()
    for keyword, setting in (described(1, 4, 4, 8) | attributes).items():
        setattr(ds, keyword, setting)
    ds.NumberOfFrames = count
    if extended is not None:
        ds.ExtendedOffsetTable = struct.pack(f"<{len(extended[0])}Q", *extended[0])
        ds.ExtendedOffsetTableLengths = struct.pack(f"<{len(extended[1])}Q", *extended[1])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    items = item(struct.pack(f"<{len(table)}I", *table)) + b"".join(map(item, fragments_))
    return samples.encoded(ds) + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + delimiter


def pieces(frame: bytes, count: int) -> list[bytes]:
    """A frame in a number of fragments of even length."""
    step = -(-len(frame) // count)
    step += step % 2
    return [frame[at : at + step] for at in range(0, len(frame), step)]


FRAMES = [coded(number, 60 + 2 * number) for number in range(6)]
SPLIT = [piece for number, frame in enumerate(FRAMES) for piece in pieces(frame, 1 + number % 3)]


def offsets_of(counts: Sequence[int], fragments_: Sequence[bytes]) -> list[int]:
    """A table for frames with these numbers of fragments."""
    offsets, at, number = [], 0, 0
    for count in counts:
        offsets.append(at)
        at += sum(8 + len(each) for each in fragments_[number : number + count])
        number += count
    return offsets


COUNTS = [len(pieces(frame, 1 + number % 3)) for number, frame in enumerate(FRAMES)]


@pytest.mark.parametrize("delimiter", [b"\xfe\xff\xdd\xe0\0\0\0\0", b""])
def test_frames_are_found_by_every_kind_of_table_and_by_none(delimiter: bytes) -> None:
    whole = [8 + len(frame) for frame in FRAMES]
    starts = [sum(whole[:number]) for number in range(len(whole))]
    for data in (
        data_set(FRAMES, 6, delimiter=delimiter),
        data_set(FRAMES, 6, table=starts, delimiter=delimiter),
        data_set(FRAMES, 6, extended=(starts, list(map(len, FRAMES))), delimiter=delimiter),
        data_set(SPLIT, 6, table=offsets_of(COUNTS, SPLIT), delimiter=delimiter),
        data_set(SPLIT, 6, delimiter=delimiter),
    ):
        assert all_frames(data, JPEG) == FRAMES


def test_an_extended_offset_table_gives_the_length_of_a_codestream_without_its_padding() -> None:
    odd = [frame[:-2] + b"\0\xff\xd9" for frame in FRAMES]
    padded = [frame + b"\0" for frame in odd]
    lengths = [8 + len(frame) for frame in padded]
    data = data_set(padded, 6, extended=([sum(lengths[:n]) for n in range(6)], list(map(len, odd))))
    assert all_frames(data, JPEG) == odd


def test_one_frame_is_all_fragments_with_any_content() -> None:
    for count in (1, None):
        assert all_frames(data_set(SPLIT, count), JPEG) == [b"".join(FRAMES)]


def test_marks_within_a_frame_do_not_begin_one() -> None:
    """A thumbnail in a fragment of its own looks like a codestream, but does not follow the end of one."""
    thumbnail = b"\xff\xd8\xff\xdb" + bytes(20)
    split = [FRAMES[0][:20], thumbnail, FRAMES[0][20:], *FRAMES[1:]]
    assert all_frames(data_set(split, 6), JPEG) == [FRAMES[0][:20] + thumbnail + FRAMES[0][20:], *FRAMES[1:]]


@pytest.mark.parametrize(
    "start", [b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"]
)
def test_codestreams_of_every_family_are_separated(start: bytes) -> None:
    codestreams = [start + bytes([number]) * 30 + b"\xff\xd9" for number in range(3)]
    split = [piece for frame in codestreams for piece in pieces(frame, 2)]
    assert all_frames(data_set(split, 3), "1.2.840.10008.1.2.4.90") == codestreams


def test_rle_frames_in_several_fragments_are_separated_by_their_headers() -> None:
    codestreams = []
    for number in range(3):
        body = random.Random(number).randbytes(80)
        codestreams.append(struct.pack("<16I", 2, 64, 100, *[0] * 13) + body)
    split = [piece for frame in codestreams for piece in pieces(frame, 2)]
    assert all_frames(data_set(split, 3), RLE) == codestreams


def test_encapsulated_uncompressed_frames_are_separated_by_their_length() -> None:
    natives = [random.Random(number).randbytes(16) for number in range(3)]
    split = [piece for frame in natives for piece in pieces(frame, 2)]
    assert all_frames(data_set(split, 3), UNCOMPRESSED) == natives


def test_frames_that_cannot_be_separated_are_refused_with_the_reason() -> None:
    for data, why in (
        (data_set([b"??" * 10] * 5, 3), "does not begin a frame"),
        (data_set([*SPLIT, *FRAMES], 6), "hold 12 frames, but Number of Frames .* is 6"),
        (data_set([FRAMES[0], b"??" * 9, FRAMES[1]], 4), "hold 2 frames"),
    ):
        with pytest.raises(FramesUnreadable, match=why):
            all_frames(data, JPEG)


def test_an_instance_with_fewer_frames_than_declared_has_those() -> None:
    source, table = table_of(data_set(FRAMES, 9), JPEG)
    assert table.count == 6
    with pytest.raises(FramesUnreadable, match="Number of Frames .* is 9"):
        table.read(source, 7)


def test_an_instance_that_is_cut_has_the_frames_before_the_cut() -> None:
    data = data_set(FRAMES, 6)[:-40]
    source, table = table_of(data, JPEG)
    assert [bytes(table.read(source, number)) for number in range(1, 6)] == FRAMES[:5]
    with pytest.raises(FramesUnreadable, match="is cut"):
        table.read(source, 6)


WHOLE_TABLE = offsets_of([1] * 6, FRAMES)


@pytest.mark.parametrize(
    "table",
    [
        [0] * 6,
        WHOLE_TABLE[::-1],
        [*WHOLE_TABLE[:3], WHOLE_TABLE[2], *WHOLE_TABLE[4:]],
        [*WHOLE_TABLE[:5], 0xFFFFFFFE],
        [*WHOLE_TABLE[:5], WHOLE_TABLE[5] + 4],
        [8, *WHOLE_TABLE[1:]],
        WHOLE_TABLE[:5],
        [*WHOLE_TABLE, WHOLE_TABLE[5] + 70],
    ],
)
def test_tables_that_cannot_be_right_are_replaced_by_a_scan(table: list[int]) -> None:
    assert all_frames(data_set(FRAMES, 6, table=table), JPEG) == FRAMES
    lengths = list(map(len, FRAMES))[: len(table)]
    assert all_frames(data_set(FRAMES, 6, extended=(table, lengths)), JPEG) == FRAMES


def test_a_table_that_leads_between_items_is_noticed_when_a_frame_is_read() -> None:
    table = [WHOLE_TABLE[0], WHOLE_TABLE[1] + 2, *WHOLE_TABLE[2:]]
    data = data_set(FRAMES, 6, table=table)
    source, table_read = table_of(data, JPEG)
    assert isinstance(table_read, EncapsulatedFrames)
    assert table_read.is_trusted
    for number in (1, 2):
        with pytest.raises(FramesUnreadable, match="does not lead to"):
            table_read.read(source, number)
    assert all_frames(data, JPEG, trust_offsets=False) == FRAMES


def test_a_table_with_wrong_lengths_is_noticed_when_a_frame_is_read() -> None:
    data = data_set(FRAMES, 6, extended=(WHOLE_TABLE, [5] * 6))
    source, table = table_of(data, JPEG)
    with pytest.raises(FramesUnreadable, match="another length"):
        table.read(source, 1)


def test_frames_that_pydicom_encapsulates_are_read_as_pydicom_reads_them() -> None:
    frames_ = [coded(number, 51) for number in range(4)]
    for split in (1, 3):
        ds = Dataset()
        for keyword, setting in described(4, 4, 4, 8).items():
            setattr(ds, keyword, setting)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = EXPLICIT
        value = encapsulate(frames_, fragments_per_frame=split)
        head = samples.encoded(ds) + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
        frames_read = all_frames(head + value + b"\xfe\xff\xdd\xe0\0\0\0\0", JPEG)
        assert frames_read == list(generate_frames(value, number_of_frames=4))


def test_syntax_and_form_of_pixel_data_must_agree() -> None:
    with pytest.raises(FramesUnreadable, match="not encapsulated"):
        all_frames(native(bytes(16), vr="OB", **described(1, 4, 4, 8)), JPEG)
    with pytest.raises(FramesUnreadable, match="is encapsulated"):
        all_frames(data_set(FRAMES, 6), EXPLICIT)


# What it costs -----------------------------------------------------------------------------------


def test_an_offset_table_needs_no_read_per_frame() -> None:
    count = 5000
    data = data_set([b"\xff\xd8\xff\xe0" + bytes(28)] * count, count, table=[40 * number for number in range(count)])
    source = Counted(data)
    offset = elements.extract(data, transfer_syntax.of(JPEG)).pixel_data_offset
    table = frame_table(source, transfer_syntax.of(JPEG), offset)
    assert table.count == count
    assert source.reads < 10
    assert table.memory_bytes < 9 * count + 1000


def test_a_scan_reads_headers_and_not_frames() -> None:
    count, length = 200, 20_000
    data = data_set([b"\xff\xd8\xff\xe0" + bytes(length - 4)] * count, count)
    source = Counted(data)
    offset = elements.extract(data, transfer_syntax.of(JPEG)).pixel_data_offset
    assert frame_table(source, transfer_syntax.of(JPEG), offset).count == count
    assert source.bytes < len(data) // 10
    tiny = Counted(data_set([b"ab"] * 10_000, 10_000))
    offset = elements.extract(tiny.read(0, tiny.length), transfer_syntax.of(JPEG)).pixel_data_offset
    tiny.reads = 0
    assert frame_table(tiny, transfer_syntax.of(JPEG), offset).count == 10_000
    assert tiny.reads < 20


def test_fragments_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "FRAGMENTS_MAX", 1000)
    with pytest.raises(FramesUnreadable, match="more than 1000 fragments"):
        all_frames(data_set([b""] * 1001, 1), JPEG)


def test_a_head_too_long_for_memory_gives_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_set(FRAMES, 6, extended=(WHOLE_TABLE, list(map(len, FRAMES))))
    big = native(RANDOM.randbytes(36), syntax_uid=BIG, **described(2, 3, 3, 16))
    expected = all_frames(big, BIG)
    monkeypatch.setattr(frames, "HEAD_BYTES_MAX", 0)
    assert all_frames(data, JPEG) == FRAMES
    assert all_frames(big, BIG) == expected


# Streams and ends --------------------------------------------------------------------------------


def test_video_is_one_stream_that_can_be_read_at_any_offset() -> None:
    content = RANDOM.randbytes(1000)
    data = data_set(pieces(content, 7), 30)
    with pytest.raises(FramesUnreadable, match="one video stream"):
        all_frames(data, MPEG4)
    syntax = transfer_syntax.of(MPEG4)
    stream = frames.pixel_stream(Whole(data), syntax, elements.extract(data, syntax).pixel_data_offset)
    assert stream.length == 1000
    for _ in range(200):
        start, count = RANDOM.randrange(1001), RANDOM.randrange(1200)
        assert bytes(memoryview(stream.read(start, count))) == content[start : start + count]


def test_a_native_stream_is_little_endian() -> None:
    little = RANDOM.randbytes(32)
    big = b"".join(little[at : at + 2][::-1] for at in range(0, 32, 2))
    data = native(big, syntax_uid=BIG, **described(1, 4, 4, 16))
    syntax = transfer_syntax.of(BIG)
    stream = frames.pixel_stream(Whole(data), syntax, elements.extract(data, syntax).pixel_data_offset)
    for start in range(32):
        for count in range(33 - start):
            assert bytes(memoryview(stream.read(start, count))) == little[start : start + count]


@pytest.mark.parametrize("tail", [b"", b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0"])
def test_the_end_of_pixel_data_is_the_start_of_the_elements_after_it(tail: bytes) -> None:
    encapsulated, plain = data_set(FRAMES, 6), native(bytes(16), vr="OB", **described(1, 4, 4, 8))
    for data, uid in ((encapsulated, JPEG), (encapsulated[:-8], JPEG), (plain, EXPLICIT)):
        syntax = transfer_syntax.of(uid)
        if tail and data == encapsulated[:-8]:
            continue
        offset = elements.extract(data, syntax).pixel_data_offset
        assert frames.end_of_pixels(Whole(data + tail), syntax, offset) == len(data)


def test_cut_values_never_read_beyond_the_end() -> None:
    """Every cut of a data set gives correct frames, or a refusal."""
    data = data_set(FRAMES, 6, table=WHOLE_TABLE)
    offset = elements.extract(data, transfer_syntax.of(JPEG)).pixel_data_offset
    syntax = transfer_syntax.of(JPEG)
    for end in range(offset, len(data)):
        source = Whole(data[:end])
        try:
            table = frame_table(source, syntax, offset)
            frames_read = [bytes(table.read(source, number)) for number in range(1, table.count + 1)]
        except FramesUnreadable:
            continue
        assert frames_read == FRAMES[: len(frames_read)]


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_are_refused_or_give_bounded_frames(seed: int) -> None:
    chance = random.Random(seed)
    lengths = list(map(len, FRAMES))
    for data in (
        data_set(SPLIT, 6, table=offsets_of(COUNTS, SPLIT)),
        data_set(FRAMES, 6, extended=(WHOLE_TABLE, lengths)),
    ):
        syntax = transfer_syntax.of(JPEG)
        offset = elements.extract(data, syntax).pixel_data_offset
        for _ in range(300):
            turned = bytearray(data)
            for _ in range(chance.randrange(1, 4)):
                turned[chance.randrange(len(turned))] = chance.choice((0, 1, 8, 0xFE, 0xFF, chance.randrange(256)))
            source = Counted(bytes(turned))
            try:
                table = frame_table(source, syntax, offset)
                for number in range(1, min(table.count, 50) + 1):
                    assert len(table.read(source, number)) <= len(data)
            except FramesUnreadable:
                continue
