"""durable = "object": an answer waits until the bucket has the record; who was taken over from gives no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.archive.tiering import bucket_restore
from engine.archive.tiering.shipping import Shipping
from engine.errors import StorageError
from engine.index.format.types import Outcome
from tests.archive.filled import contents, opened, uid
from tests.archive.test_ahead import may_sync as may_sync
from tests.archive.test_second_copy import AT_PEER, HERE, Server, replace_settings, served
from tests.archive.tiering.stored import tail_of
from tests.archive.tiering.test_shipping import _quick as _quick
from tests.archive.tiering.test_shipping import s3 as s3
from tests.archive.tiering.test_shipping import shipping_of
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")

AT_STORE = replace(AT_PEER, durable_at="object")
SELDOM_S = 3600.0
"""The interval of the tail: what is in the bucket was waited for."""


async def ready(server: Server) -> None:
    await server.until(lambda: server.copies.at("object").snapshot()["state"] == "ready")


def restored(s3: S3, folder: Path) -> set[str]:
    """What another machine finds in the bucket now."""
    bucket_restore.restore(s3.settings(folder), folder / "new")
    with opened(folder / "new") as archive:
        return set(contents(archive))


def with_shipping(
    s3: S3, tmp_path: Path, script: Callable[[Server, Shipping], object], **settings: object
) -> dict[str, int]:
    async def run(server: Server) -> None:
        with shipping_of(server.archive, s3.settings(tmp_path, tail_interval_s=SELDOM_S)) as shipping:
            await ready(server)
            await script(server, shipping)  # type: ignore[misc]

    return served(tmp_path / "data", tmp_path, run, **settings)


def test_what_was_acknowledged_is_in_the_bucket_and_what_did_not_wait_is_lost(s3: S3, tmp_path: Path) -> None:
    async def script(server: Server, shipping: Shipping) -> None:
        for number in range(1, 6):
            assert (await server.store(number, AT_STORE)).outcome is Outcome.STORED
        assert (await server.store(9, HERE)).outcome is Outcome.STORED
        assert restored(s3, tmp_path) == {uid(1, 1, number) for number in range(1, 6)}

    assert with_shipping(s3, tmp_path, script) == {"second_copy_object_acknowledged": 5}


def test_a_record_goes_to_the_bucket_while_the_disk_here_is_at_work(
    s3: S3, tmp_path: Path, may_sync: threading.Event
) -> None:
    async def script(server: Server, shipping: Shipping) -> None:
        assert (await server.store(1, AT_STORE)).outcome is Outcome.STORED
        tail = shipping._tail
        assert tail is not None
        before = tail.shipped_bytes
        may_sync.clear()
        waiting = asyncio.get_running_loop().create_task(server.store(2, AT_STORE))
        await server.until(lambda: tail.shipped_bytes > before)
        assert not waiting.done()
        may_sync.set()
        assert (await waiting).outcome is Outcome.STORED
        assert restored(s3, tmp_path) == {uid(1, 1, 1), uid(1, 1, 2)}

    assert with_shipping(s3, tmp_path, script) == {"second_copy_object_acknowledged": 2}


def test_an_answer_that_the_store_lost_costs_no_instance(s3: S3, tmp_path: Path) -> None:
    async def script(server: Server, shipping: Shipping) -> None:
        s3.fault(Fault.ANSWER_LOST, "PUT", "/w/", times=10)
        assert (await server.store(1, AT_STORE)).outcome is Outcome.STORED
        assert restored(s3, tmp_path) == {uid(1, 1, 1)}

    with_shipping(s3, tmp_path, script)


def test_while_the_store_is_away_instances_are_refused_and_come_through_later(s3: S3, tmp_path: Path) -> None:
    async def script(server: Server, shipping: Shipping) -> None:
        s3.go_away()
        server.settings = replace_settings(server.settings, wait_s=0.5)
        answer = await server.store(1, AT_STORE)
        assert isinstance(answer.outcome, StorageError) and "the object store" in str(answer.outcome)
        server.settings = replace_settings(server.settings, wait_s=60.0)
        s3.go_away(False)
        await ready(server)
        assert (await server.store(1, AT_STORE)).outcome is Outcome.DUPLICATE
        assert restored(s3, tmp_path) == {uid(1, 1, 1)}

    with_shipping(s3, tmp_path, script)


@pytest.mark.parametrize("when_away", ["refuse", "local"])
def test_once_another_machine_took_over_a_zombie_acknowledges_nothing(s3: S3, tmp_path: Path, when_away: str) -> None:
    async def script(server: Server, shipping: Shipping) -> None:
        assert (await server.store(1, AT_STORE)).outcome is Outcome.STORED
        assert restored(s3, tmp_path) == {uid(1, 1, 1)}
        tail = tail_of(tmp_path / "new", s3.settings(tmp_path))
        tail.open()
        answer = await server.store(2, AT_STORE)
        assert isinstance(answer.outcome, StorageError)
        assert shipping.stats()["state"] == "fenced"
        await server.until(lambda: server.copies.at("object").snapshot()["state"] == "fenced")
        again = await server.store(3, AT_STORE)
        assert "another machine continues" in str(again.outcome)
        other = tmp_path / "other"
        other.mkdir()
        assert restored(s3, other) == {uid(1, 1, 1)}

    counters = with_shipping(s3, tmp_path, script, when_away=when_away, wait_s=300.0)
    assert "second_copy_object_alone" not in counters
