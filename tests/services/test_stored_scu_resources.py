"""services.stored_scu: what a process without a server has for sending."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engine.archive.hospital import open_orders
from engine.config import Config, Peer
from engine.orders.registry import NoRules
from engine.orders.values import Identifier, PatientUpdate, Source
from engine.services.stored_scu import Resources
from tests.archive.filled import opened


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
