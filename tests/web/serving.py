"""One front for a whole test module, and a client that asks it for JSON."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.web.hosting import Hosting, host


@contextmanager
def serving(data: Path, **options: Any) -> Iterator[Hosting]:
    """A front that serves within the context; `options` as of `hosting.host`."""
    started, done = threading.Event(), threading.Event()
    found: list[Hosting] = []
    failures: list[BaseException] = []

    def script(hosting: Hosting) -> None:
        found.append(hosting)
        started.set()
        done.wait()

    def serve() -> None:
        try:
            host(data, script, **options)
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        started.wait(60)
        assert found, failures
        yield found[0]
    finally:
        done.set()
        thread.join(60)
    assert not failures and not thread.is_alive(), failures


class ApiClient:
    """One connection; answers as status and JSON."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers: dict[str, str] = {}
        """Of the last answer."""

    def get(self, path: str, status: int = 200) -> Any:
        """The answer to GET, which must have that status."""
        return self._ask("GET", path, None, status)

    def post(self, path: str, body: object, status: int = 200, content_type: str = "application/json") -> Any:
        """The answer to POST."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", path, data, status, {"Content-Type": content_type})

    def put(self, path: str, body: object, status: int = 200) -> Any:
        """The answer to PUT."""
        return self._ask("PUT", path, json.dumps(body).encode(), status, {"Content-Type": "application/json"})

    def delete(self, path: str, status: int = 200) -> Any:
        """The answer to DELETE."""
        return self._ask("DELETE", path, None, status)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None, status: int, headers: dict[str, str] | None = None
    ) -> Any:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        content = response.read()
        self.headers = dict(response.headers)
        assert response.status == status, (response.status, content)
        return json.loads(content) if content else None
