"""The audit log of a real server: killed while it sends, it has recorded that it would; commands are recorded too."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import samples, template
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
