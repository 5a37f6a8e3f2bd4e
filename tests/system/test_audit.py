"""The audit log of a real server: killed while it sends, it has recorded that it would; commands are recorded too."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import peer, samples, template
from tests.audit.recording import events
from tests.peer import Peer
from tests.services.test_storage_scu import get
from tests.system.server import ROOT, Server, running


def filmroom(*words: str) -> subprocess.CompletedProcess[str]:
    return template.run("engine", *words, folder=ROOT)


def test_a_server_that_is_killed_in_a_retrieval_has_recorded_its_beginning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    files = samples.write(tmp_path / "files", *(samples.instance(1, 1, number) for number in range(1, 4)))
    assert filmroom("import", "--data", str(data), *map(str, files)).returncode == 0
    server = Server(data)
    try:
        with Peer(server.port) as asker:
            get(asker)
            asker.expect_command()  # the first C-STORE-RQ
            server.kill_all()
    finally:
        server.kill_all()
    kinds = [event["kind"] for event in events(data)]
    assert "imported" in kinds and "sending" in kinds and "sent" not in kinds
    with running(data):
        pass  # the chains go on
    done = filmroom("audit", "verify", "--data", str(data), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert filmroom("find", "--data", str(data), "PatientID=P1").returncode == 0
    exported = filmroom("export", "--data", str(data), str(tmp_path / "out"), "--study", f"{samples.ROOT}.1")
    assert exported.returncode == 0, exported.stderr
    found = events(data)
    assert any(event["kind"] == "query" and "PatientID=P1" in event["query"] for event in found)
    assert any(event["kind"] == "exported" and event.get("count") == 3 for event in found)
    assert [event["kind"] for event in found].count("stop") == 1
    chains = (data / "audit" / "chains").glob("*/*.events")
    chain = next(path for path in chains if b"imported" in path.read_bytes())
    chain.write_bytes(chain.read_bytes().replace(b"imported", b"exported", 1))
    assert filmroom("audit", "verify", "--data", str(data)).returncode == 6


def test_what_an_association_stored_that_a_stop_aborts_is_recorded(tmp_path: Path) -> None:
    """It ends only after the abort, when the server is nearly gone; the peer does not even close its connection."""
    data, made = tmp_path / "data", samples.instance(1)
    config = "[limits]\ndrain_timeout_s = 0.1\ndrain_idle_s = 600\n"
    with running(data, config=config, workers=1) as server, Peer(server.port) as sender:
        sender.associate((1, samples.CT, ["1.2.840.10008.1.2.1"]))
        sender.send(peer.message(1, peer.c_store_rq(1, samples.CT, made.SOPInstanceUID), samples.encoded(made)))
        assert sender.expect_message().status() == 0
        assert server.stop() == 0
        assert not server.events("a task ended unexpectedly")
    received = [event for event in events(data) if event["kind"] == "received"]
    assert [event.get("count") for event in received] == [1]
