"""A provider of identities for tests: discovery, keys, authorization, token, userinfo, log-out, on 127.0.0.1.

It says yes to every log-in. A test changes `claims`, `keys` and the like, and looks at `requests`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

CLIENT = "filmroom"
AUDIENCE = "filmroom-api"
KEYCLOAK: dict[str, Any] = {
    "preferred_username": "alice",
    "name": "Alice Ångström",
    "realm_access": {"roles": ["offline_access", "pacs-radiologist", "uma_authorization"]},
    "resource_access": {"account": {"roles": ["manage-account"]}, CLIENT: {"roles": ["pacs-auditor"]}},
    "groups": ["/radiology/ct"],
    "department": ["CT", "MR"],
    "sid": "a-session-there",
}
"""Claims as Keycloak lays them out."""


def make_key(kid: str, kind: str = "EC") -> Key:
    return RSAKey.generate_key(2048, {"kid": kid}) if kind == "RSA" else ECKey.generate_key("P-256", {"kid": kid})


@dataclass
class SmallProvider:
    """What it says can be changed between two requests."""

    issuer: str = ""
    keys: list[Key] = field(default_factory=lambda: [make_key("k1")])
    published: list[dict[str, Any]] | None = None
    """The key set; None: the public parts of `keys`."""
    claims: dict[str, Any] = field(default_factory=lambda: {**KEYCLOAK})
    access_claims: dict[str, Any] | None = None
    """Of the access token; None: it is opaque."""
    userinfo: dict[str, Any] = field(default_factory=dict)
    secret: str = ""
    nonce: str | None = None
    """Instead of the one that was asked for."""
    is_down: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def token(self, claims: dict[str, Any] | None = None, key: Key | None = None, **header: Any) -> str:
        """A token by its first key, of now, for the API; `claims` replace or, being None, remove."""
        key = key or self.keys[0]
        now = int(time.time())
        base = {"iss": self.issuer, "sub": "u-1", "aud": AUDIENCE, "iat": now, "exp": now + 300}
        whole = {name: value for name, value in {**base, **self.claims, **(claims or {})}.items() if value is not None}
        alg = "RS256" if isinstance(key, RSAKey) else "ES256"
        return jwt.encode({"alg": alg, "kid": key.kid, **header}, whole, key)

    def count(self, path: str) -> int:
        return sum(1 for _, asked in self.requests if asked == path)

    # -- answers ------------------------------------------------------------------------------------

    def discovery(self) -> dict[str, Any]:
        paths = {"authorization": "/authorize", "token": "/token", "userinfo": "/userinfo", "end_session": "/logout"}
        addresses = {f"{name}_endpoint": self.issuer + path for name, path in paths.items()}
        return {
            "issuer": self.issuer,
            "jwks_uri": self.issuer + "/keys",
            **addresses,
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser goes back to."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        answer = {"code": code, "state": query["state"], "iss": self.issuer}
        return f"{query['redirect_uri']}?{urlencode(answer)}"

    def exchange(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        asked = self.codes.pop(form.get("code", ""), None)  # each code works once
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        basic = base64.b64encode(f"{CLIENT}:{self.secret}".encode()).decode()
        is_right = (
            asked is not None
            and asked["code_challenge"] == challenge
            and asked["redirect_uri"] == form.get("redirect_uri")
            and (not self.secret or authorization == f"Basic {basic}")
        )
        if asked is None or not is_right:
            return 400, {"error": "invalid_grant", "error_description": "<script>"}
        nonce = asked["nonce"] if self.nonce is None else self.nonce
        access = "opaque" if self.access_claims is None else self.token(self.access_claims, typ="at+jwt")
        id_token = self.token({"aud": CLIENT, "nonce": nonce})
        return 200, {"access_token": access, "token_type": "Bearer", "id_token": id_token}


class _Handler(BaseHTTPRequestHandler):
    provider: SmallProvider

    def do_GET(self) -> None:
        provider, address = self.provider, urlsplit(self.path)
        provider.requests.append(("GET", address.path))
        if provider.is_down:
            return self._answer(503, {})
        match address.path:
            case "/.well-known/openid-configuration":
                self._answer(200, provider.discovery())
            case "/keys":
                public = [key.as_dict(private=False) for key in provider.keys]
                self._answer(200, {"keys": public if provider.published is None else provider.published})
            case "/authorize":
                self._redirect(provider.authorize(dict(parse_qsl(address.query))))
            case "/userinfo":
                self._answer(200, {"sub": "u-1", **provider.userinfo})
            case "/logout":
                self._redirect(dict(parse_qsl(address.query))["post_logout_redirect_uri"])
            case _:
                self._answer(404, {})
        return None

    def do_POST(self) -> None:
        self.provider.requests.append(("POST", self.path))
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        self._answer(*self.provider.exchange(form, self.headers.get("Authorization", "")))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, location: str) -> None:
        self.send_response(303)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def small_provider() -> Iterator[SmallProvider]:
    """Serves within the context, on a free port."""
    provider = SmallProvider()
    handler = type("Handler", (_Handler,), {"provider": provider})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
