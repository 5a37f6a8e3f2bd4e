"""Texts are read in the set that is declared, and if that is a lie, in the one that fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hl7.character_set import codec_of, decode
from engine.hl7.message import parse


def message(name: str, codec: str, declared: str) -> bytes:
    head = f"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5.1||||||{declared}\r"
    return head.encode() + b"PID|1||1||" + name.encode(codec) + b"^X\r"


@pytest.mark.parametrize(
    ("name", "codec", "declared"),
    [
        ("Müller", "latin_1", "8859/1"),
        ("Müller", "utf_8", "UNICODE UTF-8"),
        ("Müller", "utf_8", "UNICODE"),
        ("Łukasz", "iso8859_2", "8859/2"),
        ("Иванов", "iso8859_5", "8859/5"),
        ("محمد", "iso8859_6", "8859/6"),
        ("Παπα", "iso8859_7", "8859/7"),
        ("Œuvre", "iso8859_15", "8859/15"),
        ("김희중", "euc_kr", "KS X 1001"),
        ("王小东", "gb18030", "GB 18030-2000"),
        ("許功蓋", "big5", "BIG-5"),
        ("ﾔﾏﾀﾞ", "shift_jis", "ISO IR14"),
        ("山田", "iso2022_jp", "~ISO IR87"),
        ("山田太郎", "iso2022_jp", "ISO IR6~ISO IR87"),
    ],
)
def test_a_declared_set_is_obeyed(name: str, codec: str, declared: str) -> None:
    read = parse(message(name, codec, declared))
    assert read.text("PID", 5) == name and read.text("PID", 5, 2) == "X"
    assert not read.oddities


def test_bytes_of_separators_inside_characters_split_nothing() -> None:
    """The second byte of some characters is | or ^ or ~ or a backslash."""
    for name, codec, declared in (("俓乗", "gb18030", "GB 18030-2000"), ("許功蓋", "big5", "BIG-5")):
        assert any(byte in b"|^~\\&" for byte in name.encode(codec)), name
        assert parse(message(name, codec, declared)).text("PID", 5) == name


def test_escapes_of_iso_2022_switch_sets_within_a_segment() -> None:
    data = b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5.1||||||8859/1~8859/5\r"
    data += b"PID|1||1||M\xfcller^\x1b-L" + "Иван".encode("iso8859_5") + b"\rNTE|1||\xfc\r"
    read = parse(data)
    assert (read.text("PID", 5), read.text("PID", 5, 2), read.text("NTE", 3)) == ("Müller", "Иван", "ü")


def test_a_wrong_declaration_is_seen_and_named() -> None:
    read = parse(message("Müller", "utf_8", "8859/6"))
    assert read.text("PID", 5) != "", "8859/6 has some of these bytes or UTF-8 has all"
    lie = parse(message("Müller", "utf_8", ""))
    assert lie.text("PID", 5) == "Müller" and lie.codec == "utf_8" and "no character set" in lie.oddities[0]
    wrong = parse(message("Müller", "latin_1", "UNICODE UTF-8"))
    assert (wrong.text("PID", 5), wrong.codec) == ("Müller", "iso8859_1")
    assert "not in the declared" in wrong.oddities[0]


def test_unknown_sets_are_named_and_never_taken_for_another() -> None:
    assert codec_of("CNS 11643-1992") is None and codec_of("KLINGON") is None and codec_of("8859/12") is None
    read = parse(message("Müller", "latin_1", "CNS 11643-1992"))
    assert "unknown character set" in read.oddities[0]


def test_the_configuration_decides_about_liars() -> None:
    data = message("Иванов", "cp1251", "8859/1")
    assert parse(data, override="cp1251").text("PID", 5) == "Иванов"
    assert parse(message("Иванов", "cp1251", ""), default="cp1251").text("PID", 5) == "Иванов"


def test_hex_escapes_are_in_the_declared_set() -> None:
    data = b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5.1||||||8859/1\rPID|1||1||M\\XFC\\ller\\X41\\\xfc\r"
    assert parse(data).text("PID", 5) == "MüllerAü"


@given(st.binary(max_size=100), st.sampled_from(["", "8859/1", "UNICODE UTF-8", "~ISO IR87", "8859/1~8859/5", "x~y"]))
def test_decoding_never_fails(data: bytes, declared: str) -> None:
    assert isinstance(decode(data, declared).text, str)
