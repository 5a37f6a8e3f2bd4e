"""engine.services.commitment.information: pydicom writes the requests and reads the reports."""

from __future__ import annotations

import io
import zlib

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from engine.archive.commitment.judge import Verdict
from engine.dicom import transfer_syntax
from engine.dicom.transfer_syntax import TransferSyntax
from engine.errors import DataSetError, MessageError, StorageFull
from engine.services.commitment.information import decode_action, encode_event, event_type

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
REFERENCES = [(CT, "1.2.3"), (MR, "1.2.4"), (CT, "1.2.5")]
SYNTAXES = [
    transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN,
    transfer_syntax.EXPLICIT_VR_BIG_ENDIAN,
    transfer_syntax.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
]


def asked(**changes: object) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = "1.9.9"
    ds.StorageMediaFileSetID = "ignored"
    ds.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in REFERENCES:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        item.StorageMediaFileSetID = "ignored too"
        ds.ReferencedSOPSequence.append(item)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, syntax: TransferSyntax, *, undefined: bool = False) -> bytes:
    out = DicomBytesIO()
    out.is_little_endian = syntax is not transfer_syntax.EXPLICIT_VR_BIG_ENDIAN
    out.is_implicit_VR = syntax is transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN
    if undefined:
        ds["ReferencedSOPSequence"].is_undefined_length = True
        for item in ds.ReferencedSOPSequence:
            item.is_undefined_length_sequence_item = True
    write_dataset(out, ds)
    data = out.getvalue()
    if syntax.deflated:
        squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = squeezer.compress(data) + squeezer.flush()
    return data


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.uid)
def test_a_request_is_read_in_every_transfer_syntax(syntax: TransferSyntax, undefined: bool) -> None:
    assert decode_action(encoded(asked(), syntax, undefined=undefined), syntax, 3) == ("1.9.9", REFERENCES)


def item(**values: str) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    "changes",
    [
        {"TransactionUID": None},
        {"TransactionUID": "no uid"},
        {"ReferencedSOPSequence": []},
        {"ReferencedSOPSequence": [item(ReferencedSOPClassUID=CT)]},
        {"ReferencedSOPSequence": [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="")]},
        {"ReferencedSOPSequence": [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="1" * 66)]},
        {"ReferencedSOPSequence": [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID="1.2\\1.3")]},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
def test_an_incomplete_request_is_an_invalid_argument(changes: dict[str, object]) -> None:
    syntax = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN
    with pytest.raises(MessageError) as found:
        decode_action(encoded(asked(**changes), syntax), syntax, 10)
    assert found.value.status == 0x0115


def test_an_empty_request_is_an_invalid_argument() -> None:
    with pytest.raises(MessageError):
        decode_action(b"", transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN, 10)


def test_a_request_is_read_no_further_than_its_limit() -> None:
    syntax = transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN
    with pytest.raises(StorageFull):
        decode_action(encoded(asked(), syntax), syntax, 2)


def test_a_deflated_bomb_is_refused() -> None:
    syntax = transfer_syntax.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with pytest.raises(DataSetError, match="more than"):
        decode_action(squeezer.compress(bytes(64 << 20)) + squeezer.flush(), syntax, 10)
    with pytest.raises(DataSetError, match="inflated"):
        decode_action(b"\xff" * 20, syntax, 10)


def reported(data: bytes, syntax: TransferSyntax) -> Dataset:
    uid = syntax.uid.encode() + b"\0" * (len(syntax.uid) % 2)
    element = b"\2\0\x10\0UI" + len(uid).to_bytes(2, "little") + uid
    head = bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + len(element).to_bytes(4, "little") + element
    return dcmread(io.BytesIO(head + data))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.uid)
def test_a_report_lists_committed_instances_and_failures_with_reasons(syntax: TransferSyntax) -> None:
    references = [(CT, f"1.2.{number}") for number in range(len(Verdict))]
    data = encode_event("1.9.9", references, list(Verdict), retrieve_ae_title="FILMROOM", transfer_syntax=syntax)
    ds = reported(data, syntax)
    assert (ds.TransactionUID, ds.RetrieveAETitle) == ("1.9.9", "FILMROOM")
    assert [(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in ds.ReferencedSOPSequence] == [
        (CT, "1.2.0")
    ]
    reasons = [0x0112, 0x0119, 0x0122, 0x0110, 0x0110, 0x0131]
    assert [each.FailureReason for each in ds.FailedSOPSequence] == reasons
    assert [each.ReferencedSOPInstanceUID for each in ds.FailedSOPSequence] == [uid for _, uid in references[1:]]


def test_a_report_leaves_out_empty_sequences_and_titles() -> None:
    syntax = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN
    all_well = [Verdict.COMMITTED] * 3
    ds = reported(encode_event("1.9", REFERENCES, all_well, retrieve_ae_title="A", transfer_syntax=syntax), syntax)
    assert "FailedSOPSequence" not in ds
    all_ill = [Verdict.ABSENT] * 3
    ds = reported(encode_event("1.9", REFERENCES, all_ill, retrieve_ae_title="A", transfer_syntax=syntax), syntax)
    assert "ReferencedSOPSequence" not in ds
    assert "RetrieveAETitle" not in ds


def test_the_event_type_tells_whether_there_are_failures() -> None:
    assert event_type([Verdict.COMMITTED, Verdict.COMMITTED]) == 1
    assert event_type([Verdict.COMMITTED, Verdict.DAMAGED]) == 2
