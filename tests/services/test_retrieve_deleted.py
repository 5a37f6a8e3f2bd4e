"""C-GET while what it names is deleted and compacted, without pins: what moved is found, what is gone is named.

More segments than can be pinned come to this; with pins all of it is sent (tests/system/test_deletion.py).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.services import steady
from tests import peer
from tests.actors import actor
from tests.archive.filled import instance_query, opened, payload_of, store, uid
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_GET
from tests.services.serving import Serving, serve

COUNT = 12
GONE = (7, 8, 12)
"""Numbers of the instances that are deleted after the first ones have arrived."""


def payloads(size: int) -> dict[str, bytes]:
    rng = random.Random(size)
    return {uid(1, 1, number): payload_of(1, 1, number, pixels=rng.randbytes(size)) for number in range(1, COUNT + 1)}


def compact(serving: Serving) -> int:
    compactor = Compactor(serving.archive, Compaction(bytes_per_s=0), segment_bytes=1 << 20, everything=True)
    return compactor.run().segments_removed


@pytest.mark.parametrize("pixels", [20_000, 400_000], ids=["as frames", "with large frames"])
def test_every_instance_arrives_or_is_named_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    monkeypatch.setattr(steady, "SEGMENTS_MAX", 1)  # what a batch keeps open is sent, too
    stored = payloads(pixels)
    with opened(tmp_path) as archive:
        for each in stored.values():
            store(archive, each, payload_of(2, 1, len(each)), segment_bytes=4 * pixels)
    with opened(tmp_path) as archive:
        store(archive, payload_of(3, 1, 1))  # the newest segment is never removed
        archive.delete(instance_query(2, 1, pixels), actor=actor(""), reason="")

    def script(serving: Serving) -> None:
        serving.archive.parts.reader._pinned_segments_max = 0
        with serving.call() as scripted:
            scripted.associate(
                (1, CT, [EXPLICIT]),
                (3, STUDY_ROOT_GET, [IMPLICIT]),
                user_items=peer.role(CT, scu=False, scp=True),
            )
            asked = peer.identifier({0x00080052: "STUDY", 0x0020000D: uid(1)})
            scripted.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 7, STUDY_ROOT_GET), asked))
            came: dict[str, bytes] = {}
            while True:
                message = scripted.expect_message()
                if peer.number(message.command, peer.COMMAND_FIELD) != peer.C_STORE_RQ:
                    if message.status() == 0xFF00:
                        continue
                    break
                came[peer.text(message.command, peer.SOP_INSTANCE)] = message.data_set or b""
                if len(came) == 2:
                    for number in GONE:
                        serving.archive.delete(instance_query(1, 1, number), actor=actor(""), reason="")
                    assert compact(serving) >= 2
                scripted.send(peer.message(message.context_id, peer.c_store_rsp(message.command)))
            scripted.release()
        gone = {uid(1, 1, number) for number in GONE}
        assert came == {name: data for name, data in stored.items() if name not in gone}
        counts = [peer.number(message.command, what) for what in (peer.COMPLETED, peer.FAILED, peer.WARNING)]
        assert counts == [COUNT - len(GONE), len(GONE), 0]
        assert message.status() == 0xB000
        assert message.data_set is not None
        assert all(name.encode() in message.data_set for name in gone)

    serve(tmp_path, script)
