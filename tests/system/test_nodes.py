"""Two servers are one archive: both store, find and send; one is killed, and nothing that it acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.nodes.joining import join
from tests.archive.filled import opened
from tests.archive.nodes.rig import begin, settings_of
from tests.cluster.postgres import Postgres
from tests.cluster.postgres import database as database
from tests.cluster.postgres import server as server
from tests.objects.s3 import S3
from tests.objects.s3 import s3 as s3
from tests.objects.s3 import s3_server as s3_server
from tests.system import ingest
from tests.system.server import running
from tests.system.test_backup import acknowledged, senders_of, stop, wait_for_more

pytestmark = pytest.mark.slow
pytest.importorskip("obstore", reason="obstore is not installed")


def config_of(words: str, name: str, s3: S3, folder: Path) -> str:
    """The configuration of a node, and its data folder made a node."""
    store = s3.settings(folder)
    settings = settings_of(words, name)
    join(folder / name, settings, store)
    return f"""
durable = "object"
second_copy.wait_s = 20.0
[cluster]
database = "{settings.database}"
node = "{name}"
address = "{settings.address}"
wait_s = 20.0
timeout_s = 60.0
[object_store]
url = "{store.url}"
endpoint = "{store.endpoint}"
credentials_file = "{store.credentials_file}"
tail_interval_s = 0.2
"""


def test_what_one_node_acknowledged_is_found_and_read_at_the_other_when_it_is_killed(
    s3: S3, server: Postgres, database: str, tmp_path: Path
) -> None:
    words = server.words(database)
    with opened(tmp_path / "a") as archive:
        begin(words, archive.parts.layout.archive_id)
    configs = {name: config_of(words, name, s3, tmp_path) for name in "ab"}
    ledger = ingest.Ledger()
    with running(tmp_path / "a", config=configs["a"]) as first, running(tmp_path / "b", config=configs["b"]) as second:
        at_first, at_second = senders_of(first.port, ledger), senders_of(second.port, ledger, study=1)
        wait_for_more(ledger, 60)
        first.kill_all()
        for sender in at_first:
            sender.join()
        wait_for_more(ledger, 20)
        stop(at_second)
        acknowledged(ledger).verify(second.port)
    with running(tmp_path / "a", config=configs["a"]) as first:
        acknowledged(ledger).verify(first.port)
