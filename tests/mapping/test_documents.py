"""Documents are found in reports, however senders package them."""

from __future__ import annotations

import base64

import pytest

from engine.dicom.document import Document
from engine.hl7.message import parse
from engine.mapping.documents import documents_of
from tests.hl7.samples import lines

PDF = b"%PDF-1.4\n%\xe2\xe3\n1 0 obj\nendobj\n%%EOF\n"
CDA = '<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"><title>ü</title></ClinicalDocument>'.encode()
HEAD = "MSH|^~\\&|RIS|ST|F|R|20261130||ORU^R01|1|P|2.5.1||||||UNICODE UTF-8"
OBR = f"OBR|1|P1|F1|CT1^CT Thorax|||20261129101500{'|' * 15}202611301015|||F"


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def found(*observations: str) -> tuple[list[Document], list[str]]:
    return documents_of(parse(lines(HEAD, OBR, *observations)))


@pytest.mark.parametrize(
    ("value", "kind", "data"),
    [
        (f"^application^pdf^Base64^{coded(PDF)}", "pdf", PDF),
        (f"RIS^AP^PDF^BASE64^{coded(PDF)}", "pdf", PDF),
        (f"^application^octet-stream^Hex^{PDF.hex()}", "pdf", PDF),
        (coded(PDF), "pdf", PDF),
        (f"^text^xml^Base64^{coded(CDA)}", "cda", CDA),
        (f"^multipart^x-hl7-cda-level-one^A^{CDA.decode()}", "cda", CDA),
        (
            "^multipart^related^Base64^"
            + coded(b'MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary="b"\r\n\r\n--b\r\n'
                    b"Content-Type: text/xml\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                    + base64.b64encode(CDA) + b"\r\n--b--\r\n"),
            "cda",
            CDA,
        ),
    ],
)  # fmt: skip
def test_a_document_is_unpacked(value: str, kind: str, data: bytes) -> None:
    documents, warnings = found(f"OBX|1|ED|18748-4^Report^LN||{value}")
    assert not warnings
    assert documents == [Document(kind, data, "CT Thorax", "20261130", "1015")]  # type: ignore[arg-type]


def packaged(parts: list[bytes], boundary: bytes) -> bytes:
    head = b"Content-Type: multipart/related; boundary=" + boundary + b"\n\n"
    return head + b"".join(b"--" + boundary + b"\n" + part + b"\n" for part in parts) + b"--" + boundary + b"--\n"


def test_a_package_in_a_package_is_unpacked_and_one_of_a_thousand_is_not() -> None:
    part = b"Content-Type: text/xml\nContent-Transfer-Encoding: quoted-printable\n\n" + CDA.replace(b"=", b"=3D")
    inner = packaged([b"Content-Type: text/plain\n\nsee below", part], b"inner")
    documents, warnings = found(f"OBX|1|ED|1||^multipart^related^Hex^{packaged([inner], b'outer').hex()}")
    assert [each.data for each in documents] == [CDA] and not warnings
    deep = part
    for depth in range(1000):
        deep = packaged([deep], b"b%d" % depth)
    for data in (deep, b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 100_000, b"a: b\n" * 100_000):
        assert found(f"OBX|1|ED|1||^multipart^related^Hex^{data.hex()}")[0] == []


def test_texts_become_one_text() -> None:
    documents, warnings = found(
        "OBX|1|TX|1||First line~second", "OBX|2|FT|2||third\\.br\\fourth \\T\\ last", "OBX|3|NM|3||7"
    )
    assert not warnings
    assert documents == [Document("text", b"First line\nsecond\nthird\nfourth & last", "CT Thorax", "20261130", "1015")]


@pytest.mark.parametrize(
    "value", ["^application^pdf^Base64^@@@", "^application^pdf^Base64^", "^image^jpeg^Base64^/9j/"]
)
def test_what_is_no_document_is_a_warning(value: str) -> None:
    documents, warnings = found(f"OBX|1|ED|1||{value}")
    assert not documents and warnings == ["a document in OBX-5 is neither PDF nor CDA"]


def test_a_report_without_documents_has_none() -> None:
    assert found("OBX|1|TX|1||", "OBX|2|CE|2||x") == ([], [])
