"""Blocks are found in whatever senders write, and written as the standard has it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import FrameError, FrameTooLong
from engine.hl7 import frame
from engine.hl7.frame import Frame, FrameReader, framed

M = b"MSH|^~\\&|A|B\rPID|1\r"
N = b"MSH|^~\\&|C|D\r"


def read(*pieces: bytes, then: str = "") -> list[Frame]:
    reader = FrameReader()
    frames = [frame for piece in pieces for frame in reader.feed(piece)]
    if then:
        frames += getattr(reader, then)()
    return frames


def test_a_block_is_written_as_the_standard_has_it() -> None:
    assert framed(M) == b"\x0b" + M + b"\x1c\r"
    assert read(framed(M)) == [Frame(M)]


def test_several_blocks_in_one_packet_are_several_messages() -> None:
    assert [frame.payload for frame in read(framed(M) + framed(N) + framed(M))] == [M, N, M]


def test_a_block_may_come_in_pieces_of_one_byte() -> None:
    data = framed(M) + framed(N)
    assert read(*(data[at : at + 1] for at in range(len(data)))) == [Frame(M), Frame(N)]


@pytest.mark.parametrize(
    ("data", "payloads", "oddity"),
    [
        (b"\r\n" + framed(M), [M], ""),
        (b"junk" + framed(M), [M], "4 bytes before 0B: 6a 75 6e 6b"),
        (b"\x0b" + framed(M) + b"\x1c\r" + framed(N), [M, N], "0B twice"),
        (b"\x0b" + M + b"\x1c\n" + framed(N), [M, N], "ends with 1C 0A"),
        (b"\x0b" + M + b"\x1c" + framed(N), [M, N], "ends with 1C 0B"),
        (b"\x0b" + M + b"\x0c" + framed(N), [M, N], "ends with 0D 0C"),
        (M + b"\x1c\r", [M], "begins without 0B"),
        (M + framed(N), [M, N], "ends without 1C 0D"),
    ],
)
def test_oddities_of_senders_are_understood_and_named(data: bytes, payloads: list[bytes], oddity: str) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        frames = read(*pieces)
        assert [frame.payload for frame in frames] == payloads
        assert oddity in frames[0].oddities if oddity else not frames[0].oddities
        assert not any(frame.is_cut for frame in frames)


def test_ends_that_are_not_whole_count_after_a_pause_only() -> None:
    for end, payload, oddity in (
        (b"\x1c", M, "ends with 1C alone"),
        (b"\x0c", M, "ends with 0D 0C"),
    ):
        assert read(b"\x0b" + M + end) == []
        assert read(b"\x0b" + M + end, then="pause") == [Frame(payload, (oddity,))]
    assert [frame.payload for frame in read(M, then="pause")] == [M]
    assert read(b"\x0b" + M, then="pause") == [], "a message in a block has its end"


def test_a_message_that_another_one_cuts_off_is_returned_as_cut() -> None:
    frames = read(b"\x0bMSH|^~\\&|A|B\rPID|1|47" + framed(N))
    assert [(frame.payload[-2:], frame.is_cut) for frame in frames] == [(b"47", True), (b"D\r", False)]


def test_a_message_that_the_end_of_the_connection_cuts_off_is_returned_as_cut() -> None:
    (frame,) = read(b"\x0b" + M[:-3], then="end")
    assert frame.is_cut
    assert read(then="end") == [] and read(b"\x0b", then="end") == []


def test_a_0B_or_1C_in_a_text_ends_nothing() -> None:
    message = b"MSH|^~\\&|A\rOBX|1|TX|||a\x0bb\x1cc\x1c\x1cd\r"
    assert read(framed(message)) == [Frame(message)]


def test_acknowledgements_of_release_2_are_told_from_messages() -> None:
    frames = read(framed(b"\x06"), framed(b"\x15"), framed(M))
    assert [frame.is_commit for frame in frames] == [True, True, False]


def test_a_request_of_http_is_refused_although_its_body_has_a_block() -> None:
    post = b"POST / HTTP/1.1\r\nHost: hospital:2575\r\nContent-Length: 99\r\n\r\n" + framed(M)
    with pytest.raises(FrameError, match="HTTP"):
        read(post)
    with pytest.raises(FrameError, match="HTTP"):
        read(*(post[at : at + 1] for at in range(len(post))))


def test_a_message_that_is_too_long_is_refused_before_it_is_all_there() -> None:
    reader = FrameReader(1000)
    reader.feed(b"\x0bMSH|")
    with pytest.raises(FrameTooLong):
        for _ in range(3):
            reader.feed(bytes(400))
    assert reader.held_bytes < 1400
    assert reader.head.startswith(b"MSH|")
    assert [frame.payload for frame in FrameReader(len(M)).feed(framed(M))] == [M]


def test_junk_without_a_message_takes_no_memory() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(b"x" * 65536) == []
    assert reader.held_bytes == 0


def test_long_messages_are_searched_once() -> None:
    """Each byte of a block is looked at a few times at most, however many packets it comes in."""
    reader = FrameReader()
    message = b"MSH|^~\\&|" + b"x" * (4 << 20)
    data = framed(message)
    frames = [frame for at in range(0, len(data), 1024) for frame in reader.feed(data[at : at + 1024])]
    assert [len(frame.payload) for frame in frames] == [len(message)]


def test_each_1c_inside_a_message_costs_the_bytes_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    find = frame._find_start

    def counted(data: bytearray, start: int, end: int) -> int:
        searched.append(end - start)
        return find(data, start, end)

    monkeypatch.setattr(frame, "_find_start", counted)
    message = b"MSH|" + b"\x1cA" * 10_000
    assert [each.payload for each in FrameReader().feed(framed(message))] == [message]
    assert sum(searched) < 2 * len(message) and len(searched) == 1


@given(st.lists(st.binary(max_size=40).map(lambda tail: b"MSH|" + tail.translate(None, b"\x0b\x0c\x1c\r")), max_size=5),
       st.integers(0, 1 << 30))  # fmt: skip
def test_blocks_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], seed: int) -> None:
    data = b"".join(map(framed, messages))
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert [frame.payload for frame in read(*pieces)] == messages


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_any_bytes_give_the_same_however_they_are_cut(noise: bytes, places: list[int]) -> None:
    data = noise.replace(b"M", b"\x0bMSH|").replace(b"E", b"\x1c\r")

    def outcome(*pieces: bytes) -> object:
        try:
            return [(frame.payload, frame.is_cut) for frame in read(*pieces, then="end")]
        except FrameError as error:
            return type(error)

    cuts = sorted(min(place, len(data)) for place in places)
    assert outcome(data) == outcome(*(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)))
