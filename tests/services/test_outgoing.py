"""services.outgoing: what is converted while it is sent arrives as if converted whole, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import Config
from engine.dicom import transfer_syntax
from engine.dicom.convert import convert
from engine.runtime.retrieval_budget import RetrievalBudget
from engine.services import outgoing
from engine.services.outgoing import Stream
from tests import peer
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_GET, Peer
from tests.services.serving import LIMITS, Serving, serve
from tests.services.test_storage_scu import STUDY, answers, fill

BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def get_in(scripted: Peer, syntax: str, **options: object) -> None:
    """Asks for all of them by C-GET, in one transfer syntax."""
    contexts = (1, CT, [syntax]), (3, STUDY_ROOT_GET, [IMPLICIT])
    scripted.associate(*contexts, user_items=peer.role(CT, scu=False, scp=True), **options)
    scripted.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 7, STUDY_ROOT_GET), peer.identifier(STUDY)))


@pytest.mark.parametrize("maximum_length", [16384, 1000])
@pytest.mark.parametrize("syntax", [IMPLICIT, BIG, DEFLATED])
def test_streamed_conversion_gives_the_same_bytes_as_whole_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, maximum_length: int
) -> None:
    monkeypatch.setattr(outgoing, "WHOLE_BYTES_MAX", 1000)
    monkeypatch.setattr(outgoing, "SHORT_BYTES", 3000)
    target = transfer_syntax.of(syntax)

    def script(serving: Serving) -> None:
        stored = fill(serving, [8, 4000, 300_000, 2 << 20])
        with serving.call() as scripted:
            get_in(scripted, syntax, maximum_length=maximum_length)
            came, final = answers(scripted)
            assert final.status() == 0
            for uid, data in stored.items():
                whole = convert(data, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN, target)
                if target.deflated:
                    assert convert(came[uid], target, transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN) == data
                else:
                    assert came[uid] == whole + bytes(len(whole) % 2)
            scripted.release()
        assert serving.services.retrieval_budget.held_bytes == 0

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS))


def test_a_conversion_without_memory_in_time_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for = RetrievalBudget.wait_for

    async def wait_briefly(budget: RetrievalBudget, count: int, limit_s: float) -> None:
        assert limit_s == LIMITS.dimse_timeout_s
        await wait_for(budget, count, 0.2)

    monkeypatch.setattr(RetrievalBudget, "wait_for", wait_briefly)

    def script(serving: Serving) -> None:
        fill(serving, [400_000, 8])
        budget = serving.services.retrieval_budget
        taken = budget.bytes_max - outgoing.BYTES_HELD // 2
        serving.services.engine.loop.call_soon_threadsafe(budget.take, taken)
        with serving.call() as scripted:
            get_in(scripted, IMPLICIT)
            came, final = answers(scripted)
            assert (len(came), final.status()) == (1, 0xB000)
            scripted.release()
        with serving.call() as scripted:
            get_in(scripted, EXPLICIT)
            assert answers(scripted)[1].status() == 0
            scripted.release()

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS))


@pytest.mark.parametrize("lengths", [[], [5], [1, 2, 3], [10, 0, 10, 1]])
def test_a_stream_fills_its_buffer_and_its_end_is_read_once(lengths: list[int]) -> None:
    data = bytes(range(sum(lengths)))
    places = [sum(lengths[:number]) for number in range(len(lengths))]
    asked: list[int] = []
    stream = Stream(iter([data[a : a + n] for a, n in zip(places, lengths, strict=True)]), lambda: asked.append(1))
    found = b""
    target = memoryview(bytearray(4))
    while count := stream.fill(target):
        found += target[:count]
    assert found == data
    assert stream.fill(target) == 0
    assert asked == [1]


MEASURE = """
import json, resource, sys
from engine.dicom.convert import Conversion
from engine.dicom.sources import Concatenation, Part, Whole
from engine.dicom.transfer_syntax import UNCOMPRESSED
from tests.oracle import data_sets

IMPLICIT, EXPLICIT, BIG, DEFLATED = UNCOMPRESSED
MIB = 1 << 20

class Zeros:
    def __init__(self, length):
        self.length = length
    def read(self, offset, count):
        return bytes(max(min(count, self.length - offset), 0))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

pixels = 300 * MIB
head = data_sets.encode(data_sets.ct_head(), 1) + data_sets.header(0x7FE00010, "OW", pixels, 1)
source = Concatenation(Whole(head), Zeros(pixels))
if sys.argv[1] == "DEFLATED":
    import zlib
    deflater = zlib.compressobj(1, wbits=-15)
    pieces = [deflater.compress(head)]
    block = bytes(range(256)) * 64
    import random
    rng = random.Random(1)
    for _ in range(pixels // MIB):
        pieces.append(deflater.compress(rng.randbytes(MIB // 16) + bytes(MIB - MIB // 16)))
    source = Whole(b"".join(pieces) + deflater.flush())
    conversion_of = lambda: Conversion(source, DEFLATED, IMPLICIT)
else:
    conversion_of = lambda: Conversion(source, EXPLICIT, {"IMPLICIT": IMPLICIT, "BIG": BIG}[sys.argv[1]])
before = peak()
length = sum(memoryview(piece).nbytes for piece in conversion_of().pieces())
print(json.dumps([length - pixels, (peak() - before) // MIB]))
"""


@pytest.mark.parametrize("target", ["IMPLICIT", "BIG", "DEFLATED"])
def test_a_large_object_is_converted_with_few_megabytes_of_memory(target: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, target], capture_output=True, text=True, env=environment, check=True
    )
    rest, grown_mib = json.loads(done.stdout)
    assert 0 < rest < 4096
    assert grown_mib <= 16
