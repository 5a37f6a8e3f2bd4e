"""durable = "peer": the machine is lost by kill -9, the replica is promoted, and has all that was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive.copies.replica import promote
from tests import peer
from tests.peer import CT, EXPLICIT, Peer
from tests.system import ingest
from tests.system.server import Server, running, wait_for
from tests.system.test_backup import (
    _certificates,
    _listening,
    acknowledged,
    end,
    filmroom,
    senders_of,
    started,
    wait_for_more,
)

pytestmark = pytest.mark.slow

PASSES_S = 10
"""Between two passes of the replication: without a wait nothing of the test is shipped."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    yield _certificates(tmp_path_factory.mktemp("certificates") / "tls")


def state_of(server: Server) -> set[str]:
    return {str(worker["second_copies"]["peer"]["state"]) for worker in server.stats()["workers"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("durable", ["peer", "local"])
def test_a_lost_machine_takes_nothing_along_that_was_acknowledged(
    tmp_path: Path, certificates: tuple[Path, Path], durable: str
) -> None:
    """With `local` as the control, which must lose."""
    source, receiver = certificates
    data, target = tmp_path / "data", tmp_path / "replica"
    ledger = ingest.Ledger()
    listener, port = _listening(target, receiver, 0)
    where = f"tls://127.0.0.1:{port}"
    config = f'durable = "{durable}"\nsecond_copy.replica = "{where}"\nsecond_copy.wait_s = 2.0\n'
    with running(data, config=config) as server:
        replication = started("replicate", where, "--config", source, "--data", data, "--interval", PASSES_S, "--json")
        assert replication.stdout is not None
        while '"caught up"' not in replication.stdout.readline():
            pass
        if durable == "peer":
            wait_for(lambda: state_of(server) == {"ready"}, what="receipts")
        senders = senders_of(server.port, ledger)
        wait_for_more(ledger, 40)
        server.kill_all()
        replication.kill()
        replication.communicate()
        for sender in senders:
            sender.join()
    end(listener)
    before = acknowledged(ledger)
    filmroom("promote", "--data", target)
    with running(target, workers=1) as server:
        if durable == "local":
            found = ingest.find_instances(server.port, ingest.study_number(0))
            assert before.acknowledged.keys() - found, "the control has lost nothing"
            return
        before.verify(server.port)
    no_zombie_goes_on(data, target, config, where, certificates)


def no_zombie_goes_on(data: Path, target: Path, config: str, where: str, certificates: tuple[Path, Path]) -> None:
    """The lost machine comes back: its replica, which was promoted, takes nothing, and it acknowledges nothing."""
    source, receiver = certificates
    listener, _ = _listening(target, receiver, int(where.rpartition(":")[2]))
    with running(data, config=config, workers=1) as server:
        replication = started("replicate", where, "--config", source, "--data", data)
        assert "was promoted, and continues this archive" in replication.communicate(timeout=60)[1]
        assert replication.returncode == 4
        made = ingest.GeneratedInstance(ingest.study_number(7), 1)
        with Peer(server.port) as script:
            script.associate((1, CT, [EXPLICIT]))
            for message_id in (1, 3):
                rq = peer.c_store_rq(message_id, CT, made.uid)
                script.send(peer.message(1, rq, made.data_set()))
                assert script.expect_message().status() == 0xA700
            script.release()
        counters = server.stats()["workers"][0]["counters"]  # type: ignore[index]
        assert "second_copy_peer_acknowledged" not in counters
    end(listener)
    with pytest.raises(Exception, match="is no replica"):
        promote(target)
