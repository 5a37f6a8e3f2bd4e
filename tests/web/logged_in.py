"""A browser's side of a session: one connection, a cookie, and what browsers say of the cause of a request."""

from __future__ import annotations

import http.client
import json
from functools import cache
from typing import Any

from engine.accounts import passwords, users
from engine.accounts.records import User
from tests.web.hosting import Hosting

PASSWORD = "correct horse battery"


@cache
def password_hash() -> str:
    """That of PASSWORD; it takes a while, on purpose."""
    return passwords.hash_of(PASSWORD)


def add_user(hosting: Hosting, name: str, *roles: str, **fields: Any) -> User:
    """A user with PASSWORD."""
    return users.add(
        hosting.engine.accounts.database, User(name=name, roles=roles, **{"password": password_hash(), **fields})
    )


class Browser:
    """Asks as a page of the server would, with the cookie that it was given."""

    def __init__(self, hosting: Hosting) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)
        self.cookie = ""
        self.headers: dict[str, str] = {}
        """Of the last answer."""

    def log_in(self, user: str, password: str = PASSWORD, status: int = 200, **fields: str) -> Any:
        """Logs in; the facts of the session."""
        return self.ask("POST", "/api/session", {"user": user, "password": password, **fields}, status=status)

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        """The answer to GET."""
        return self.ask("GET", path, status=status, headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        site: str = "same-origin",
    ) -> Any:
        """The answer, which must have that status: JSON as values, anything else as bytes."""
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if site:
            sent["Sec-Fetch-Site"] = site
        if self.cookie:
            sent["Cookie"] = self.cookie
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        self._connection.request(method, path, data, sent)
        response = self._connection.getresponse()
        content = response.read()
        self.headers = dict(response.headers)
        for cookie in response.headers.get_all("Set-Cookie", []):
            pair = cookie.partition(";")[0]
            self.cookie = "" if pair.endswith(('=""', "=")) else pair
        assert response.status == status, (response.status, content)
        return json.loads(content) if "json" in response.headers.get("Content-Type", "") else content

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
