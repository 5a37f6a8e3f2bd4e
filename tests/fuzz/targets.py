"""What is fuzzed: each parser as one function over bytes, with the inputs to start from and what must hold.

A target raises nothing when the parser gives a value or refuses with its own error; whatever else comes out is a
finding. The first byte of an input chooses what the bytes do not say: PDU type, encoding, transfer syntax. Beyond
"no crash", each checks what it can: what was read is written and read back the same, places lie inside the bytes,
twins agree. Frames are decoded by Python and RLE alone: the foreign codecs have a process of their own.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PosixPath
from typing import Any

from pydicom.encaps import encapsulate
from pynetdicom.tests import encoded_dimse_msg as golden_messages
from pynetdicom.tests import encoded_pdu_items as golden_pdus

from engine._ext import multipart as multipart_ext
from engine.archive.commitment.judge import Verdict
from engine.archive.interchange import dicomdir, directory_records
from engine.archive.transcoding.decompress import decompress
from engine.config import reader
from engine.dicom import (
    charset,
    elements,
    identifier,
    json_model,
    model_reader,
    part10,
    reencoding,
    tags,
    transfer_syntax,
    values,
    xml_model,
)
from engine.dicom.convert import convert
from engine.dicom.sources import Whole
from engine.dimse import assembly, command, messages
from engine.errors import (
    ConfigError,
    DataSetError,
    LocalProtocolError,
    MessageError,
    RemoteProtocolError,
    StorageFull,
    TranscodeError,
)
from engine.services.commitment.information import decode_action, encode_event
from engine.ul import pdu
from tests import samples
from tests.oracle import data_sets
from tests.oracle import elements as oracle
from tests.oracle.multipart import NotWhole, take_apart
from tests.oracle.pieces import scan_in_pieces
from tests.oracle.store_response import store_response

INFLATED_BYTES_MAX = 1 << 20
"""For conversions here; the default would only cost time."""

ENCODINGS = (0, 1, 3)
SYNTAXES = (
    transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax.EXPLICIT_VR_BIG_ENDIAN,
    transfer_syntax.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax.of("1.2.840.10008.1.2.4.90"),
)
FRAME_SYNTAXES = ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.1.98")


@dataclass(frozen=True, slots=True)
class Target:
    """One parser."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


# Inputs to start from ----------------------------------------------------------------------------


def _some_data_sets() -> Iterator[tuple[int, bytes]]:
    """Number of an encoding, data set."""
    for number, encoding in enumerate(ENCODINGS):
        for undefined in (False, True):
            yield number, data_sets.encode(data_sets.ct_head(undefined=undefined), encoding)
    yield 1, samples.encoded(samples.instance(pixels=bytes(64), patient_name="Müller^Jörg"))
    yield 0, samples.encoded(samples.instance(pixels=bytes(64), transfer_syntax="1.2.840.10008.1.2"))
    yield 1, nested(12, encoding=1, undefined=True)
    yield 1, nested(12, encoding=1, undefined=False)
    yield 0, nested(12, encoding=0, undefined=True)


def nested(depth: int, *, encoding: int, undefined: bool) -> bytes:
    """Sequences in sequences, `depth` of them; built from within, for so deep nobody may recurse."""
    inner = b""
    tag = tags.ContentSequence
    if undefined:
        opening = data_sets.header(tag, "SQ", 0xFFFFFFFF, encoding) + data_sets.header(
            data_sets.ITEM, "", 0xFFFFFFFF, encoding
        )
        closing = data_sets.header(data_sets.ITEM_END, "", 0, encoding) + data_sets.header(
            data_sets.SEQUENCE_END, "", 0, encoding
        )
        return opening * depth + closing * depth
    item_bytes, sequence_bytes = 8, 12 if encoding & 1 else 8
    headers = []
    size = 0
    for _ in range(depth):
        headers.append(data_sets.header(data_sets.ITEM, "", size, encoding))
        size += item_bytes
        headers.append(data_sets.header(tag, "SQ", size, encoding))
        size += sequence_bytes
    return b"".join(reversed(headers)) + inner


@cache
def _data_set_seeds() -> tuple[bytes, ...]:
    return tuple(bytes((number,)) + data for number, data in _some_data_sets())


@cache
def _transfer_seeds() -> tuple[bytes, ...]:
    """As data sets, deflated too; the first byte is an index into SYNTAXES and a target."""
    found = list(_data_set_seeds())
    for number, data in _some_data_sets():
        if number == 1:
            deflater = zlib.compressobj(wbits=-15)
            found.append(b"\x03" + deflater.compress(data) + deflater.flush())
    return tuple(found)


def _pdu_seeds() -> list[bytes]:
    names = [name for name in dir(golden_pdus) if name.startswith(("a_", "p_data"))]
    found = [getattr(golden_pdus, name) for name in names]
    return [data[:1] + data[6:] for data in found if isinstance(data, bytes) and len(data) > 6]


def _message_seeds() -> list[bytes]:
    found = [getattr(golden_messages, name) for name in dir(golden_messages) if "_cmd" in name]
    return [data[1:] for data in found if isinstance(data, bytes) and len(data) > 20]


def _file_seeds() -> list[bytes]:
    whole = samples.part10(samples.instance(pixels=bytes(32)))
    return [whole, whole[128:], whole[132:], *(data[1:] for data in _data_set_seeds())]


def _identifier_seeds() -> list[bytes]:
    keys = {
        tags.SpecificCharacterSet: b"ISO_IR 192",
        tags.QueryRetrieveLevel: b"STUDY",
        tags.PatientName: "MÜLLER*^J?".encode(),
        tags.StudyDate: b"20260101-20260131",
        tags.StudyInstanceUID: b"1.2.3\\1.2.4",
        tags.ModalitiesInStudy: b"CT\\MR",
        tags.Rows: b"\0\2",
        tags.RequestAttributesSequence: [{tags.ScheduledProcedureStepID: b"1", tags.RequestedProcedureID: b"*"}],
    }
    return [
        bytes((number,)) + identifier.encode_identifier(keys, syntax) for number, syntax in enumerate(SYNTAXES[:4])
    ] + list(_transfer_seeds())


def _commitment_seeds() -> list[bytes]:
    items = [
        {tags.ReferencedSOPClassUID: samples.CT.encode(), tags.ReferencedSOPInstanceUID: b"1.2.%d" % number}
        for number in range(3)
    ]
    asked = {tags.TransactionUID: b"1.9.9", tags.ReferencedSOPSequence: items}
    return [
        bytes((number,)) + identifier.encode_identifier(asked, syntax) for number, syntax in enumerate(SYNTAXES[:4])
    ]


def _frame_seeds() -> list[bytes]:
    found = []
    for number, uid in enumerate(FRAME_SYNTAXES):
        ds = samples.instance(pixels=b"")
        ds.Rows, ds.Columns, ds.NumberOfFrames = 4, 4, 2
        frame = bytes(range(32))
        if number == 0:  # two segments of literal runs, high bytes first (PS3.5 Annex G)
            runs = [b"\x0f" + frame[part::2] + b"\x80" for part in (1, 0)]
            frame = struct.pack("<16I", 2, 64, 64 + len(runs[0]), *([0] * 13)) + b"".join(runs)
        elif number == 1:
            deflater = zlib.compressobj(wbits=-15)
            frame = deflater.compress(frame) + deflater.flush()
        frame += bytes(len(frame) % 2)
        for has_bot in (True, False):
            ds.file_meta.TransferSyntaxUID = uid
            ds.PixelData = encapsulate([frame, frame], has_bot=has_bot)
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
            found.append(bytes((number,)) + samples.encoded(ds))
    return found


def _dicomdir_seeds() -> list[bytes]:
    record = data_sets.Item(
        [
            data_sets.Plain(0x00041400, "UL", bytes(4)),
            data_sets.us(0x00041410, 0xFFFF),
            data_sets.Plain(0x00041420, "UL", bytes(4)),
            data_sets.Plain(0x00041500, "CS", b"DICOM\\A\\B "),
        ]
    )
    found = []
    for undefined in (False, True):
        sequence = data_sets.Plain(0x00041220, "SQ", [record, record], undefined)
        meta = part10.write_file_meta("1.2.840.10008.1.3.10", "1.2.3", "1.2.840.10008.1.2.1")
        found.append(meta + data_sets.encode([sequence], 1))
    return found


def _config_seeds() -> list[bytes]:
    return [
        b"aet = 'ARCHIVE'\nworkers = 2\nduplicates = 'replace'\n[limits]\nidle_timeout_s = 5\n[log]\nlevel = 'debug'\n",
        b"[[peer]]\naet = 'A'\nhost = 'h'\nport = 104\nmay = ['store']\ntransfer_syntaxes = ['1.2.3']\n"
        b"[[peer]]\naet = 'B'\n",
        b"data = '/x'\ndurability = 'write-behind'\n[storage]\nsegment_bytes = 1073741824\n"
        b"[target]\nsync_p99_ms_max = 1\n",
        b"limits = { associations_max = 3 }\npeer = [ { aet = 'C' } ]\n",
    ]


def _text_seeds() -> list[bytes]:
    texts = [
        "20260102", "2026.01.02", "101112.123456", "10:11", "20260102101112.5+0130", "20260101-20260131", "-1200",
        "Doe^Jane^^Dr.=\u5c71\u7530^\u592a\u90ce=", "m\u00fcller*", " 12 ", "1.50e3", "1.2.840.10008.1.2\0", "a\\b\\c",
    ]  # fmt: skip
    return [bytes((number,)) + text.encode() for number, text in enumerate(texts)]


# Targets -----------------------------------------------------------------------------------------


def _pdu(data: bytes) -> None:
    pdu_type, body = data[0] if data else 0, data[1:]
    try:
        unit = pdu.decode(pdu_type, body)
    except RemoteProtocolError as error:
        assert error.source == 2
        assert error.reason in (1, 4, 5, 6)
        return
    try:
        encoded = pdu.encode(unit)
    except LocalProtocolError:
        return  # received with what the standard does not let us write
    assert pdu.decode(encoded[0], encoded[6:]) == unit


def _message(data: bytes) -> None:
    found: dict[int, bytes] = {}
    try:
        found = command.decode(data)
        assert sum(map(len, found.values())) + 8 * len(found) <= len(data)
        assert {k: v for k, v in command.decode(command.encode(found)).items() if k}.keys() == {*found} - {0}
    except MessageError as error:
        assert error.status == 0x0212
    try:
        message = messages.decode(data)
    except MessageError as error:
        assert error.status in (0x0211, 0x0212)
        answer = messages.failure_response(data, error)
        if answer is not None:
            assert command.decode(answer)[command.Element.Status] == command.pack_uint16(error.status)
        return
    try:
        encoded = message.encode()
    except LocalProtocolError:
        return
    if b"" in (found.get(element) for element in (2, 3, 0x1000, 0x1001)):
        return  # an empty UID is taken as it is, but not written
    again = messages.decode(encoded)
    assert type(again) is type(message)
    assert again.encode() == encoded


def _extract(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    syntax = SYNTAXES[choice % len(SYNTAXES)]
    try:
        head = elements.extract(data, syntax)
    except DataSetError:
        return
    for blob in (head.patient, head.study, head.series, head.instance):
        items = elements.blob_items(blob)
        assert list(items) == sorted(items)
        for tag, value in items.items():
            if tags.vr_of(tag) == "SQ":
                list(elements.walk(value, 1))
    assert syntax.deflated or head.pixel_data_offset == -1 or 0 <= head.pixel_data_offset <= len(data) - 8


def _multipart(data: bytes) -> None:
    """In one piece and byte by byte the same parts come out as of the slow twin, or all refuse."""
    try:
        expected = take_apart(data, b"bound", 64, 32)
    except NotWhole:
        expected = None
    blocks = multipart_ext.BlockPool(block_bytes=1 << 16)
    for size in (max(len(data), 1), 1):
        splitter = multipart_ext.Splitter(blocks, b"bound", header_bytes_max=64, preamble_bytes_max=32)
        for at in range(0, len(data), size):
            splitter.feed(data[at : at + size])
        is_whole = splitter.finish()
        parts: list[tuple[bytes, bytes]] = []
        for event in splitter.take():
            if event[0] == multipart_ext.PART:
                parts.append((event[1], b""))
            elif event[0] == multipart_ext.PIECE:
                parts[-1] = (parts[-1][0], parts[-1][1] + bytes(event[1]))
        assert (parts if is_whole else None) == expected


def _multipart_seeds() -> list[bytes]:
    part = b"--bound\r\nContent-Type: application/dicom\r\nContent-Length: 5\r\n\r\n\r\n--b\r\n"
    return [part * 3 + b"--bound--\r\n", b"x\n" + part.replace(b"\r", b"") + b"--bound--", b"--bound\r\n\r\n--bound--"]


def _model_json(data: bytes) -> None:
    """JSON from anybody: what is taken is a data set that says the same when it is written again."""
    try:
        models = model_reader.parse(data)
    except DataSetError:
        return
    for model in models:
        _model(model)


def _model_xml(data: bytes) -> None:
    try:
        model = xml_model.parse(data)
    except DataSetError:
        return
    _model(model)


def _model(model: dict[str, Any]) -> None:
    try:
        found = model_reader.draft(model)
    except DataSetError:
        return
    data = found.whole(lambda bulk: b"ab")
    first = json_model.encode(data, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN, None)
    again = json.loads(first)
    _ascending(again)
    if b"null" not in first:  # which stands for NaN too
        second = model_reader.draft(again).whole(lambda bulk: b"ab")
        assert json_model.encode(second, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN, None) == first


def _model_seeds() -> list[bytes]:
    found = []
    for number, data in _some_data_sets():
        syntax = SYNTAXES[number]
        found += [json_model.encode(data, syntax, "/bulk"), json_model.encode(data, syntax, None)]
    return found


def _json_model(data: bytes) -> None:
    """What is written is JSON with ascending keys, and needs no more room than its bytes can ask for."""
    choice, data = data[0] if data else 0, data[1:]
    encoding = ENCODINGS[choice % 3]
    writer = json_model._ext.Writer(charset.decode, (64, 128, 256, 64, 1 << 20))
    for prefix in (b"/bulk", None):
        try:
            written = writer.data_set(data, encoding, prefix, b"", bool(choice & 128))
        except elements._ext.Malformed:
            continue
        _ascending(json.loads(written))
        assert len(written) <= 64 * len(data) + 100


def _ascending(model: dict[str, Any]) -> None:
    assert list(model) == sorted(model)
    for attribute in model.values():
        assert len(attribute) <= 2
        if attribute["vr"] == "SQ":
            for item in attribute.get("Value", ()):
                _ascending(item)


def _extract_twins(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:4000]
    encoding = ENCODINGS[choice % 3]
    try:
        expected: object = oracle.head_of(data, encoding)
    except oracle.Broken:
        expected = None
    except RecursionError:
        return  # the twin's weakness
    try:
        found = elements.STANDARD.extract(data, encoding, 64, 1 << 20)
    except elements._ext.Malformed as error:
        assert expected is None or "too deeply" in str(error)
        return
    assert isinstance(expected, oracle.Head)
    assert [found.patient, found.study, found.series, found.instance] == expected.levels
    assert found.pixel_data_offset == expected.pixel_data_offset
    assert found.specific_character_set == expected.character_set
    assert bool(found.cut) == expected.is_cut


def _scan_pieces(data: bytes) -> None:
    """In pieces the same is found as in the whole, or it is refused alike."""
    choice, data = data[0] if data else 0, data[1:]
    encoding = ENCODINGS[choice % 3]
    outcomes: list[object] = []
    for read in (
        lambda: elements.STANDARD.extract(data, encoding, 64, 10_000),
        lambda: scan_in_pieces(data, encoding, random.Random(choice), 64, 10_000),
    ):
        try:
            head = read()
        except elements._ext.Malformed as error:
            outcomes.append(str(error))
            continue
        outcomes.append((head.patient, head.study, head.series, head.instance, head.pixel_data_offset, head.cut))
    assert outcomes[0] == outcomes[1]


def _walk(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    encoding = elements.encoding_of(data, SYNTAXES[choice % 3])
    waiting = [(0, len(data), encoding, 0)]
    while waiting:
        start, end, encoding, depth = waiting.pop()
        last = start
        try:
            for element in elements.walk(data, encoding, start, end):
                assert last + 8 <= element.value_offset <= element.value_offset + element.length <= end
                last = element.value_offset + element.length
                if depth < 64 and (element.vr == "SQ" or element.tag == tags.Item):
                    within = elements.item_encoding(data, element, encoding) if element.tag == tags.Item else encoding
                    waiting.append((element.value_offset, last, within, depth + 1))
        except DataSetError:
            pass


def _reencode(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    source, target = ENCODINGS[choice % 3], ENCODINGS[choice // 3 % 3]
    try:
        there = reencoding.reencode(data, source, target)
    except DataSetError:
        return
    pieces = reencoding.Reencoding(Whole(data), source, target).pieces(1 + len(data) % 251)
    assert b"".join([bytes(piece) for piece in pieces]) == there, "pieces come to something else than the whole"
    try:
        again = reencoding.reencode(there, target, target)
    except DataSetError:
        assert not target & 1, "explicit VR that we wrote ourselves is not read"
        return  # a false VR is lost on the way to implicit, and with it what the value was
    assert again == there, "a second pass changes what the first has written"


def _convert(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    source, target = SYNTAXES[choice % 4], SYNTAXES[choice // 4 % 4]
    try:
        convert(data, source, target, inflated_bytes_max=INFLATED_BYTES_MAX)
    except TranscodeError:
        pass


def _part10(data: bytes) -> None:
    try:
        meta = part10.read_file_meta(data)
    except DataSetError:
        return
    assert 0 <= meta.data_set_offset <= len(data)
    assert meta.transfer_syntax_uid


def _identifier(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    syntax = SYNTAXES[choice % 4]
    try:
        found = identifier.decode_identifier(data, syntax)
    except DataSetError:
        return
    for tag in list(found.items)[:50]:
        found.text(tag)
    try:
        encoded = identifier.encode_identifier(found.items, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN)
    except DataSetError:
        return
    again = identifier.decode_identifier(encoded, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN)
    assert set(again.items) == set(found.items) - {tags.SpecificCharacterSet}


def _commitment(data: bytes) -> None:
    """Action information of a request for storage commitment."""
    choice, data = data[0] if data else 0, data[1:]
    try:
        transaction_uid, references = decode_action(data, SYNTAXES[choice % 4], 100)
    except (DataSetError, MessageError, StorageFull):
        return
    assert 0 < len(references) <= 100
    verdicts = [Verdict.COMMITTED if number % 2 else Verdict.ABSENT for number in range(len(references))]
    for syntax in SYNTAXES[:4]:
        said = encode_event(transaction_uid, references, verdicts, retrieve_ae_title="A", transfer_syntax=syntax)
        report = identifier.decode_identifier(said, syntax)
        assert report.value(tags.TransactionUID).decode() == transaction_uid
        items = [*report.sequence(tags.ReferencedSOPSequence), *report.sequence(tags.FailedSOPSequence)]
        told = [(item.value(tags.ReferencedSOPClassUID), item.value(tags.ReferencedSOPInstanceUID)) for item in items]
        assert sorted(told) == sorted((one.encode(), other.encode()) for one, other in references)


def _store_response(data: bytes) -> None:
    """What a batch reads by itself is read the same by its twin and by who reads all commands."""
    found = assembly.store_response(data)
    assert found == store_response(data)
    if found is None:
        return
    try:
        message = messages.decode(data)
    except MessageError:
        return  # an element that a batch does not need is no good
    assert isinstance(message, messages.CStoreRSP)
    assert (message.message_id_being_responded_to, message.status) == found


def _store_response_seeds() -> list[bytes]:
    answers = [messages.CStoreRSP(7, "1.2.3", "1.2.3.4", status) for status in (0, 0xB000, 0xA700)]
    return [answer.encode() for answer in (*answers, messages.CStoreRSP(1, "", "", 0xA700, error_comment="no"))]


def _frames(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    source = transfer_syntax.of(FRAME_SYNTAXES[choice % len(FRAME_SYNTAXES)])
    try:
        decompress(data, source, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN, decoded_bytes_max=INFLATED_BYTES_MAX)
    except TranscodeError:
        pass
    except BaseException as error:
        # The RLE decoder ends its process by it, which is what that process is for.
        if type(error).__name__ != "PanicException":
            raise


def _dicomdir(data: bytes) -> None:
    try:
        for components in dicomdir.file_ids(data):
            assert all(isinstance(component, str) for component in components)
    except DataSetError:
        pass
    for kind in ("IMAGE", "SR DOCUMENT"):
        directory_records.keys_of([data[1:]], SYNTAXES[data[0] % 4 if data else 0], kind)


class _Text(PosixPath):
    """A file that is only in memory."""

    content: bytes

    def read_bytes(self) -> bytes:
        return self.content


def _config(data: bytes) -> None:
    file = _Text("fuzzed.toml")
    object.__setattr__(file, "content", data)
    try:
        config = reader.load(file, {}, {})
    except ConfigError as error:
        assert str(error)
        return
    assert reader.load(file, {}, {}) == config
    assert type(config).from_json(config.to_json()) == config
    config.describe()


_VRS = ("PN", "DA", "TM", "DT", "IS", "DS", "UI", "LO", "SH", "LT", "AT", "CS")


def _text(data: bytes) -> None:
    """Values of queries and data sets: character sets, normal forms, ranges, wildcards."""
    choice, raw = data[0] if data else 0, data[1:200]
    vr = _VRS[choice % len(_VRS)]
    character_set = (b"", b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"GB18030", raw[:20])[choice // 16 % 6]
    text = identifier.charset.decode(raw, character_set, vr)
    for value in values.split(vr, text):
        normal = values.normalise(vr, value)
        assert vr not in ("DA", "UI", "IS") or values.normalise(vr, normal) == normal
        values.parse_range(vr, value)
        values.precision_range(vr, value)


def _blob(data: bytes) -> None:
    try:
        items = elements.blob_items(data)
    except DataSetError:
        return
    assert sum(map(len, items.values())) + 8 * len(items) <= len(data)


def _blob_seeds() -> list[bytes]:
    heads = [elements.extract(data, SYNTAXES[number]) for number, data in _some_data_sets()]
    return [blob for head in heads for blob in (head.patient, head.study, head.series, head.instance) if blob]


TARGETS: dict[str, Target] = {
    "pdu": Target(_pdu, _pdu_seeds),
    "message": Target(_message, _message_seeds),
    "extract": Target(_extract, lambda: list(_transfer_seeds())),
    "scan-pieces": Target(_scan_pieces, lambda: list(_data_set_seeds())),
    "extract-twins": Target(_extract_twins, lambda: list(_data_set_seeds())),
    "json-model": Target(_json_model, lambda: list(_data_set_seeds())),
    "model-json": Target(_model_json, _model_seeds),
    "model-xml": Target(_model_xml, lambda: [xml_model.encode(json.loads(text)) for text in _model_seeds()]),
    "multipart": Target(_multipart, _multipart_seeds),
    "walk": Target(_walk, lambda: list(_data_set_seeds())),
    "reencode": Target(_reencode, lambda: list(_data_set_seeds())),
    "convert": Target(_convert, lambda: list(_transfer_seeds())),
    "part10": Target(_part10, _file_seeds),
    "identifier": Target(_identifier, _identifier_seeds),
    "commitment": Target(_commitment, _commitment_seeds),
    "store-response": Target(_store_response, _store_response_seeds),
    "frames": Target(_frames, _frame_seeds),
    "dicomdir": Target(_dicomdir, _dicomdir_seeds),
    "text": Target(_text, _text_seeds),
    "blob": Target(_blob, _blob_seeds),
    "config": Target(_config, _config_seeds),
}
