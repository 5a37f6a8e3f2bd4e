"""STOW-RS of metadata and bulk data: JSON and XML, native and compressed pixels, documents. One server for all."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import orjson
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_fragments, generate_frames

from engine.dicom import xml_model
from engine.web import stow_model
from tests import samples
from tests.dicom.test_movies import AVC, mp4_of
from tests.web.hosting import Hosting
from tests.web.stowing import Answer, post, serving

ROOT = "1.2.840.10008.1.2"
GREY = (np.add.outer(np.arange(48) * 3, np.arange(64))).astype(np.uint8)
COLOUR = np.stack([GREY // 16 * 4, GREY * 0 + 99, GREY // 64 * 60], axis=2).astype(np.uint8)

_numbers = iter(range(500_000, 1_000_000))

Part = tuple[str, str, bytes]
"""Content-Type, Content-Location, content."""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("stow") / "data") as hosting:
        yield hosting


def model_of(**more: Any) -> dict[str, Any]:
    """An instance without pixels, and without what describes them."""
    ds = samples.instance(next(_numbers), **more)
    for keyword in ("PixelData", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated",
                    "BitsStored", "HighBit", "PixelRepresentation"):  # fmt: skip
        delattr(ds, keyword)
    model: dict[str, Any] = ds.to_json_dict()
    return model


def uid_of(model: dict[str, Any]) -> str:
    return str(model["00080018"]["Value"][0])


def multipart(parts: list[Part]) -> bytes:
    texts = [
        f"--m\r\nContent-Type: {kind}\r\nContent-Location: {location}\r\n\r\n".encode() + content + b"\r\n"
        for kind, location, content in parts
    ]
    return b"".join(texts) + b"--m--\r\n"


def store(hosting: Hosting, models: list[dict[str, Any]], *bulk: Part, as_xml: bool = False) -> Answer:
    if as_xml:
        heads: list[Part] = [("application/dicom+xml", "", xml_model.encode(model)) for model in models]
    else:
        heads = [("application/dicom+json", "", orjson.dumps(models))]
    kind = "application/dicom+xml" if as_xml else "application/dicom+json"
    return post(hosting, multipart([*heads, *bulk]), f'multipart/related; type="{kind}"; boundary=m')


def stored(hosting: Hosting, model: dict[str, Any]) -> pydicom.Dataset:
    instance = hosting.engine.archive.instance(uid_of(model))
    assert instance is not None
    return hosting.engine.archive.dataset(instance)


@pytest.mark.parametrize("as_xml", [False, True], ids=["json", "xml"])
def test_metadata_and_native_pixels_become_instances(hosting: Hosting, as_xml: bool) -> None:
    models = [model_of(), model_of(patient_name="Müller^Ä")]
    pixels = [bytes([number]) * 3001 for number in range(2)]
    for number, model in enumerate(models):
        model["7FE00010"] = {"vr": "OW", "BulkDataURI": f"bulk/{number}"}
        model["00091010"] = {"vr": "OB", "InlineBinary": base64.b64encode(b"1234").decode()}
    bulk = [("application/octet-stream", f"bulk/{number}", data) for number, data in enumerate(pixels)]
    answer = store(hosting, models, *reversed(bulk), as_xml=as_xml)
    assert answer.status == 200 and len(answer.stored) == 2, answer.body
    for model, data in zip(models, pixels, strict=True):
        found = stored(hosting, model)
        assert found.PixelData == data + b"\0" and found.file_meta.TransferSyntaxUID == f"{ROOT}.1"
        assert found[0x0009, 0x1010].value == b"1234"
    assert str(stored(hosting, models[1]).PatientName) == "Müller^Ä"


def progressive() -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY).save(out, "JPEG", quality=95, progressive=True)
    return out.getvalue()


ENCODED: dict[str, tuple[str, bytes, str, np.ndarray[Any, Any]]] = {
    "JPEG": ("image/jpeg", imagecodecs.jpeg8_encode(GREY, level=95), f"{ROOT}.4.50", GREY),
    "JPEG colour": ("image/jpeg", imagecodecs.jpeg8_encode(COLOUR, level=95), f"{ROOT}.4.50", COLOUR),
    "JPEG progressive": ("image/jpeg", progressive(), f"{ROOT}.4.55", GREY),
    "JPEG lossless": ("image/jpeg", imagecodecs.jpeg8_encode(GREY, lossless=True, predictor=1), f"{ROOT}.4.70", GREY),
    "JPEG-LS": ("image/jls", imagecodecs.jpegls_encode(GREY), f"{ROOT}.4.80", GREY),
    "JP2": ("image/jp2", imagecodecs.jpeg2k_encode(GREY, level=0, reversible=True), f"{ROOT}.4.90", GREY),
    "J2K": (
        "image/jp2",
        imagecodecs.jpeg2k_encode(GREY, level=0, reversible=True, codecformat="J2K"),
        f"{ROOT}.4.90",
        GREY,
    ),
    "HTJ2K": ("image/jphc", imagecodecs.htj2k_encode(GREY, reversible=True), f"{ROOT}.4.201", GREY),
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_compressed_image_is_kept_and_describes_itself(hosting: Hosting, name: str) -> None:
    kind, codestream, syntax, picture = ENCODED[name]
    model = model_of()
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": "http://elsewhere/pixels"}
    answer = store(hosting, [model], (kind, "http://elsewhere/pixels", codestream))
    assert answer.status == 200, answer.body
    found = stored(hosting, model)
    assert found.file_meta.TransferSyntaxUID == syntax
    assert (found.Rows, found.Columns, found.SamplesPerPixel) == (48, 64, (picture.ndim == 3 and 3) or 1)
    assert (found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation) == (8, 8, 7, 0)
    frame = next(generate_frames(found.PixelData, number_of_frames=1))
    assert frame.rstrip(b"\0") in codestream and len(frame) > len(codestream) // 2
    # pydicom has no decoder for these here.
    is_jpeg = name in ("JPEG lossless", "JPEG progressive")
    decoded = imagecodecs.jpeg8_decode(frame) if is_jpeg else found.pixel_array
    is_lossy = syntax.endswith((".50", ".55"))
    expected = imagecodecs.jpeg8_decode(codestream) if is_lossy else picture
    assert np.abs(decoded.astype(int) - expected.astype(int)).max() <= 3 * is_lossy


def test_more_parts_of_bulk_data_than_a_request_may_have_are_refused_as_a_whole(
    hosting: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow_model, "BULK_PARTS_MAX", 3)
    model = model_of()
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": "p0"}
    parts = [("application/octet-stream", f"p{number}", b"\0" * 2) for number in range(4)]
    answer = store(hosting, [model], *parts)
    assert answer.status == 413, answer.body
    assert hosting.engine.archive.instance(uid_of(model)) is None


def test_several_parts_of_one_location_are_frames_and_what_the_client_says_counts(hosting: Hosting) -> None:
    model = model_of()
    model["7FE00010"] = {"vr": "OB", "BulkDataURI": "p"}
    model["00280004"] = {"vr": "CS", "Value": ["MONOCHROME1"]}
    frames = [imagecodecs.jpegls_encode(GREY + number) for number in range(3)]
    assert store(hosting, [model], *[("image/jls", "p", frame) for frame in frames]).status == 200
    found = stored(hosting, model)
    assert found.NumberOfFrames == 3 and found.PhotometricInterpretation == "MONOCHROME1"
    assert [frame.rstrip(b"\0") for frame in generate_frames(found.PixelData, number_of_frames=3)] == [
        frame.rstrip(b"\0") for frame in frames
    ]


def png(pixels: np.ndarray[Any, Any], mode: str = "") -> bytes:
    """`mode`: of Pillow, for what imagecodecs does not write."""
    if not mode:
        return bytes(imagecodecs.png_encode(pixels))
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def gif(frames: list[np.ndarray[Any, Any]]) -> bytes:
    buffer = io.BytesIO()
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(buffer, "GIF", save_all=True, append_images=others)
    return buffer.getvalue()


GREY_16 = GREY.astype(np.uint16) * 257 - 3
ALPHA = np.concatenate([COLOUR, GREY[:, :, None]], axis=2)
PICTURES: dict[str, tuple[str, bytes, np.ndarray[Any, Any], int]] = {
    "grey": ("image/png", png(GREY), GREY, 0),
    "16 bits": ("image/png", png(GREY_16), GREY_16, 0),
    "1 bit": ("image/png", png((GREY > 99).astype(np.uint8) * 255, "1"), (GREY > 99).astype(np.uint8) * 255, 0),
    "colour": ("image/png", png(COLOUR), COLOUR, 0),
    "alpha": ("image/png", png(ALPHA), COLOUR, 0),
    "palette": ("image/png", png(COLOUR // 64 * 64, "P"), COLOUR // 64 * 64, 0),
    "grey in colour": ("image/png", png(np.stack([GREY] * 3, axis=2)), GREY, 1),
    "gif": ("image/gif", gif([GREY]), GREY, 1),
    "animation": ("image/gif", gif([GREY, GREY.T.reshape(GREY.shape)]),
                  np.stack([GREY, GREY.T.reshape(GREY.shape)]), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_a_png_or_gif_becomes_native_pixels(hosting: Hosting, name: str) -> None:
    """Also a palette of few colours, which Pillow picks itself: compared with what Pillow decodes."""
    kind, file, pixels, samples_per_pixel = PICTURES[name]
    if name == "palette":
        pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    model = model_of()
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": "picture"}
    if samples_per_pixel:
        model["00280002"] = {"vr": "US", "Value": [samples_per_pixel]}
    answer = store(hosting, [model], (kind, "picture", file))
    assert answer.status == 200, answer.body
    found = stored(hosting, model)
    assert found.file_meta.TransferSyntaxUID == f"{ROOT}.1"
    assert (found.Rows, found.Columns, found.get("NumberOfFrames", 1)) == (48, 64, 2 if name == "animation" else 1)
    assert found.PhotometricInterpretation == ("RGB" if found.SamplesPerPixel == 3 else "MONOCHROME2")
    assert found.BitsAllocated == found.BitsStored == found.HighBit + 1 == pixels.itemsize * 8
    assert np.array_equal(found.pixel_array, pixels)


def test_several_pngs_of_one_location_are_frames(hosting: Hosting) -> None:
    model = model_of()
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": "frames"}
    frames = [GREY, GREY + 1, GREY + 2]
    assert store(hosting, [model], *[("image/png", "frames", png(frame)) for frame in frames]).status == 200
    found = stored(hosting, model)
    assert found.NumberOfFrames == 3 and np.array_equal(found.pixel_array, np.stack(frames))


def _bomb(columns: int, rows: int) -> bytes:
    """A short PNG that says it is large."""
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")]
    texts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(texts)


@pytest.mark.parametrize(
    ("kind", "file", "more"),
    [
        ("image/png", _bomb(65000, 65000), {}),
        ("image/png", _bomb(2**31 - 1, 1), {}),
        ("image/png", _bomb(0, 1), {}),
        ("image/png", png(GREY)[:-200], {}),
        ("image/png", png(GREY)[:40], {}),
        ("image/png", b"", {}),
        ("image/png", b"\x89PNG\r\n\x1a\n" + bytes(100), {}),
        ("image/png", imagecodecs.jpeg8_encode(GREY), {}),
        ("image/gif", b"GIF89a" + b"\xff" * 60, {}),
        ("image/gif", gif([GREY])[:300], {}),
        ("image/png", png(GREY), {"00280010": ("US", 47)}),
        ("image/png", png(COLOUR), {"00280002": ("US", 1)}),
        ("image/png", png(GREY), {"00280004": ("CS", "PALETTE COLOR")}),
        ("image/png", png(GREY), {"00280008": ("IS", 2)}),
        ("image/png", png(GREY), {"00280103": ("US", 1)}),
    ],
)
def test_a_picture_that_is_not_what_it_says_fails_alone(
    hosting: Hosting, kind: str, file: bytes, more: dict[str, tuple[str, Any]]
) -> None:
    good, wrong = model_of(), model_of()
    for key, (vr, value) in more.items():
        wrong[key] = {"vr": vr, "Value": [value]}
    wrong["7FE00010"] = {"vr": "OW", "BulkDataURI": "picture"}
    answer = store(hosting, [wrong, good], (kind, "picture", file))
    assert answer.status == 202 and answer.stored == [uid_of(good)]
    assert answer.failures == {uid_of(wrong): 0xC000}


def test_jpeg_xl_is_kept_as_it_came(hosting: Hosting) -> None:
    codestream = imagecodecs.jpegxl_encode(GREY, lossless=True)
    model = model_of()
    model["7FE00010"] = {"vr": "OB", "BulkDataURI": "xl"}
    for key, value in (("00280002", 1), ("00280010", 48), ("00280011", 64), ("00280100", 8), ("00280101", 8),
                       ("00280102", 7), ("00280103", 0)):  # fmt: skip
        model[key] = {"vr": "US", "Value": [value]}
    model["00280004"] = {"vr": "CS", "Value": ["MONOCHROME2"]}
    answer = store(hosting, [model], ("image/jxl", "xl", codestream))
    assert answer.status == 200, answer.body
    instance = hosting.engine.archive.instance(uid_of(model))
    assert instance is not None and instance.transfer_syntax_uid == f"{ROOT}.4.110"
    assert codestream in hosting.engine.archive.read(instance)


def test_a_document_becomes_an_encapsulated_one(hosting: Hosting) -> None:
    model = model_of(sop_class_uid="1.2.840.10008.5.1.4.1.1.104.1")
    model["00420011"] = {"vr": "OB", "BulkDataURI": "pdf"}
    assert store(hosting, [model], ("application/pdf", "pdf", b"%PDF-1.7 ...")).status == 200
    found = stored(hosting, model)
    assert found.EncapsulatedDocument == b"%PDF-1.7 ..." and found.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert found.EncapsulatedDocumentLength == 12


def test_metadata_alone_is_an_instance_and_bulk_data_may_lie_in_a_sequence(hosting: Hosting) -> None:
    model = model_of(sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11")
    model["54000100"] = {"vr": "SQ", "Value": [{"54001010": {"vr": "OW", "BulkDataURI": "wave"}}]}
    plain = model_of()
    answer = store(hosting, [model, plain], ("application/octet-stream", "wave", bytes(range(256)) * 100))
    assert answer.status == 200
    assert stored(hosting, model).WaveformSequence[0].WaveformData == bytes(range(256)) * 100


def test_an_instance_that_cannot_be_assembled_fails_alone(hosting: Hosting) -> None:
    good, lost, wrong, odd = model_of(), model_of(), model_of(), model_of()
    lost["7FE00010"] = {"vr": "OW", "BulkDataURI": "nowhere"}
    wrong["00280010"] = {"vr": "US", "Value": [70000]}
    odd["7FE00010"] = {"vr": "OW", "BulkDataURI": "odd"}
    answer = store(hosting, [good, lost, wrong, odd], ("image/jpeg", "odd", b"\xff\xd8\xff\xc0"))
    assert answer.status == 202 and answer.stored == [uid_of(good)]
    assert answer.failures == {uid_of(each): 0xC000 for each in (lost, wrong, odd)}


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'[{"00080018": 1}]', b"[" * 100_000, b"\xff\xfe"])
def test_invalid_metadata_is_answered(hosting: Hosting, text: bytes) -> None:
    body = multipart([("application/dicom+json", "", text)])
    assert post(hosting, body, 'multipart/related; type="application/dicom+json"; boundary=m').status in (400, 409)


def test_a_declared_document_type_is_refused(hosting: Hosting) -> None:
    text = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><NativeDicomModel/>'
    body = multipart([("application/dicom+xml", "", text)])
    assert post(hosting, body, 'multipart/related; type="application/dicom+xml"; boundary=m').status == 400


def test_a_file_and_metadata_may_come_together(hosting: Hosting) -> None:
    ds, model = samples.instance(next(_numbers)), model_of()
    parts = [
        ("application/dicom", "", samples.part10(ds)),
        ("application/dicom+json", "", orjson.dumps(model)),
    ]
    answer = post(hosting, multipart(parts), 'multipart/related; type="application/dicom"; boundary=m')
    assert sorted(answer.stored) == sorted([ds.SOPInstanceUID, uid_of(model)])


# Video -------------------------------------------------------------------------------------------


def test_a_video_is_kept_and_describes_itself(hosting: Hosting) -> None:
    model = model_of(sop_class_uid="1.2.840.10008.5.1.4.1.1.77.1.1.1", modality="ES")
    model["7FE00010"] = {"vr": "OB", "BulkDataURI": "film"}
    film = mp4_of(AVC)
    answer = store(hosting, [model], ("video/mp4", "film", film))
    assert answer.status == 200, answer.body
    found = stored(hosting, model)
    assert found.file_meta.TransferSyntaxUID == f"{ROOT}.4.102"
    assert (found.Rows, found.Columns, found.NumberOfFrames, found.FrameTime) == (480, 640, 50, 40)
    assert (found.PhotometricInterpretation, found.FrameIncrementPointer) == ("YBR_PARTIAL_420", 0x00181063)
    assert b"".join(generate_fragments(found.PixelData)).rstrip(b"\0") == film.rstrip(b"\0")


def test_a_video_that_cannot_be_read_fails_alone(hosting: Hosting) -> None:
    models = [model_of(modality="ES") for _ in range(3)]
    for number, model in enumerate(models):
        model["7FE00010"] = {"vr": "OB", "BulkDataURI": f"film/{number}"}
    bulk = [
        ("video/mp4", "film/0", b"no film"),
        ("video/mpeg", "film/1", b"\0\0\1\xba"),
        ("video/mp4", "film/2", mp4_of(AVC)),
    ]
    answer = store(hosting, models, *bulk)
    assert answer.status == 202, answer.body
    assert answer.stored == [uid_of(models[2])]
    assert set(answer.failures) == {uid_of(model) for model in models[:2]}
