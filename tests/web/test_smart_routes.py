"""What a token that SMART scopes narrow opens: images and resources of FHIR. Every other route is closed to it."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator

import pytest

from engine.access import ARCHIVE, Action, Records
from engine.access.smart import IMAGES, READ, SEARCH
from engine.config import Role
from engine.identity.settings import Oidc
from engine.web.route import Route
from engine.web.routes import ROUTES
from tests.identity.small_provider import AUDIENCE, CLIENT, SmallProvider, small_provider
from tests.web.hosting import Hosting
from tests.web.serving import serving

IMAGE_PATHS = re.compile(
    r"/dicom-web/(studies|series|instances)(/.*)?|/wado|/api/studies(/totals|\.csv)?|/api/download"
    r"|/api/instances/\{instance\}/tags"
)
"""What gives images and what is written in them, beside /fhir."""
CLOSED = [route for route in ROUTES if route.action is not None or route.needs_login]
EVERYTHING = "user/*.cruds system/*.cruds"


@pytest.fixture(scope="module")
def small() -> Iterator[SmallProvider]:
    with small_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def hosting(small: SmallProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    role = Role(name="everything", may=tuple(action.title for action in Action), studies="all")
    provider = Oidc(
        name="hospital", issuer=small.issuer, client_id=CLIENT, audiences=(AUDIENCE,), default_roles=("everything",)
    )
    with serving(tmp_path_factory.mktemp("smart") / "data", oidc=(provider,), roles=(role,)) as hosting:
        yield hosting


def refused(hosting: Hosting, small: SmallProvider, scope: str) -> set[str]:
    """The routes that answer such a token with 403."""
    token = small.token({"scope": scope, "sub": "u-i", "preferred_username": "ida"})
    found = set()
    for route in CLOSED:
        connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)
        # No value is valid, so that what is open is answered with another status and changes nothing.
        path = re.sub(r"\{\w+\}", "~", route.path)
        connection.request(route.method, path, headers={"Authorization": f"Bearer {token}", "Accept": "*/*"})
        if connection.getresponse().status == 403:
            found.add(route.name)
        connection.close()
    return found


def is_open(route: Route) -> bool:
    """Whether the widest of all scopes are for a route."""
    if route.path.startswith("/fhir"):
        return route.action is not None
    return route.action in (Action.QUERY, Action.RETRIEVE) and IMAGE_PATHS.fullmatch(route.path) is not None


def test_scopes_open_images_and_resources_and_no_other_route(hosting: Hosting, small: SmallProvider) -> None:
    assert refused(hosting, small, EVERYTHING) == {route.name for route in CLOSED if not is_open(route)}


def test_a_scope_opens_only_its_kind_of_resource(hosting: Hosting, small: SmallProvider) -> None:
    orders = {route.name for route in CLOSED if route.path.startswith("/fhir/ServiceRequest")}
    everything = {route.name for route in CLOSED}
    assert refused(hosting, small, "user/ServiceRequest.rs") == everything - orders
    searches = {
        route.name
        for route in CLOSED
        if route.target == Records(IMAGES, SEARCH) or (route.target is ARCHIVE and route.action is Action.QUERY)
    }
    reads = {
        route.name
        for route in CLOSED
        if route.target == Records(IMAGES, READ) or (route.target is ARCHIVE and route.action is Action.RETRIEVE)
    }
    assert refused(hosting, small, "user/ImagingStudy.s") == everything - searches
    assert refused(hosting, small, "user/ImagingStudy.r") == everything - reads


def test_a_token_without_scopes_opens_what_its_user_may(hosting: Hosting, small: SmallProvider) -> None:
    """The control. What only a session of a browser opens, no token does."""
    of_sessions = {route.name for route in CLOSED if route.path.startswith(("/api/account", "/api/keys"))}
    assert refused(hosting, small, "openid profile") <= of_sessions | {"POST /api/break-glass"}
