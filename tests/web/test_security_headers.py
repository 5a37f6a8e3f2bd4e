"""Headers that protect browsers, and requests that try to get past the routes: one server for all."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from aiohttp import web

from engine.access import Action
from engine.web import security_headers
from engine.web.request import Request
from engine.web.route import Route
from engine.web.security_headers import PDF, POLICY, SANDBOX
from engine.web.settings import Http
from tests.web.hosting import Hosting
from tests.web.serving import serving

HSTS = "Strict-Transport-Security"


async def document(request: Request) -> web.Response:
    kind = request.path_values["kind"]
    return web.Response(body=b"<x/>", headers={"Content-Type": f"{kind}/{request.path_values['sub']}"})


ROUTES = (
    Route("GET", "/document/{kind}/{sub}", document, "Sends a document", Action.RETRIEVE),
    Route("GET", "/secret", document, "Is not for everybody", Action.RETRIEVE),
)


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    folder = tmp_path_factory.mktemp("headers")
    settings = Http(trusted_proxies=("127.0.0.2",), allow=("127.0.0.1",), viewer_directory=folder / "no viewer")
    with serving(folder / "data", http=settings, routes=ROUTES) as hosting:
        yield hosting


def ask(
    hosting: Hosting, path: str, method: str = "GET", source: str = "127.0.0.1", **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=30, source_address=(source, 0))
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/live", 200), ("/dicom-web/studies", 200), ("/nothing", 404), ("/", 200), ("/ohif/", 404)],
)
def test_every_answer_has_the_headers_that_protect_its_reader(hosting: Hosting, path: str, status: int) -> None:
    answer = ask(hosting, path)
    assert answer.status == status
    headers = answer.headers
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert "frame-ancestors" in headers[POLICY] and "default-src 'none'" in headers[POLICY]
    assert headers[HSTS] is None, "plain HTTP says nothing of HTTPS"


@pytest.mark.parametrize("kind", ["text/html", "text/xml", "image/svg+xml", "application/json"])
def test_what_a_sender_wrote_runs_no_script_in_our_origin(hosting: Hosting, kind: str) -> None:
    policy = ask(hosting, f"/document/{kind}").headers[POLICY]
    assert policy == SANDBOX and policy.endswith("sandbox") and "script-src" not in policy


def test_a_pdf_is_shown_by_the_browsers_reader_which_needs_no_sandbox(hosting: Hosting) -> None:
    assert ask(hosting, "/document/application/pdf").headers[POLICY] == PDF


def test_an_unchanged_answer_leaves_the_policy_that_the_browser_has(hosting: Hosting) -> None:
    first = ask(hosting, "/page/main.js")
    again = ask(hosting, "/page/main.js", If_None_Match=first.headers["ETag"])
    assert again.status == 304 and again.headers[POLICY] == first.headers[POLICY] != SANDBOX
    unchanged = web.Response(status=304)
    security_headers.add(unchanged, Http(), is_https=True)
    assert POLICY not in unchanged.headers


def test_https_is_announced_to_those_who_came_by_https(hosting: Hosting) -> None:
    direct = ask(hosting, "/api/live", X_Forwarded_Proto="https")
    assert direct.headers[HSTS] is None, "anybody may write that header"
    proxied = ask(hosting, "/api/live", source="127.0.0.2", X_Forwarded_Proto="https", X_Forwarded_For="127.0.0.1")
    assert proxied.headers[HSTS] == "max-age=31536000"
    response = web.Response()
    security_headers.add(response, Http(hsts_s=0), is_https=True)
    assert HSTS not in response.headers


def test_images_may_be_embedded_elsewhere_only_if_every_page_may_use_us() -> None:
    for origins, policy in (((), "same-origin"), (("https://a.example",), "same-origin"), (("*",), "cross-origin")):
        response = web.Response()
        security_headers.add(response, Http(cors_origins=origins), is_https=False)
        assert response.headers["Cross-Origin-Resource-Policy"] == policy


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../settings.py", "/page/..%2fsettings.py", "/page/%2e%2e/settings.py", "/page/..%5csettings.py",
        "/page/%2e%2e%2f%2e%2e%2fsettings.py", "/page//etc/passwd", "/docs/..%2f..%2fpyproject.toml",
        "/ohif/files/../../../etc/passwd", "/ohif/files/x/%2e%2e%2fmanifest.json", "/page/main.js%00.css", "/%00",
        "/page/.", "/page/%252e%252e/settings.py",
    ],
)  # fmt: skip
def test_a_path_never_leads_out_of_what_is_served(hosting: Hosting, path: str) -> None:
    assert ask(hosting, path).status in (400, 404)


def test_dots_and_encoded_letters_get_past_no_permission(hosting: Hosting) -> None:
    """Only the router reads a path, so whatever is spelled, it meets the permission of its route."""
    allowed = {"X_Forwarded_For": "127.0.0.1"}
    for path in ("/secret", "//secret", "/%73ecret", "/secret/", "/secret//", "///secret?x=/../"):
        assert ask(hosting, path, source="127.0.0.2", X_Forwarded_For="10.1.1.1").status == 403, path
    for path in ("/api/live/../../secret", "/./secret", "/%2e/secret"):
        assert ask(hosting, path, source="127.0.0.2", **allowed).status == 404, path


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "DEBUG", "PATCH"])
def test_methods_that_nothing_has_are_refused(hosting: Hosting, method: str) -> None:
    answer = ask(hosting, "/", method, Cookie="filmroom=secret")
    assert answer.status in (400, 404, 405)
    assert "secret" not in str(answer.headers)


def test_a_forged_forwarding_header_makes_nobody_another_client(hosting: Hosting) -> None:
    forged = {"X_Forwarded_For": "127.0.0.1", "Forwarded": "for=127.0.0.1;proto=https", "X_Forwarded_Host": "localhost"}
    assert ask(hosting, "/dicom-web/studies", source="127.0.0.3", **forged).status == 403
    # Behind the proxy the last address that it added counts, not what the client wrote before.
    chain = {"X_Forwarded_For": "127.0.0.1, 10.9.9.9"}
    assert ask(hosting, "/dicom-web/studies", source="127.0.0.2", **chain).status == 403
    assert ask(hosting, "/dicom-web/studies", source="127.0.0.2", X_Forwarded_For="10.9.9.9, 127.0.0.1").status == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "filmroom"])
def test_a_host_name_that_is_not_ours_is_refused_as_in_dns_rebinding(hosting: Hosting, name: str) -> None:
    with hosting.connect() as sock:
        sock.sendall(f"GET /dicom-web/studies HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        assert b" 421 " in sock.recv(4096).split(b"\r\n")[0]


def test_two_host_headers_are_refused(hosting: Hosting) -> None:
    head = b"GET /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert hosting.ask(head).split(b"\r\n")[0].split()[1] == b"400"


def test_the_front_serves_nothing_of_these_attacks_wrongly(hosting: Hosting) -> None:
    counters = SimpleNamespace(**hosting.counters)
    assert not getattr(counters, "http_handlers_crashed", 0) and not getattr(counters, "http_answers_500", 0)
