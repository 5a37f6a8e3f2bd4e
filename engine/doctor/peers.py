"""Checks the configured peers: verifies each by C-ECHO, all at once.

Distinguishes faults with different remedies: no address, no connection, a rejection with its reason, no answer in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import uvloop

from engine.config import Config, Peer
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import AssociationFailed
from engine.net import client


def examine(config: Config) -> Iterator[Finding]:
    """One finding for each peer; one finding when there are none."""
    if not config.peers:
        may = "may store, query and retrieve"
        who = {True: f"everybody {may}", False: "nobody may do anything", "loopback": f"only this machine {may}"}
        what = f"none is configured: {who[config.accept_unknown_peers]}"
        yield warning("peers", what, "configure your peers in [[peer]] tables")
        return
    if config.accept_unknown_peers is True:
        advice = 'set accept_unknown_peers = "loopback" or false once all are configured'
        yield warning("peers", f"{len(config.peers)} are configured, and unknown ones are accepted too", advice)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield from runner.run(_examine_all(config))


async def _examine_all(config: Config) -> list[Finding]:
    return list(await asyncio.gather(*(_examine_one(config, peer) for peer in config.peers)))


async def _examine_one(config: Config, peer: Peer) -> Finding:
    subject = f"peer {peer.aet}"
    if not peer.has_address:
        if "destination" in peer.may and (peer.host or peer.port):
            return fault(subject, "host or port is missing", "a destination needs both")
        return good(subject, "has no address: it is never called")
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await client.echo(peer, config)
    except AssociationFailed as error:
        return fault(subject, str(error), "check host, port and AE titles on both sides, and the firewall between them")
    return good(subject, "answers C-ECHO", echo_ms=(loop.time() - began) * 1e3)
