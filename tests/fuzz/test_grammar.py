"""Inputs made by a grammar, not by mutation: what is nearly right, part by part. Hypothesis shrinks what fails.

Data sets, identifiers and PDUs made this way are in tests/ext, tests/dicom and tests/ul beside what they are compared
with. Here are those that have no twin: Part 10 heads, encapsulated Pixel Data, command sets, user information and
configurations. All end in a value or in the parser's own error, which the targets check.
"""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate

from engine.archive.transcoding.decompress import decompress
from engine.config.composition import keys
from engine.dicom import part10, tags, transfer_syntax
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from tests.fuzz.targets import FRAME_SYNTAXES, TARGETS
from tests.oracle import data_sets
from tests.oracle.data_sets import Plain

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=150)

lengths = st.one_of(
    st.integers(0, 40), st.sampled_from([0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF7, 0xFFFFFFFE, 0xFFFFFFFF])
)
"""What a length field may claim."""


@st.composite
def claimed(draw: st.DrawFn, value: bytes) -> int:
    """The length of a value: the right one, most often."""
    return draw(lengths) if draw(st.integers(0, 5)) == 0 else len(value)


# Part 10 -----------------------------------------------------------------------------------------


@st.composite
def meta_elements(draw: st.DrawFn) -> bytes:
    tag = draw(st.sampled_from([0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020102]))
    vr = draw(st.sampled_from(["UL", "OB", "UI", "SH", "AE", "UN", "SQ", ""]))
    value = draw(st.one_of(st.binary(max_size=20), st.sampled_from([b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1\0"])))
    length = draw(claimed(value))
    is_long = vr in ("OB", "UN", "SQ", "")
    return data_sets.header(tag, vr, length if is_long else length & 0xFFFF, 1) + value


@EXAMPLES
@given(
    st.sampled_from([b"", b"DICM", bytes(128) + b"DICM", bytes(128) + b"DICN", bytes(127) + b"DICM"]),
    st.lists(meta_elements(), max_size=8),
    st.sampled_from([b"", data_sets.encode(data_sets.ct_head(), 1), data_sets.encode(data_sets.ct_head(), 0), b"\x08"]),
)
def test_heads_of_files_are_read_or_refused(start: bytes, elements: list[bytes], data_set: bytes) -> None:
    TARGETS["part10"].run(start + b"".join(elements) + data_set)


@EXAMPLES
@given(st.text(max_size=70), st.text(max_size=70), st.sampled_from(FRAME_SYNTAXES), st.text(max_size=20))
def test_the_head_that_is_written_is_read(class_uid: str, uid: str, syntax: str, title: str) -> None:
    head = part10.write_file_meta(class_uid, uid, syntax, source_ae_title=title)
    found = part10.read_file_meta(head + b"\x08\0\x16\0UI\2\x001\0")
    assert found.transfer_syntax_uid == syntax
    assert found.data_set_offset == len(head)
    assert not found.is_guessed


# Encapsulated Pixel Data -------------------------------------------------------------------------


def rle_frame(planes: list[bytes]) -> bytes:
    """Literal runs of up to 128 bytes, one segment a plane (PS3.5 Annex G)."""
    segments = []
    for plane in planes:
        runs = [plane[at : at + 128] for at in range(0, len(plane), 128)]
        segment = b"".join(bytes((len(run) - 1,)) + run for run in runs)
        segments.append(segment + b"\x80" * (len(segment) % 2))
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *([0] * (15 - len(offsets)))) + b"".join(segments)


@st.composite
def image(draw: st.DrawFn) -> tuple[list[Plain], bool]:
    """Attributes of an image of 3 × 5 pixels, and whether they are as they should be."""
    right = {
        tags.SamplesPerPixel: 1,
        tags.Rows: 3,
        tags.Columns: 5,
        tags.BitsAllocated: 16,
        tags.BitsStored: 12,
        tags.PixelRepresentation: 0,
        tags.PlanarConfiguration: 0,
    }
    wrong = draw(st.dictionaries(st.sampled_from(list(right)), st.sampled_from([0, 1, 2, 7, 64, 65535]), max_size=2))
    missing = draw(st.sets(st.sampled_from(list(right)), max_size=1))
    values = {tag: value for tag, value in {**right, **wrong}.items() if tag not in missing}
    frames = draw(st.sampled_from(["2", "2", "2", "", "0", "-1", "99999999999", "two", "1\\2", "3"]))
    plain = [data_sets.us(tag, value) for tag, value in values.items()]
    plain += [
        data_sets.text(tags.NumberOfFrames, frames),
        data_sets.text(tags.PhotometricInterpretation, "MONOCHROME2"),
    ]
    return sorted(plain, key=lambda element: element.tag), not missing and values == right and frames == "2"


@EXAMPLES
@given(image(), st.integers(0, 1), st.data())
def test_encapsulated_pixel_data_is_decoded_or_refused(
    described: tuple[list[Plain], bool], syntax: int, data: st.DataObject
) -> None:
    attributes, is_right = described
    pixels = bytes(range(30))
    frame = rle_frame([pixels[1::2], pixels[::2]]) if syntax == 0 else pixels
    frames = [frame, frame]
    form = data.draw(st.sampled_from(["whole", "table wrong", "fragments wrong", "no end"]))
    value = encapsulate(frames, has_bot=data.draw(st.booleans()))
    if form == "table wrong":
        offsets = data.draw(st.lists(st.integers(0, 0xFFFFFFFF), max_size=4))
        table = struct.pack(f"<{len(offsets)}I", *offsets)
        value = data_sets.header(data_sets.ITEM, "", len(table), 1) + table + value[8:]
    elif form == "fragments wrong":
        pieces = data.draw(st.lists(st.binary(max_size=40), max_size=4))
        value = b"".join(data_sets.header(data_sets.ITEM, "", data.draw(claimed(piece)), 1) + piece for piece in pieces)
    end = b"" if form == "no end" else data_sets.header(data_sets.SEQUENCE_END, "", 0, 1)
    data_set = data_sets.encode(attributes, 1) + data_sets.header(tags.PixelData, "OB", 0xFFFFFFFF, 1) + value + end
    TARGETS["frames"].run(bytes((0 if syntax == 0 else 2,)) + data_set)
    if is_right and form == "whole":
        source = transfer_syntax.of((FRAME_SYNTAXES[0], FRAME_SYNTAXES[2])[syntax])
        native = decompress(data_set, source, EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=1000)
        assert native.endswith(pixels + pixels)


# Command sets and user information ---------------------------------------------------------------


@st.composite
def command_elements(draw: st.DrawFn) -> bytes:
    element = draw(
        st.sampled_from(
            [0, 2, 3, 0x100, 0x110, 0x120, 0x600, 0x700, 0x800, 0x900, 0x901, 0x902, 0x1000, 0x1001, 0x1020]
        )
    )
    value = draw(
        st.one_of(
            st.sampled_from([b"\1\0", b"\x20\0", b"\x21\0", b"\x30\0", b"\1\x80", b"\1\1", b"\0\0", b"\xff\x0f"]),
            st.sampled_from([b"1.2.840.10008.1.1\0", b"", b"\xff\xfe", b"AE TITLE"]),
            st.binary(max_size=12),
        )
    )
    group = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 2]))
    return struct.pack("<HHI", group, element, draw(claimed(value))) + value


@EXAMPLES
@given(st.lists(command_elements(), max_size=14))
def test_command_sets_are_messages_or_refused(elements: list[bytes]) -> None:
    TARGETS["message"].run(b"".join(elements))


@st.composite
def user_items(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from([*range(0x50, 0x5A), 0x10, 0x20, 0x21, 0x30, 0x40, 0xFF]))
    uid = b"1.2.840.10008.5.1.4.1.1.2"
    sized = struct.pack(">H", draw(claimed(uid)) & 0xFFFF) + uid
    value = draw(
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from(
                [sized + b"\1\0", sized + sized + sized, sized, uid, b"\1\1" + sized + sized, b"\0\0\x40\0"]
            ),
        )
    )
    return struct.pack(">BBH", kind, 0, draw(claimed(value)) & 0xFFFF) + value


@EXAMPLES
@given(st.sampled_from([1, 2]), st.lists(user_items(), max_size=12), st.lists(user_items(), max_size=6))
def test_items_in_any_order_are_an_association_or_refused(kind: int, items: list[bytes], inner: list[bytes]) -> None:
    information = b"".join(inner)
    fixed = b"\0\1\0\0" + b"CALLED".ljust(16) + b"CALLING".ljust(16) + bytes(32)
    item = struct.pack(">BBH", 0x50, 0, len(information)) + information
    TARGETS["pdu"].run(bytes((kind,)) + fixed + b"".join(items) + item)


# Configuration -----------------------------------------------------------------------------------

KEYS = [*(key for key, _ in keys()), "peer", "limits", "nonsense"]
PEER_KEYS = ["aet", "host", "port", "may", "timeout_s", "transfer_syntaxes", "nonsense"]
toml_values = st.one_of(
    st.integers(-10, 1 << 65).map(str),
    st.floats(allow_nan=True).map(lambda number: repr(number).replace("e+", "e")),
    st.sampled_from(
        ["true", "false", "[]", "{}", "'x'", "'durable'", "'keep-first'", "1979-05-27", "[[1], 'a']", "''"]
    ),
    st.text(max_size=20).map(lambda text: "'" + "".join(c for c in text if c.isprintable() and c != "'") + "'"),
)


@EXAMPLES
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), toml_values), max_size=5),
    st.lists(st.dictionaries(st.sampled_from(PEER_KEYS), toml_values, max_size=4), max_size=2),
)
def test_configurations_are_taken_or_explained(settings_: list[tuple[str, str]], peers: list[dict[str, str]]) -> None:
    lines = [f"{key} = {value}" for key, value in settings_]
    for peer in peers:
        lines += ["[[peer]]", *(f"{key} = {value}" for key, value in peer.items())]
    TARGETS["config"].run("\n".join(lines).encode())
