"""/api/peers: the configured peers without secrets, and whether they answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import ConfigError
from engine.web.api.bodies import ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.errors import HttpError, NotFound, Unavailable

if TYPE_CHECKING:
    from aiohttp import web

    from engine.config import Peer
    from engine.web.request import Request

_HIDDEN = ("token_file", "password_file", "ca_file", "user")
"""Settings that are left out: where secrets are, and a user name."""


async def listed(request: Request) -> web.Response:
    """The peers of the configuration."""
    check_parameters(request)
    return answer({"peers": [_facts(peer) for peer in request.config.peers]})


def _facts(peer: Peer) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(peer, enc_hook=str)
    facts = {name: value for name, value in plain.items() if name not in _HIDDEN}
    return {**facts, "protocol": "dicomweb" if peer.url else "dicom" if peer.has_address else None}


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
