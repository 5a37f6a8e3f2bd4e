"""Every file of the corpus over HTTP: its bytes, each of its frames and its metadata, judged by pydicom and DCMTK.

That STOW-RS, C-STORE and imports store the same bytes, and that C-GET gives them too, is shown in
tests/system/test_corpus.py.
"""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from shutil import which
from typing import Any

import numpy as np
import pydicom
import pytest

from engine.archive.interchange.importer import import_paths
from engine.archive.retrieve import Instance
from engine.archive.transcoding.transcode import DECODABLE
from engine.dicom import part10
from engine.dicom.convert import convert
from engine.dicom.frames import is_video
from engine.dicom.transfer_syntax import of
from engine.errors import FramesUnreadable
from tests.archive import kept
from tests.corpus import STRIDE, corpus_files, corpus_part, needs_corpus
from tests.oracle.foreign import read_data_set
from tests.oracle.json_model import differences, foreign_model
from tests.oracle.pixels import frames_as_stored, frames_decoded
from tests.web.hosting import Hosting, hosted
from tests.web.wado import (
    AS_STORED,
    EXPLICIT,
    FRAMES_AS_STORED,
    Get,
    all_instances,
    data_set_in,
    own_url,
    requesting,
    syntax_in,
)

pytestmark = [pytest.mark.slow, needs_corpus()]

NEVER_SENT = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
JPEG_XL = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
LOSSY_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
CHROMA_DIFFERENCE_MAX = 60
"""Of lossy JPEG: libjpeg here and numpy there bring chroma to full resolution in ways of their own."""

OTHERWISE_READ = ("['', 'ISO 2022 IR 58']", "ISO_IR 203")
"""Character sets whose escapes pydicom does not read, or that it does not know."""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("corpus") / "data"
    with kept.opened(data, segment_bytes=64 << 20) as archive:
        import_paths(archive, list(corpus_part(corpus_files())))
    with hosted(data) as hosting:
        yield hosting


@pytest.fixture
def get(hosting: Hosting) -> Iterator[Get]:
    with requesting(hosting) as get:
        yield get


def file_of(hosting: Hosting, instance: Instance) -> bytes:
    """The instance as it is stored, with a file meta group that pydicom reads."""
    meta = part10.write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    return meta + bytes(hosting.engine.archive.read(instance))


def test_every_instance_is_sent_as_stored_unless_its_encoding_is_not_allowed(hosting: Hosting, get: Get) -> None:
    for instance in all_instances(hosting):
        payload = hosting.engine.archive.read(instance)
        ((part, file),) = get(own_url(instance), Accept=AS_STORED).parts
        syntax = of(instance.transfer_syntax_uid)
        if syntax.uid in NEVER_SENT:
            assert syntax_in(part) == EXPLICIT
            assert data_set_in(file) == convert(payload, syntax, of(EXPLICIT))
        else:
            assert syntax_in(part) == syntax.uid
            sent = data_set_in(file)
            if len(payload) % 2 and syntax.convertible and not syntax.deflated:
                assert len(sent) == len(payload) + 1  # the last element is padded, and its length says so
            else:
                assert sent[: len(payload)] == payload
            assert len(file) % 2 == 0 or not syntax.convertible
        assert file[128:132] == b"DICM"


def test_every_frame_is_sent_as_pydicom_reads_it(hosting: Hosting, get: Get) -> None:
    outcomes: Counter[str] = Counter()
    syntaxes: Counter[str] = Counter()
    for instance in all_instances(hosting):
        try:
            count = hosting.engine.archive.retrieval.open(instance).frames().count
        except FramesUnreadable as error:
            answer = get(f"{own_url(instance)}/frames/1", Accept=FRAMES_AS_STORED)
            assert answer.status == 406
            assert str(error) in json.loads(answer.body)["detail"]
            outcomes["refused"] += 1
            continue
        assert get(f"{own_url(instance)}/frames/{count + 1}", Accept=FRAMES_AS_STORED).status == 404
        if not count:
            outcomes["cut before the first frame ends"] += 1
            continue
        numbers = "%2C".join(map(str, range(1, count + 1)))
        parts = get(f"{own_url(instance)}/frames/{numbers}", Accept=FRAMES_AS_STORED).parts
        syntax = of(instance.transfer_syntax_uid)
        assert {syntax_in(part) for part, _ in parts} == {EXPLICIT if syntax.convertible else syntax.uid}
        assert [part.content_location.rpartition("/")[2] for part, _ in parts] == numbers.split("%2C")
        alone = get(f"{own_url(instance)}/frames/1", Accept="application/octet-stream; transfer-syntax=*")
        assert alone.body == parts[0][1]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = frames_as_stored(pydicom.dcmread(io.BytesIO(file_of(hosting, instance)), force=True))
        except (ValueError, AttributeError) as error:
            # pydicom does not know the transfer syntax.
            assert "not a transfer syntax" in str(error) or "has no attribute" in str(error), f"{instance}: {error!r}"
            outcomes["unknown to pydicom"] += 1
            continue
        assert [frame for _, frame in parts] == expected, own_url(instance)
        outcomes["the same"] += 1
        syntaxes[syntax.uid] += count
    assert outcomes["the same"] > 300 // STRIDE and outcomes["unknown to pydicom"] < 20, outcomes
    if STRIDE == 1:
        assert outcomes["refused"] > 40 and len(syntaxes) >= 17 and syntaxes.total() > 1900, (outcomes, syntaxes)


def test_every_compressed_frame_is_decoded_as_pydicom_decodes_it(hosting: Hosting, get: Get) -> None:
    outcomes: Counter[str] = Counter()
    syntaxes: Counter[str] = Counter()
    for instance in all_instances(hosting):
        if instance.transfer_syntax_uid not in DECODABLE or is_video(instance.transfer_syntax_uid):
            continue
        try:
            count = hosting.engine.archive.retrieval.open(instance).frames().count
        except FramesUnreadable:
            continue
        if not count:
            continue
        parts = get(f"{own_url(instance)}/frames/{','.join(map(str, range(1, count + 1)))}").parts
        expected = frames_decoded(file_of(hosting, instance))
        if {syntax_in(part) for part, _ in parts} != {EXPLICIT}:
            assert expected is None, f"{own_url(instance)} can be decoded"
            outcomes["damaged"] += 1
            continue
        ((part, file),) = get(own_url(instance)).parts
        assert syntax_in(part) == EXPLICIT
        native = pydicom.dcmread(io.BytesIO(file))
        if native.BitsAllocated > 1:
            joined = b"".join(frame for _, frame in parts)
            assert native.PixelData == joined + bytes(len(joined) % 2), "frames and instances have the same samples"
        if expected is None:
            # pydicom has no decoder of JPEG XL.
            outcomes["JPEG XL" if instance.transfer_syntax_uid in JPEG_XL else "no judge"] += 1
            continue
        decoded = frames_decoded(file)
        assert decoded is not None
        difference_max = CHROMA_DIFFERENCE_MAX if instance.transfer_syntax_uid in LOSSY_JPEG else 0
        for frame, samples in zip(decoded, expected, strict=True):
            difference = np.abs(frame.astype(np.int64) - samples.astype(np.int64)).max()
            assert difference <= difference_max, own_url(instance)
        outcomes["the same"] += 1
        syntaxes[instance.transfer_syntax_uid] += count
    assert outcomes["the same"] >= (60 if which("dcmdjpeg") else 45) // STRIDE // 2, outcomes
    assert outcomes["damaged"] <= 1, outcomes
    if which("dcmdjpeg"):
        assert outcomes["no judge"] <= 1, outcomes  # RLE of one bit
        assert STRIDE > 1 or (len(syntaxes) >= 14 and syntaxes.total() > 200), syntaxes


def test_metadata_of_every_instance_agrees_with_pydicom(hosting: Hosting, get: Get) -> None:
    outcomes: Counter[str] = Counter()
    for instance in all_instances(hosting):
        answer = get(f"{own_url(instance)}/metadata")
        assert answer.status == 200, answer.body
        (ours,) = json.loads(answer.body)
        dataset = read_data_set(bytes(hosting.engine.archive.read(instance)), of(instance.transfer_syntax_uid))
        if str(dataset.get("SpecificCharacterSet")) in OTHERWISE_READ:
            outcomes["otherwise read"] += 1
            continue
        assert differences(ours, foreign_model(dataset)) == [], own_url(instance)
        outcomes["the same"] += 1
    assert outcomes["the same"] > 400 // STRIDE, outcomes
    assert outcomes["otherwise read"] < 5, outcomes


def test_bulk_data_uris_of_the_metadata_lead_to_the_values(hosting: Hosting, get: Get) -> None:
    followed = 0

    def uris(row: dict[str, Any]) -> Iterator[str]:
        for element in row.values():
            if "BulkDataURI" in element:
                yield element["BulkDataURI"]
            for value in element.get("Value", ()):
                if element["vr"] == "SQ":
                    yield from uris(value)

    for instance in all_instances(hosting):
        answer = get(f"{own_url(instance)}/metadata")
        if answer.status != 200:
            continue
        for uri in uris(json.loads(answer.body)[0]):
            if "/7FE000" in uri:
                continue
            value = get(uri.partition("/dicom-web")[2], Accept="application/octet-stream")
            assert (value.status, len(value.body) > 0) == (200, True), uri
            followed += 1
    assert followed > 20 // STRIDE // 2
