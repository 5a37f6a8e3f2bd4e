"""kill -9 during STOW-RS: what was acknowledged is there afterwards, by C-FIND and C-GET, and nothing is half there."""

from __future__ import annotations

import http.client
import random
import threading
from pathlib import Path

import orjson

from engine.dicom.part10 import write_file_meta
from tests.peer import CT, EXPLICIT
from tests.system import ingest
from tests.system.ingest import GeneratedInstance, Ledger
from tests.system.server import Server, wait_for

SEED = 20261129
SENDERS = 4
PARTS_MAX = 12


class Sender(threading.Thread):
    """Stores instances of one study, some in a request, until the server is gone."""

    def __init__(self, url: str, ledger: Ledger, study: int, first: int) -> None:
        super().__init__(daemon=True)
        self._address = url.removeprefix("http://")
        self._ledger = ledger
        self._study = study
        self._next = first
        self._rng = random.Random(SEED + first)

    def run(self) -> None:
        """Ends with the connection."""
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            while True:
                self._store(connection)
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            return
        finally:
            connection.close()

    def _store(self, connection: http.client.HTTPConnection) -> None:
        count = self._rng.randint(1, PARTS_MAX)
        made = [GeneratedInstance(self._study, self._next + number) for number in range(count)]
        self._next += count
        for each in made:
            self._ledger.note_sent(each)
        parts = [
            b"--b\r\nContent-Type: application/dicom\r\n\r\n"
            + write_file_meta(CT, each.uid, EXPLICIT)
            + each.data_set()
            + b"\r\n"
            for each in made
        ]
        headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
        connection.request("POST", "/dicom-web/studies", b"".join(parts) + b"--b--", headers)
        response = connection.getresponse()
        answer = orjson.loads(response.read())
        assert response.status == 200, answer
        stored = {item["00081155"]["Value"][0] for item in answer["00081199"]["Value"]}
        assert stored == {each.uid for each in made}
        for each in made:
            self._ledger.note_answer(each, 0)


def test_every_acknowledged_instance_survives_a_kill_of_everything(tmp_path: Path) -> None:
    ledger = Ledger()
    # Some of what is sent is longer than that, and streamed.
    config = "[limits]\nstream_threshold_bytes = 131072\n"
    server = Server(tmp_path / "data", config=config, http=True)
    try:
        study = ingest.study_number(1)
        senders = [Sender(server.url, ledger, study, 100_000 * place) for place in range(SENDERS)]
        for sender in senders:
            sender.start()
        enough = random.Random(SEED).randint(60, 200)
        wait_for(lambda: len(ledger.acknowledged) >= enough, 60, "enough")
    finally:
        server.kill_all()
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    server = Server(tmp_path / "data", config=config)
    try:
        ledger.verify(server.port)
    finally:
        server.kill_all()
