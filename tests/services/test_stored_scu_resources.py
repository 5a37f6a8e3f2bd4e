"""services.stored_scu: what a process without a server has for sending."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engine.archive.hospital import open_orders
from engine.archive.supplies import Supplies
from engine.config import Config, Peer
from engine.errors import OrdersError
from engine.index.format.types import Instance
from engine.orders.registry import NoRules
from engine.orders.values import Identifier, PatientUpdate, Source
from engine.services.destination import Destination
from engine.services.storage_scu import Originator
from engine.services.stored_scu import Resources
from tests.archive.filled import opened, payload_of, store, uid


def test_several_associations_at_once_share_one_registry(tmp_path: Path) -> None:
    """LMDB opens a file once a process."""
    with opened(tmp_path / "data") as archive:
        with open_orders(archive, NoRules()) as orders:
            orders.apply(PatientUpdate(identifiers=(Identifier("P1"),)), Source(name="RIS"))
        peers = (Peer(aet="CHOSEN", host="127.0.0.1", port=104, supply=True),)
        resources = Resources(archive, Config(data=tmp_path / "data", peers=peers))

        async def supplies() -> None:
            found = await asyncio.gather(*(resources.supplies("CHOSEN") for _ in range(4)))
            assert len({id(each._orders) for each in found if each is not None}) == 1

        try:
            asyncio.run(supplies())
        finally:
            resources.close()


class Crashed:
    """Notes what crashed (`destination.Results`)."""

    cancelled, unreachable, sent_count = False, "", 0

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def fail_all(self, instances: list[Instance], why: str) -> None:
        raise AssertionError(why)

    def crashed(self, instances: list[Instance], error: Exception) -> None:
        self.errors += [error] * len(instances)


def test_a_registry_that_cannot_be_opened_fails_the_instances_before_the_peer_is_called(tmp_path: Path) -> None:
    class Broken(Resources):
        async def supplies(self, ae_title: str) -> Supplies | None:
            raise OrdersError(f"no orders for {ae_title}")

    with opened(tmp_path / "data") as archive:
        store(archive, payload_of(1, 1, 1))
        instance = archive.instance(uid(1, 1, 1))
        assert instance is not None
        peer = Peer(aet="CHOSEN", host="127.0.0.1", port=9, supply=True)
        resources, results = Broken(archive, Config(data=tmp_path / "data", peers=(peer,))), Crashed()
        try:
            destination = Destination(resources, peer, results, Originator())  # type: ignore[arg-type]
            asyncio.run(destination.send([instance]))
        finally:
            resources.close()
    assert [type(error) for error in results.errors] == [OrdersError]
