"""/api/peers: the peers without secrets, whether they answer, when they were seen, and the managed ones among them.

    origin      file: a [[peer]] of the configuration file; page: one that was added here (`config.managed_peers`)
    seen        what any worker has seen of that title since it started (`runtime.sightings`)
    strangers   titles without a [[peer]] that opened, or tried to open, an association

PUT adds a peer, or replaces one that was added here; DELETE removes it. The user's configuration file is never written.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.config import managed_peers
from engine.dicom import uids
from engine.errors import ConfigError, RequestError
from engine.titles import names, readable
from engine.web.api.bodies import PeerTable, ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.errors import HttpError, NotFound, Unavailable

if TYPE_CHECKING:
    from aiohttp import web

    from engine.config import Peer
    from engine.web.request import Request

_STATUS: Final = {
    "invalid": HTTPStatus.BAD_REQUEST,
    "conflict": HTTPStatus.CONFLICT,
    "absent": HTTPStatus.NOT_FOUND,
    "failed": HTTPStatus.INSUFFICIENT_STORAGE,
}
"""Kind of a refused change → status."""


_DESTINATION: Final = ("aet", "host", "port", "url", "protocol")


async def listed(request: Request) -> web.Response:
    """All peers."""
    check_parameters(request)
    sightings = await request.host_front.peer_sightings()
    managed = await request.engine.pools.reads.run(partial(_managed, request))
    peers, origins = request.config.peers, request.engine.origins
    in_file = [peer.aet for peer in peers if origins.get(f"peer.{peer.aet}") != managed_peers.ORIGIN]
    rows = [
        {
            **_facts(peer),
            "origin": "file" if peer.aet in in_file else managed_peers.ORIGIN,
            "seen": _seen(peer.aet, sightings),
        }
        for peer in peers
    ]
    strangers = [
        {"aet": title, "seen": seen}
        for title, seen in sightings.items()
        if not any(names((peer.aet,), title) or readable(title) == peer.aet for peer in peers)
    ]
    overridden = [peer.aet for peer in managed if names(in_file, peer.aet)]
    shown = {
        uid
        for seen in sightings.values()
        for fact in seen.values()
        for pair in fact.get("contexts", ())
        for uid in pair
    }
    return answer(
        {
            "peers": rows,
            "strangers": strangers,
            "overridden": overridden,
            "names": {uid: uids.name_of(uid) for uid in sorted(shown)},
        }
    )


async def destinations(request: Request) -> web.Response:
    """The peers to which one can send, for whom may not see more of them."""
    check_parameters(request)
    rows = [{name: facts[name] for name in _DESTINATION} for facts in map(_facts, request.config.peers)]
    return answer({"peers": [row for row in rows if row["protocol"] is not None]})


def _managed(request: Request) -> tuple[Peer, ...]:
    try:
        return managed_peers.read(request.config.data)
    except ConfigError:
        return ()  # a reload and `config check` report it


def _seen(title: str, sightings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was seen of a title, in any of its forms."""
    forms = [seen for form, seen in sightings.items() if names((title,), form) or readable(form) == title]
    return {kind: fact for seen in forms for kind, fact in seen.items()}


def _facts(peer: Peer) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(peer, enc_hook=str)
    facts = {name: value for name, value in plain.items() if name not in managed_peers.SECRET_KEYS}
    return {**facts, "protocol": "dicomweb" if peer.url else "dicom" if peer.has_address else None}


async def put(request: Request) -> web.Response:
    """Adds or replaces a managed peer."""
    check_parameters(request)
    body = await body_of(request, PeerTable)
    table: dict[str, Any] = msgspec.to_builtins(body)
    reason = table.pop("reason", "")
    facts = await _change(request, {key: value for key, value in table.items() if value is not None}, reason)
    peer = request.config.peer(request.path_values["title"])
    return answer(_facts(peer) if peer is not None else {}, 201 if facts["is_new"] else 200)


async def remove(request: Request) -> web.Response:
    """Removes a managed peer."""
    check_parameters(request)
    await _change(request, None, "")
    return answer({"removed": request.path_values["title"]})


async def _change(request: Request, table: dict[str, Any] | None, reason: str) -> dict[str, Any]:
    title = request.path_values["title"]
    if not title.isprintable():
        raise RequestError("an AE title has no control characters")
    facts = await request.host_front.change_peer(title, table, request.principal.actor, reason)
    if not facts:
        raise Unavailable("the supervisor does not answer")
    if not facts["ok"]:
        raise HttpError(_STATUS[facts["kind"]], facts["error"])
    return facts


async def echo(request: Request) -> web.Response:
    """Tests a peer: with C-ECHO, or with a search for one study at a DICOMweb server. Raises AssociationFailed: 502."""
    await body_of(request, ReasonBody)
    peer = peer_of(request, request.path_values["title"])
    outbound = request.host_front.outbound
    if outbound is None:
        raise Unavailable("this process has no connections to peers")
    try:
        return answer(await outbound.echo(peer))
    except ConfigError as error:  # of a secret or certificate, without the path of its file
        raise HttpError(HTTPStatus.BAD_GATEWAY, str(error)) from error


def peer_of(request: Request, title: str) -> Peer:
    """A peer that we can connect to. Raises NotFound."""
    peer = request.config.peer(title)
    if peer is None or not peer.is_reachable:
        raise NotFound("there is no [[peer]] with that title, or it has no address")
    return peer
