"""Sessions over HTTP: when a log-in is needed, what it gives, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import time

import pytest
from msgspec.structs import replace

from engine.access import Action
from engine.accounts import sessions, tokens, users
from engine.web.api import live
from engine.web.settings import Http
from tests.web.hosting import Hosting
from tests.web.logged_in import PASSWORD, Browser, add_user
from tests.web.serving import ApiClient, serving


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("sessions") / "data") as hosting:
        add_user(hosting, "Anna", "admin", full_name="Anna Admin")
        add_user(hosting, "full", "full")
        yield hosting


@pytest.fixture
def browser(hosting: Hosting) -> Iterator[Callable[[], Browser]]:
    opened: list[Browser] = []

    def open_one() -> Browser:
        opened.append(Browser(hosting))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_without_users_clients_of_this_machine_need_no_login(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("open") / "data") as open_hosting:
        client = ApiClient(open_hosting.port)
        facts = client.get("/api/session")
        assert facts["user"] is None and facts["login"] == "auto"
        assert facts["may"] == [action.title for action in Action]
        client.get("/api/studies")
        add_user(open_hosting, "first", "full")
        client.get("/api/studies", 401)
        assert "may" not in client.get("/api/session")
        client.close()


def test_login_can_be_switched_off_or_be_needed_before_there_is_a_user(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("needed") / "data", http=Http(login="required")) as needed:
        client = ApiClient(needed.port)
        client.get("/api/studies", 401)
        client.close()
    with serving(tmp_path_factory.mktemp("off") / "data", http=Http(login="off")) as off:
        add_user(off, "somebody", "full")
        client = ApiClient(off.port)
        client.get("/api/studies")
        client.close()


def test_what_has_data_needs_a_login_and_the_pages_files_and_health_do_not(
    browser: Callable[[], Browser], hosting: Hosting
) -> None:
    stranger = browser()
    for route in hosting.front.routes:
        if route.method != "GET" or "{" in route.path:
            continue
        status = 401 if route.action is not None or route.needs_login else None
        if status is not None:
            stranger.get(route.path, status)
            assert stranger.headers["WWW-Authenticate"].startswith("Bearer")
    for path in ("/", "/page/main.js", "/health/live", "/health/ready"):
        stranger.get(path)
    stranger.get("/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/1", 401)
    stranger.ask("DELETE", "/dicom-web/studies/1.2", status=401)
    stranger.ask("POST", "/dicom-web/studies", {}, status=401)


def test_a_user_logs_in_and_out(browser: Callable[[], Browser]) -> None:
    anna = browser()
    facts = anna.log_in("ANNA")
    assert (facts["user"], facts["full_name"], facts["roles"]) == ("Anna", "Anna Admin", ["admin"])
    assert "administer" in facts["may"] and "retrieve" not in facts["may"]
    cookie = anna.headers["Set-Cookie"]
    assert cookie.startswith("filmroom=") and "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie
    assert "Secure" not in cookie and "Domain" not in cookie
    assert anna.headers["Cache-Control"] == "no-store"
    assert anna.get("/api/session")["user"] == "Anna"
    anna.get("/api/studies")
    anna.get("/api/log")
    kept = anna.cookie
    anna.ask("DELETE", "/api/session")
    assert anna.headers["Clear-Site-Data"] and not anna.cookie
    anna.cookie = kept
    anna.get("/api/studies", 401)


@pytest.mark.parametrize("name", ["Anna", "nobody", "", "\N{RIGHT-TO-LEFT OVERRIDE}", "x" * 200])
def test_a_wrong_password_says_nothing_about_the_user(name: str, browser: Callable[[], Browser]) -> None:
    answer = browser().log_in(name, "wrong password", 401)
    assert answer["detail"] == "the user name, the password or the code is wrong"


def test_a_bad_credential_is_refused_though_none_would_be_needed(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("bad") / "data") as hosting:
        client = Browser(hosting)
        client.get("/api/studies")
        client.get("/api/studies", 401, Authorization="Bearer nonsense")
        client.get("/api/studies", 401, Authorization="Basic YTpi")
        client.get("/api/studies", 401, Cookie="filmroom=nonsense")
        client.get("/page/main.js", 200, Cookie="filmroom=nonsense")
        client.close()


@pytest.mark.parametrize(
    ("site", "headers", "status"),
    [
        ("same-origin", {}, 200),
        ("none", {}, 200),
        ("cross-site", {}, 403),
        ("same-site", {}, 403),
        ("", {}, 403),
        ("", {"Origin": "http://evil.example"}, 403),
        ("", {"Origin": "null"}, 403),
        ("cross-site", {"Origin": "http://127.0.0.1"}, 403),
    ],
)
def test_a_request_that_another_page_caused_changes_nothing(
    site: str, headers: dict[str, str], status: int, browser: Callable[[], Browser]
) -> None:
    user = browser()
    user.log_in("full")
    user.ask("POST", "/api/trash/empty", {"everything": True}, status=status, headers=headers, site=site)
    if status == 403:
        user.ask("DELETE", "/dicom-web/studies/1.2.3", status=403, headers=headers, site=site)
        user.ask("DELETE", "/api/session", status=403, headers=headers, site=site)
        user.get("/api/session")


def test_our_own_origin_is_a_cause_too(browser: Callable[[], Browser], hosting: Hosting) -> None:
    user = browser()
    user.log_in("full")
    user.ask("POST", "/api/trash/empty", {"everything": True}, headers={"Origin": hosting.url}, site="")


def test_a_session_ends_at_once_when_it_is_revoked_or_its_user_disabled_or_removed(
    browser: Callable[[], Browser], hosting: Hosting
) -> None:
    database = hosting.engine.accounts.database
    add_user(hosting, "leaver", "full")
    first, second = browser(), browser()
    first.log_in("leaver")
    second.log_in("leaver")
    (identifier, _), _ = sessions.listed(database, "leaver")
    assert sessions.revoke(database, identifier, "leaver")
    states = []
    for each in (first, second):
        each.ask(
            "GET", "/api/studies", status=401 if tokens.id_of(tokens.digest_of(each.cookie[9:])) == identifier else 200
        )
        states.append(each)
    users.change(database, "leaver", is_disabled=True)
    for each in states:
        each.get("/api/studies", 401)
    browser().log_in("leaver", status=401)
    users.change(database, "leaver", is_disabled=False)
    third = browser()
    third.log_in("leaver")
    users.remove(database, "leaver")
    third.get("/api/studies", 401)


def test_a_changed_role_acts_at_the_next_request(browser: Callable[[], Browser], hosting: Hosting) -> None:
    add_user(hosting, "changing", "admin")
    user = browser()
    user.log_in("changing")
    user.get("/api/log")
    users.change(hosting.engine.accounts.database, "changing", roles=("referrer",))
    user.get("/api/log", 403)
    assert user.get("/api/session")["roles"] == ["referrer"]


def test_a_session_ends_when_nobody_uses_it_and_at_its_end(browser: Callable[[], Browser], hosting: Hosting) -> None:
    database = hosting.engine.accounts.database
    add_user(hosting, "sleeper", "full")
    for fields in ({"used": time() - 901.0}, {"until": time() - 1.0}):
        user = browser()
        user.log_in("sleeper")
        user.get("/api/studies")
        digest = tokens.digest_of(user.cookie.partition("=")[2])
        with database.write() as txn:
            session = database.sessions.get(txn, digest)
            assert session is not None
            database.sessions.put(txn, digest, replace(session, **fields))
        user.get("/api/studies", 401)


def test_the_token_is_stored_nowhere(browser: Callable[[], Browser], hosting: Hosting) -> None:
    user = browser()
    user.log_in("full")
    token = user.cookie.partition("=")[2]
    assert len(token) >= 43
    content = (hosting.engine.config.data / "accounts" / "data.mdb").read_bytes()
    assert token.encode() not in content and PASSWORD.encode() not in content
    assert tokens.digest_of(token) in content


def test_http_allow_holds_for_those_who_log_in_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("allow") / "data", http=Http(allow=("10.0.0.0/8",))) as hosting:
        add_user(hosting, "anna", "full")
        user = Browser(hosting)
        user.get("/api/studies", 403)
        user.close()


def test_a_stream_ends_when_its_session_does(
    browser: Callable[[], Browser], hosting: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "ALIVE_S", 0.2)
    user = browser()
    user.log_in("full")
    request = f"GET /api/live HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nCookie: {user.cookie}\r\n\r\n"
    with hosting.connect() as sock:
        sock.sendall(request.encode())
        received = b""
        while b"retry:" not in received:
            received += sock.recv(1 << 16)
            assert received.startswith(b"HTTP/1.1 200"), received
        sessions.revoke_all(hosting.engine.accounts.database, "full")
        while not received.endswith(b"0\r\n\r\n"):  # the end of the chunked body
            part = sock.recv(1 << 16)
            assert part, "the stream has an end"
            received += part


def test_caches_keep_nothing_for_others(browser: Callable[[], Browser]) -> None:
    user = browser()
    user.log_in("full")
    user.get("/dicom-web/studies")
    assert user.headers["Cache-Control"] == "no-store"
    user.get("/page/main.js")
    assert user.headers["Cache-Control"] == "no-cache"
