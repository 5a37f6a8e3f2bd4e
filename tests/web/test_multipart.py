"""multipart/related: written in one form, read in many, whatever the pieces it comes in."""

from __future__ import annotations

import email.parser
import email.policy
import gc
import itertools
import random
import re
import weakref
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import MultipartError
from engine.storage.record import crc32c
from engine.web.accept import parse_media_type
from engine.web.multipart import (
    BOUNDARY_CHARACTERS_MAX,
    HEAD_BYTES_MAX,
    PREAMBLE_BYTES_MAX,
    BlockPool,
    Event,
    PartBegin,
    PartEnd,
    Piece,
    Reader,
    Slice,
    Writer,
    boundary_in,
    boundary_of,
)

PARTS = [
    b"first",
    b"",
    b"\r\n--\r\n",
    bytes(range(256)) * 3,
    b"-bound\r\n--boun",
    b"\r",
    b"\n",
    b"\r\n--bounds",
    b"x\r\n",
]


class Budget:
    """Counts blocks."""

    taken_bytes = 0


def read(chunks: Iterable[bytes], boundary: str = "bound") -> list[tuple[PartBegin, bytes]]:
    reader = Reader(boundary)
    parts: list[tuple[PartBegin, bytes]] = []
    is_open = False
    for chunk in chunks:
        for event in reader.feed(chunk):
            if isinstance(event, PartBegin):
                assert not is_open
                parts.append((event, b""))
                is_open = True
            elif isinstance(event, PartEnd):
                assert is_open
                is_open = False
            else:
                assert is_open and len(event.view)
                parts[-1] = parts[-1][0], parts[-1][1] + bytes(event.view)
    assert not reader.finish()
    assert not is_open and reader.part_count == len(parts)
    return parts


def contents(chunks: Iterable[bytes], boundary: str = "bound") -> list[bytes]:
    return [content for _, content in read(chunks, boundary)]


def body(parts: Sequence[bytes], *, end: bytes = b"\r\n", boundary: bytes = b"bound", head: bytes = b"") -> bytes:
    head = head or b"Content-Type: application/dicom" + end
    return b"".join(b"--" + boundary + end + head + end + part + end for part in parts) + b"--" + boundary + b"--"


def test_any_split_in_two_or_three_gives_the_same_parts() -> None:
    whole = body(PARTS)
    assert contents([whole]) == PARTS
    assert contents(whole[i : i + 1] for i in range(len(whole))) == PARTS
    for cut in range(len(whole) + 1):
        assert contents([whole[:cut], whole[cut:]]) == PARTS
        assert contents([whole[:cut], whole[cut : cut + 1], whole[cut + 1 :]]) == PARTS


@given(
    st.lists(
        st.lists(
            st.sampled_from([b"\r", b"\n", b"--", b"-", b"b", b"bo", b"\r\n--b", b"\n--b", b"x", b" ", b"\0" * 99])
        ).map(b"".join),
        max_size=4,
    ),
    st.lists(st.integers(0, 600), max_size=8),
    st.sampled_from([b"\r\n", b"\n"]),
)
def test_content_is_never_lost_or_taken_for_a_boundary(parts: list[bytes], cuts: list[int], end: bytes) -> None:
    boundary = b"b" * 12
    parts = [part.replace(boundary, b"") for part in parts]
    if end == b"\n":
        parts = [part + b"!" if part.endswith(b"\r") else part for part in parts]  # that CR would be the line end's
    whole = body(parts, end=end, boundary=boundary)
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    chunks = [whole[low:high] for low, high in itertools.pairwise(at)]
    assert contents(chunks, boundary.decode()) == parts


def test_written_bodies_are_read_by_us_and_by_python() -> None:
    boundary = boundary_of(b"secret", b"etag")
    writer = Writer(boundary, "application/octet-stream")
    heads = [
        writer.head(i, "application/octet-stream; transfer-syntax=1.2", f"/studies/1/frames/{i}", len(part))
        for i, part in enumerate(PARTS)
    ]
    whole = b"".join(head + part for head, part in zip(heads, PARTS, strict=True)) + writer.end(len(PARTS))
    assert writer.length(heads, [len(part) for part in PARTS]) == len(whole)
    found = read([whole], boundary)
    assert [content for _, content in found] == PARTS
    assert [begin.content_location for begin, _ in found] == [f"/studies/1/frames/{i}" for i in range(len(PARTS))]
    assert [begin.content_length for begin, _ in found] == [len(part) for part in PARTS]
    content_type = parse_media_type(writer.content_type)
    assert content_type is not None and boundary_in(content_type) == boundary
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + writer.content_type.encode() + b"\r\n\r\n" + whole
    )
    first = next(message.iter_parts())  # type: ignore[attr-defined]
    assert first.get_payload(decode=True) == PARTS[0]


def test_bodies_have_the_form_that_strict_parsers_need() -> None:
    """`Content-Type:` spelt so, CRLF everywhere, nothing before the first boundary nor behind the last one."""
    writer = Writer("b", "application/dicom")
    first, second = writer.head(0, "application/dicom", "/x", 3), writer.head(1, "application/dicom")
    assert first == b"--b\r\nContent-Type: application/dicom\r\nContent-Location: /x\r\nContent-Length: 3\r\n\r\n"
    assert second == b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n"
    assert writer.end(2) == b"\r\n--b--"
    assert writer.end(0) == b"--b--"
    assert writer.content_type == 'multipart/related; type="application/dicom"; boundary=b'


def test_a_header_that_would_end_its_line_is_refused() -> None:
    for text in ("a\r\nb", "a\nb", "ä"):
        with pytest.raises(ValueError, match="header"):
            Writer("b", "x/y").head(0, "x/y", text)


def test_a_boundary_is_deterministic_but_unpredictable() -> None:
    first = boundary_of(b"secret", b"etag")
    assert first == boundary_of(b"secret", b"etag")
    assert len({first, boundary_of(b"secret", b"other"), boundary_of(b"another", b"etag")}) == 3
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert boundary_of(b"x" * 1000, b"etag")


def test_any_range_of_a_body_consists_of_its_pieces() -> None:
    writer = Writer("bound", "a/b")
    parts = [b"12345", b"", b"678"]
    heads = [writer.head(i, "a/b") for i in range(3)]
    whole = b"".join(head + part for head, part in zip(heads, parts, strict=True)) + writer.end(3)
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            made = b"".join(
                parts[piece.part][piece.offset :][: piece.length] if isinstance(piece, Slice) else piece
                for piece in writer.pieces(heads, [5, 0, 3], start, stop)
            )
            assert made == whole[start:stop]


@pytest.mark.parametrize(
    "whole",
    [
        b"\r\n" + body([b"a", b"b"]),
        b"This is a multi-part message.\r\n" + body([b"a", b"b"]),
        body([b"a", b"b"]) + b"\r\n",
        body([b"a", b"b"]) + b"\r\nan epilogue\r\n--bound\r\n",
        body([b"a", b"b"], end=b"\n"),
        body([b"a", b"b"]).replace(b"--bound\r\n", b"--bound \t\r\n"),
        body([b"a", b"b"], head=b"\r\n").replace(b"\r\n\r\n\r\n", b"\r\n\r\n"),
        body([b"a", b"b"], head=b"X-A: 1\r\n 2\r\nCONTENT-TYPE:application/dicom\r\n"),
    ],
    ids=["crlf", "preamble", "end", "epilogue", "bare-lf", "blanks", "no-headers", "folded"],
)
def test_bodies_of_real_clients_are_read(whole: bytes) -> None:
    for size in (1, 7, len(whole)):
        assert contents(whole[i : i + size] for i in range(0, len(whole), size)) == [b"a", b"b"]


def test_an_empty_part_may_end_with_its_header_block() -> None:
    assert contents([b"--bound\r\nContent-Type: a/b\r\n\r\n--bound\r\n\r\nx\r\n--bound--"]) == [b"", b"x"]


def test_a_longer_line_that_begins_like_the_boundary_is_content() -> None:
    part = b"x\r\n--boundary\r\n--bound-\r\n--bound  !"
    for size in (1, 5, 1000):
        whole = body([part])
        assert contents(whole[i : i + size] for i in range(0, len(whole), size)) == [part]


def test_a_body_without_parts_is_valid() -> None:
    assert contents([b"--bound--"]) == []


def test_boundaries_may_be_quoted_and_long() -> None:
    long = "a" * 73
    for text, expected in (
        (f'multipart/related; boundary="{long}"', long),
        ("multipart/related; boundary=myboundary; type=application/dicom", "myboundary"),
        ('multipart/related; boundary="a b:c"', "a b:c"),
    ):
        content_type = parse_media_type(text)
        assert content_type is not None and boundary_in(content_type) == expected
    for text in ("application/dicom; boundary=x", "multipart/related", f"multipart/related; boundary={'b' * 251}"):
        content_type = parse_media_type(text)
        assert content_type is not None
        with pytest.raises(MultipartError):
            boundary_in(content_type)
    assert BOUNDARY_CHARACTERS_MAX == 250


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (b"", "does not occur"),
        (b"nothing of the kind", "does not occur"),
        (b"x" * (PREAMBLE_BYTES_MAX + 1), "no boundary within"),
        (body([b"a"])[:-9], "ends within part 1"),
        (body([b"a"])[:-1], "ends within part 1"),
        (b"--bound\r\nContent-Ty", "does not occur"),
        (b"--bound\r\nX: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n", "header block"),
        (b"--bound\r\n" + b"X: y\r\n" * (HEAD_BYTES_MAX // 4), "header block"),
        (body([b"a"], head=b"nonsense\r\n"), "invalid header"),
        (body([b"a"], head=b"A: 1\r\na: 2\r\n"), "twice"),
        (body([b"a"], head=b"".join(b"A%d: 1\r\n" % i for i in range(40))), "more than 32"),
        (body([b"a"], head=b"Content-Type: multipart/mixed; boundary=x\r\n"), "multipart itself"),
        (body([b"a"], head=b"Content-Type: nonsense\r\n"), "Content-Type"),
        (body([b"a"], head=b"Content-Transfer-Encoding: base64\r\n"), "Transfer-Encoding"),
    ],
)
def test_an_invalid_multipart_body_is_refused_with_a_reason(whole: bytes, message: str) -> None:
    for size in (11, len(whole) or 1):
        with pytest.raises(MultipartError, match=message):
            contents(whole[i : i + size] for i in range(0, len(whole), size))


def test_random_bytes_are_refused_or_read_and_never_kept() -> None:
    seed = 20261129
    chance = random.Random(seed)
    for _ in range(2000):
        whole = bytearray(body(PARTS[:4]))
        for _ in range(chance.randrange(1, 8)):
            whole[chance.randrange(len(whole))] = chance.choice(b"\r\n-:bx ")
        outcomes = []
        for size in (3, len(whole)):
            try:
                outcomes.append(str(contents(bytes(whole[i : i + size]) for i in range(0, len(whole), size))))
            except MultipartError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], (seed, bytes(whole))


def written(reader: Reader, data: bytes) -> list[Event]:
    """As a transport does it: into the reader's own memory."""
    at = 0
    while at < len(data):
        view = memoryview(reader.get_buffer(0))
        count = min(len(view), len(data) - at)
        view[:count] = data[at : at + count]
        view.release()
        reader.buffer_updated(count)
        at += count
    return reader.events()


def test_bytes_written_by_a_transport_are_returned_in_place_and_released() -> None:
    """One view a part that lies in one block; the blocks are used again when the views are gone."""
    budget = Budget()
    blocks = BlockPool(budget, block_bytes=1 << 16, keep=2)
    reader = Reader("bound", blocks)
    parts = [bytes([number]) * 20_000 for number in range(10)]
    events = written(reader, body(parts))
    assert not reader.finish()
    pieces = [event.view for event in events if isinstance(event, Piece)]
    assert b"".join(pieces) == b"".join(parts)
    assert len(pieces) < len(parts) + 5, "a part is cut only where a block ends"
    assert budget.taken_bytes >= 200_000
    del events, pieces
    assert budget.taken_bytes == 0


def test_no_buffer_is_longer_than_the_rest_of_the_body() -> None:
    reader = Reader("")
    reader.expect(100)
    assert len(reader.get_buffer(0)) == 100
    written(reader, bytes(60))
    assert len(reader.get_buffer(0)) == 40
    written(reader, bytes(40))
    assert len(reader.get_buffer(0)) == 0
    with pytest.raises(ValueError, match="more bytes"):
        reader.feed(b"x")


@pytest.mark.parametrize("boundary", ["", "bound"])
@pytest.mark.parametrize("step", [1, 37, 70_000, 1 << 20])
def test_the_checksum_covers_the_data_set_after_group_0002(boundary: str, step: int) -> None:
    blocks = BlockPool(block_bytes=1 << 16)
    data_set = random.Random(20261129).randbytes(200_000)
    meta = bytes(200)
    file = bytes(128) + b"DICM\2\0\0\0UL\4\0" + len(meta).to_bytes(4, "little") + meta + data_set
    whole = body([file]) if boundary else file
    reader, pieces = Reader(boundary, blocks), []
    for at in range(0, len(whole), step):
        pieces += [event for event in reader.feed(whole[at : at + step]) if isinstance(event, Piece)]
    pieces += [event for event in reader.finish() if isinstance(event, Piece)]
    assert {piece.summed_from for piece in pieces} == {344}
    assert b"".join(piece.view for piece in pieces) == file
    assert pieces[-1].crc == crc32c(data_set)


@pytest.mark.parametrize("head", [b"", b"DICM", b"DICM\2\0\0\0UL\4\0\xff\xff\xff\xff", b"DICM\2\0\1\0OB\0\0"])
def test_without_group_0002_there_is_no_checksum(head: bytes) -> None:
    reader = Reader("")
    reader.feed(bytes(128) + head + bytes(500))
    events = reader.finish()
    assert [event.summed_from for event in events if isinstance(event, Piece)] == [-1]


def test_the_memory_of_a_dropped_body_is_released() -> None:
    budget = Budget()
    blocks = BlockPool(budget)
    reader = Reader("bound", blocks)
    reader.feed(body([b"a"])[:-3])
    assert budget.taken_bytes == len(body([b"a"])) - 3
    reader.stop()
    reader.stop()
    assert budget.taken_bytes == 0
    dropped = Reader("bound", blocks)
    events = dropped.feed(body([b"a"])[:-3])
    del dropped
    del events
    assert budget.taken_bytes == 0


def test_fed_bytes_are_released_with_their_reader_by_reference_counting() -> None:
    budget = Budget()
    reader = Reader("b", BlockPool(budget))
    reader.feed(b"--b\r\n\r\n" + bytes(4096) + b"\r\n--b--")
    alive = weakref.ref(reader)
    gc.disable()
    try:
        del reader
        assert alive() is None and budget.taken_bytes == 0
    finally:
        gc.enable()
