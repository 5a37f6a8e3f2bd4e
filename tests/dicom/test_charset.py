r"""dicom.charset: the examples of PS3.5 Annexes H to K, pydicom as a twin in both directions, wrong declarations."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from engine.dicom import elements, tags
from engine.dicom.charset import decode, encode
from engine.dicom.identifier import Identifier, decode_identifier
from tests.corpus import corpus_files, needs_corpus
from tests.oracle import foreign

# (declaration, bytes, text): the person names of the annexes.
EXAMPLES = [
    (b"", b"Yamada^Tarou", "Yamada^Tarou"),
    (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (b"ISO_IR 192", "Wang^XiaoDong=王^小東=".encode(), "Wang^XiaoDong=王^小東="),
    (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    (b"GBK", "王^小东".encode("gbk"), "王^小东"),
    (b"\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "Zhang^XiaoDong=张^小东="),
    (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    (b"ISO_IR 101", b"W\xb3a\xb6ciwy", "Właściwy"),
    (b"ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
    (b"ISO_IR 126", "Διονυσιος".encode("iso8859_7"), "Διονυσιος"),
    (b"ISO_IR 127", "قباني^لنزار".encode("iso8859_6"), "قباني^لنزار"),
    (b"ISO_IR 138", "שרון^דבורה".encode("iso8859_8"), "שרון^דבורה"),
    (b"ISO_IR 148", "Çavuşoğlu".encode("iso8859_9"), "Çavuşoğlu"),
    (b"ISO_IR 166", "นามสกุล".encode("tis_620"), "นามสกุล"),
    (b"ISO_IR 203", b"Cr\xe9mi\xe8re \xa4\xbd", "Crémière €œ"),
    (b"ISO_IR 13", b"\xd4\xcf\xc0\xde", "ﾔﾏﾀﾞ"),
    (b"ISO 2022 IR 100\\ISO 2022 IR 144", b"J\xf6rg^\x1b-L\xb8\xd2^J\xf6", "Jörg^Ив^Jö"),
    (b"ISO 2022 IR 6\\ISO 2022 IR 87\\ISO 2022 IR 159", b"\x1b$(D0!\x1b(B^\x1b$B;3\x1b(B", "丂^山"),
]


@pytest.mark.parametrize(("character_set", "value", "text"), EXAMPLES)
def test_examples_are_decoded(character_set: bytes, value: bytes, text: str) -> None:
    assert decode(value, character_set, "PN") == text


@pytest.mark.parametrize(("character_set", "value", "text"), EXAMPLES)
def test_examples_come_back_through_encoding(character_set: bytes, value: bytes, text: str) -> None:
    encoded = encode(text, character_set, "PN")
    assert encoded is not None
    assert decode(encoded, character_set, "PN") == text


@pytest.mark.parametrize(("character_set", "value", "text"), EXAMPLES)
def test_examples_are_encoded_as_in_the_annexes(character_set: bytes, value: bytes, text: str) -> None:
    assert encode(text, character_set, "PN") == value


@given(st.text(max_size=30), st.sampled_from([example[0] for example in EXAMPLES]), st.sampled_from(("PN", "LO", "LT")))
def test_encoded_text_decodes_to_the_same(text: str, character_set: bytes, vr: str) -> None:
    encoded = encode(text, character_set, vr)
    if encoded is not None:
        assert decode(encoded, character_set, vr) == text


def test_characters_that_a_set_lacks_are_not_encoded() -> None:
    for character_set in (b"", b"ISO_IR 6", b"ISO_IR 100", b"\\ISO 2022 IR 149", b"ISO_IR 13"):
        assert encode("Ж山م", character_set, "LO") is None
    assert encode("山", b"ISO_IR 13", "LO") is None
    assert encode("plain", b"", "LO") == b"plain"


def test_a_yen_sign_is_not_written_because_readers_would_see_a_backslash() -> None:
    for character_set in (b"ISO_IR 13", b"\\ISO 2022 IR 87", b"ISO 2022 IR 13\\ISO 2022 IR 87"):
        assert encode("¥", character_set, "LO") is None
        assert encode("‾", character_set, "LO") is None
    assert decode(b"\xd4\\\xcf", b"ISO_IR 13").split("\\") == ["ﾔ", "ﾏ"]


def test_a_text_with_an_escape_is_written_in_utf8_only() -> None:
    assert encode("a\x1b-Ab", b"ISO 2022 IR 100\\ISO 2022 IR 144", "LO") is None
    assert encode("a\x1b-Ab", b"ISO_IR 192", "LO") == b"a\x1b-Ab"


def test_vrs_without_a_character_set_are_written_as_they_are_read() -> None:
    for character_set in (b"", b"ISO_IR 100", b"GB18030"):
        encoded = encode("é", character_set, "CS")
        assert encoded is not None and decode(encoded, character_set, "CS") == "é"


# pydicom as a twin ----------------------------------------------------------------------------------

ALPHABETS = {
    "100": "éüßÿ",
    "101": "łšŐž",
    "109": "ħĉĜŭ",
    "110": "ĸŗŲž",
    "144": "ЖИвџ",
    "126": "ΩάΔς",
    "127": "قبنء",
    "138": "שרןב",
    "148": "ğİşü",
    "166": "นามสก",
    "13": "ﾔﾏﾀﾞｱ｡ｿ",
    "87": "山田表秋ヤ、",
    "159": "丂丄侂ĉ",
    "149": "洪吉洞홍길가",
    "58": "张小东王啊",
}
TWINS = [
    *(f"ISO_IR {number}" for number in ("100", "101", "109", "110", "144", "126", "127", "138", "148", "166", "13")),
    "ISO 2022 IR 100\\ISO 2022 IR 144",
    "ISO 2022 IR 101\\ISO 2022 IR 126\\ISO 2022 IR 87",
    "\\ISO 2022 IR 127\\ISO 2022 IR 138",
    "\\ISO 2022 IR 87",
    "ISO 2022 IR 6\\ISO 2022 IR 87\\ISO 2022 IR 159",
    "ISO 2022 IR 13\\ISO 2022 IR 87",
    "ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159",
    "\\ISO 2022 IR 149",
    "ISO 2022 IR 149",
    "\\ISO 2022 IR 58",
    "\\ISO 2022 IR 100\\ISO 2022 IR 149\\ISO 2022 IR 58",
    "ISO_IR 192",
    "GB18030",
    "GBK",
]


def letters_of(terms: str) -> str:
    """Letters of the declared sets, and some that they may lack."""
    characters = "".join(letters for number, letters in ALPHABETS.items() if re.search(rf"IR {number}\b", terms))
    return characters or "山张é王"


@st.composite
def twins(draw: st.DrawFn) -> tuple[str, list[str]]:
    terms = draw(st.sampled_from(TWINS))
    letters = "Ab .,-" + letters_of(terms) * 3
    return terms, draw(st.lists(st.text(letters, max_size=6), min_size=1, max_size=5))


def decoded_by_pydicom(value: bytes, terms: str, delimiters: set[int]) -> str:
    """pydicom leaves the escape of GB 2312 in the text."""
    return decode_bytes(value, convert_encodings(terms.split("\\")), delimiters).replace("\x1b$)A", "")


@pytest.fixture(scope="module", autouse=True)
def strict_pydicom() -> Iterator[None]:
    before = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.RAISE
    yield
    config.settings.reading_validation_mode, config.settings.writing_validation_mode = before


@given(twins(), st.sampled_from("^="))
def test_pydicom_reads_the_person_names_that_we_write(twin: tuple[str, list[str]], delimiter: str) -> None:
    terms, pieces = twin
    text = delimiter.join(pieces)
    encoded = encode(text, terms.encode(), "PN")
    assert encoded is not None, "every letter is in some declared set"
    assert decoded_by_pydicom(encoded, terms, PN_DELIMS | {ord("=")}) == text
    assert decode(encoded, terms.encode(), "PN") == text


@given(twins(), st.sampled_from(["\r\n", "\t", "\f", "^", "="]), st.sampled_from(["LO", "LT"]))
def test_pydicom_reads_the_texts_that_we_write(twin: tuple[str, list[str]], delimiter: str, vr: str) -> None:
    terms, pieces = twin
    text = delimiter.join(pieces)
    encoded = encode(text, terms.encode(), vr)
    assert encoded is not None
    assert decoded_by_pydicom(encoded, terms, TEXT_VR_DELIMS) == text
    assert decode(encoded, terms.encode(), vr) == text


@given(twins())
def test_we_read_what_pydicom_writes(twin: tuple[str, list[str]]) -> None:
    terms, pieces = twin
    if "IR 149" in terms and "IR 58" in terms:
        return  # it writes GB 2312 without its escape
    encodings = convert_encodings(terms.split("\\"))
    try:
        encoded = [encode_string(piece, encodings) if piece else b"" for piece in pieces]
    except UnicodeError:
        return
    if b"?" in b"".join(encoded):
        return  # its replacement
    for delimiter in ("^", "="):
        assert decode(delimiter.encode().join(encoded), terms.encode(), "PN") == delimiter.join(pieces)
    assert decode(b"\\".join(encoded), terms.encode(), "LO") == "\\".join(pieces)


@given(st.binary(max_size=12), st.sampled_from(TWINS[:11]))
def test_single_byte_sets_are_read_as_pydicom_reads_them(value: bytes, terms: str) -> None:
    value = value.replace(b"\x1b", b"")
    try:
        expected = decoded_by_pydicom(value, terms, TEXT_VR_DELIMS)
    except UnicodeError:
        return
    assert decode(value, terms.encode()) == expected


# declarations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [b"ISO_IR 100", b"ISO-IR 100", b"ISO IR 100", b"ISO_IR_100", b"ISO 2022 IR 100", b"ISO2022IR100", b"iso_ir 100"],
)
def test_misspelt_terms_are_understood(term: bytes) -> None:
    assert decode(b"\xe9\xff", term) == "éÿ"


def test_undeclared_bytes_are_tried_as_utf8_then_taken_for_latin1() -> None:
    for character_set in (b"", b"ISO_IR 6", b"NONSENSE"):
        assert decode("Jérôme".encode(), character_set) == "Jérôme"
        assert decode(b"J\xe9r\xf4me", character_set) == "Jérôme"


def test_bytes_that_the_declared_set_lacks_are_replaced_not_refused() -> None:
    assert decode(b"ab\xff\xfe", b"GB18030") == "ab\ufffd\ufffd"
    assert decode("é".encode(), b"ISO_IR 13") != ""


def test_bytes_that_the_declared_set_lacks_are_tried_as_utf8() -> None:
    assert decode("é".encode(), b"ISO_IR 109") == "é"
    assert decode("山田".encode(), b"\\ISO 2022 IR 87") == "山田"
    assert decode("Ж".encode(), b"ISO_IR 100\\ISO_IR 192") == "Ж"


def test_invalid_utf8_is_taken_for_latin1() -> None:
    assert decode(b"M\xfcller^J\xf6rg", b"ISO_IR 192") == "Müller^Jörg"
    assert decode(b"Andr\xe9", b"ISO_IR 192") == "André"


def test_utf8_that_was_cut_within_a_character_stays_utf8() -> None:
    for character_set in (b"", b"ISO_IR 192"):
        assert decode("éé山".encode()[:-1], character_set) == "éé\ufffd"


def test_sets_without_their_escape_are_tried() -> None:
    assert decode("홍길동".encode("euc_kr"), b"\\ISO 2022 IR 149") == "홍길동"
    assert decode("张小东".encode("gbk"), b"\\ISO 2022 GBK") == "张小东"
    assert decode("똠".encode("cp949"), b"\\ISO 2022 IR 149\\ISO_IR 192") != "똠"  # no set that is declared has it
    assert decode("똠".encode("cp949"), b"ISO 2022 IR 149") == "똠"
    assert decode("镕".encode("gbk"), b"ISO 2022 IR 58") == "镕"


def test_vrs_without_a_character_set_are_not_decoded_by_it() -> None:
    assert decode(b"\xd4\xcf", b"ISO_IR 13", "LO") == "ﾔﾏ"
    assert decode(b"\xd4\xcf", b"ISO_IR 13", "CS") == "ÔÏ"


def test_a_backslash_within_two_bytes_is_not_a_separator() -> None:
    value = "表".encode("gbk") + b"\\" + "乗".encode("gb18030")
    assert decode("乗\\乗".encode("gb18030"), b"GB18030").count("\\") == 1
    assert decode(value, b"GBK") == "表\\乗"
    assert decode(b"\x1b$B\x41\x5c\x1b(B", b"\\ISO 2022 IR 87") == b"\x1b$B\x41\x5c\x1b(B".decode("iso2022_jp")


@pytest.mark.parametrize("delimiter", [b"^", b"=", b"\\", b"\r\n", b"\t"])
def test_a_delimiter_brings_back_the_first_set(delimiter: bytes) -> None:
    value = b"\x1b-L\xb8" + delimiter + b"\xe9"
    assert decode(value, b"ISO 2022 IR 100\\ISO 2022 IR 144", "PN") == "И" + delimiter.decode() + "é"


def test_component_delimiters_do_this_only_in_person_names() -> None:
    value = b"\x1b-L\xb8^\xd2"
    assert decode(value, b"ISO 2022 IR 100\\ISO 2022 IR 144", "PN") == "И^Ò"
    assert decode(value, b"ISO 2022 IR 100\\ISO 2022 IR 144", "LO") == "И^в"


ODD_DECLARATIONS = [b"ISO_IR 1000", b"\xff", b"\\\\\\", b"GB18030\\X"]


@given(st.binary(max_size=40), st.sampled_from([example[0] for example in EXAMPLES] + ODD_DECLARATIONS))
def test_any_bytes_are_decoded(value: bytes, character_set: bytes) -> None:
    assert isinstance(decode(value, character_set, "PN"), str)


ESCAPE_PARTS = [b"\x1b", b"$B", b"(B", b"-A", b"$)C", b")I", b"\xb0", b";3", b"^", b"A"]


@given(st.lists(st.sampled_from(ESCAPE_PARTS), max_size=12))
def test_any_escapes_are_decoded(parts: list[bytes]) -> None:
    assert isinstance(decode(b"".join(parts), b"ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 149", "PN"), str)


@needs_corpus("charset")
def test_the_corpus_is_decoded_as_pydicom_decodes_it() -> None:
    # pydicom knows no ISO_IR 203 and leaves the escapes of GB 2312 in the text.
    compared = 0
    for path in corpus_files("charset"):
        file = foreign.read_file(path)
        if file is None or file.transfer_syntax.deflated or b"ISO_IR 203" in file.data[:200]:
            continue
        compared += compare(decode_identifier(file.data, file.transfer_syntax), path.name)
    assert compared > 40


def compare(identifier: Identifier, name: str) -> int:
    compared = 0
    terms = identifier.character_set.decode("ascii", "replace").split("\\")
    for tag, value in identifier.items.items():
        vr = tags.vr_of(tag)
        if isinstance(value, list):
            compared += sum(compare(item, name) for item in value)
        elif vr in ("PN", "LO", "SH", "LT", "ST") and (b"\x1b" in value or not value.isascii()):
            try:
                encodings = convert_encodings([term.strip() for term in terms])
                expected = decode_bytes(value, encodings, PN_DELIMS if vr == "PN" else TEXT_VR_DELIMS)
            except LookupError:
                continue
            if "\ufffd" not in expected and "\x1b" not in expected and identifier.character_set:
                assert decode(value, identifier.character_set, vr) == expected, (name, hex(tag), value)
                compared += 1
    return compared


@needs_corpus("charset")
def test_blobs_of_the_corpus_decode_to_their_text() -> None:
    for path in corpus_files("charset"):
        file = foreign.read_file(path)
        if file is not None:
            head = elements.extract(file.data, file.transfer_syntax)
            for tag, value in elements.blob_items(head.patient).items():
                assert "\ufffd" not in decode(value, head.specific_character_set, tags.vr_of(tag)), (path, hex(tag))
