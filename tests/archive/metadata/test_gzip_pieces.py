"""Pieces that were compressed before make one gzip stream, whatever they are and however they grew."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from engine.archive.metadata.gzip_pieces import EMPTY, Growing, Piece, combined, joined, stored, text_of


def grown(texts: list[bytes]) -> Piece:
    """Each text added by itself, as to a file that is read again each time."""
    piece = EMPTY
    for text in texts:
        growing = Growing(piece)
        growing.add(text)
        piece = growing.finish()
    return piece


@pytest.mark.parametrize("length", [0, 1, 2, 255, 65_536, 1_000_003])
def test_the_checksum_of_two_texts_follows_from_theirs(length: int) -> None:
    chance = random.Random(length)
    first, second = chance.randbytes(77), chance.randbytes(length)
    assert combined(zlib.crc32(first), zlib.crc32(second), length) == zlib.crc32(first + second)
    assert combined(0, zlib.crc32(second), length) == zlib.crc32(second)


@pytest.mark.parametrize("seed", range(5))
def test_any_pieces_in_any_order_are_one_member(seed: int) -> None:
    chance = random.Random(seed)
    words = [b"%d hello world " % number * chance.randrange(1, 3000) for number in range(20)]
    pieces: list[Piece] = []
    expected = b""
    for number in range(10):
        texts = [b"[,]"] if number % 3 == 0 else [chance.choice(words) for _ in range(chance.randrange(4))]
        pieces.append(stored(texts[0]) if number % 3 == 0 else grown(texts))
        expected += b"".join(texts)
    assert b"".join(text_of(pieces)) == expected
    stream = b"".join(joined(pieces))
    assert gzip.decompress(stream) == expected
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert inflate.decompress(stream) == expected, "a client that stops after the first member has all"
    assert inflate.eof
    assert inflate.unused_data == b""


def test_what_is_added_later_refers_back_to_what_is_there() -> None:
    """The pieces of a text take little more than the text at once."""
    chance = random.Random(1)
    instance = chance.randbytes(2000).hex().encode()
    texts = [instance + b"%d" % number for number in range(200)]
    together = Growing()
    for text in texts:
        together.add(text)
    assert len(grown(texts).data) < 2 * len(together.finish().data)


def test_nothing_is_an_empty_stream() -> None:
    assert gzip.decompress(b"".join(joined([]))) == b""
    assert gzip.decompress(b"".join(joined([EMPTY, Growing().finish()]))) == b""


def test_a_damaged_piece_is_an_error() -> None:
    piece = grown([b"abc" * 1000])
    with pytest.raises(zlib.error):
        b"".join(text_of([Piece(b"\xff" + piece.data[1:], piece.length, piece.crc)]))
