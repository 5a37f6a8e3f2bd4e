"""Log-ins and tokens of an identity provider over HTTP, against the small provider of the tests."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
import pytest

from engine.accounts import users
from engine.accounts.records import User
from engine.identity.attempt import Attempt
from engine.identity.settings import Oidc
from engine.identity.tokens import LOGOUT_EVENT
from tests import samples
from tests.identity.small_provider import AUDIENCE, CLIENT, KEYCLOAK, SmallProvider, small_provider
from tests.samples import part10
from tests.web.hosting import Hosting
from tests.web.logged_in import add_user
from tests.web.serving import serving

ROLES = {"pacs-radiologist": "radiologist", "pacs-admin": "admin", "pacs-full": "full"}


@pytest.fixture(scope="module")
def small() -> Iterator[SmallProvider]:
    with small_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def hosting(small: SmallProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    common: dict[str, Any] = {"issuer": small.issuer, "client_id": CLIENT}
    providers = (
        Oidc(name="hospital", label="Hospital", audiences=(AUDIENCE,), roles=ROLES, patient_id_issuer="H", **common),
        Oidc(name="clinic", login=False, default_roles=("referrer",), **common),
    )
    with serving(tmp_path_factory.mktemp("oidc") / "data", oidc=providers) as hosting:
        add_user(hosting, "local", "full")
        yield hosting


@pytest.fixture(autouse=True)
def _fresh(small: SmallProvider) -> None:
    small.claims, small.nonce, small.is_down = {**KEYCLOAK}, None, False


class Browser:
    """Follows redirects between the two servers, and keeps the cookies of ours."""

    def __init__(self, hosting: Hosting) -> None:
        self._port = hosting.port
        self.cookies: dict[str, str] = {}
        self.headers: http.client.HTTPMessage | None = None

    def ask(self, method: str, path: str, status: int = 200, body: bytes | None = None, **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body, {"Sec-Fetch-Site": "same-origin", **sent})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.headers = answer.headers
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
            if value.strip('"'):
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        assert answer.status == status, (answer.status, content)
        is_json = "json" in answer.headers.get("Content-Type", "")
        return json.loads(content) if is_json else answer.headers.get("Location", "")

    def begin(self, place: str = "") -> dict[str, str]:
        """Begins a log-in; the query with which the browser goes to the provider."""
        location = self.ask("GET", f"/api/oidc/hospital/login?back={quote(place, safe='')}", 303)
        return dict(parse_qsl(urlsplit(location).query))

    def come_back(self, small: SmallProvider, query: dict[str, str], **changes: str) -> str:
        """Comes back from the provider; where on the page that ends."""
        answer = {**dict(parse_qsl(urlsplit(small.authorize(query)).query)), **changes}
        return str(self.ask("GET", f"/api/oidc/hospital/callback?{urlencode(answer)}", 303))

    def log_in(self, small: SmallProvider, place: str = "") -> str:
        return self.come_back(small, self.begin(place))


@pytest.fixture
def browser(hosting: Hosting) -> Browser:
    return Browser(hosting)


# log-in ------------------------------------------------------------------------------------------


def test_the_page_is_told_which_providers_there_are(browser: Browser) -> None:
    facts = browser.ask("GET", "/api/session")
    assert facts["providers"] == [{"name": "Hospital", "path": "api/oidc/hospital/login"}]
    assert "oidc" in facts["methods"] and "may" not in facts


def test_a_log_in_ends_where_it_began_with_a_session_of_the_roles_there(
    browser: Browser, small: SmallProvider, hosting: Hosting
) -> None:
    assert browser.log_in(small, "#/study/1.2.3?x=1") == f"{hosting.url}/#/study/1.2.3?x=1"
    assert set(browser.cookies) == {"filmroom"}, "the secrets of the attempt are gone"
    facts = browser.ask("GET", "/api/session")
    assert (facts["user"], facts["full_name"], facts["roles"]) == ("alice", "Alice Ångström", ["radiologist"])
    browser.ask("GET", "/api/studies")
    assert "http" not in browser.cookies["filmroom"] and len(browser.cookies["filmroom"]) >= 43
    # The next log-in brings other roles, and they count for the open session too.
    small.claims["realm_access"] = {"roles": ["pacs-admin"]}
    Browser(hosting).log_in(small)
    assert browser.ask("GET", "/api/session")["roles"] == ["admin"]
    answer = browser.ask("DELETE", "/api/session")
    query = dict(parse_qsl(urlsplit(answer["logout_url"]).query))
    assert answer["logout_url"].startswith(f"{small.issuer}/logout?")
    assert query["post_logout_redirect_uri"] == f"{hosting.url}/" and query["id_token_hint"].count(".") == 2
    browser.ask("GET", "/api/studies", 401)


@pytest.mark.parametrize("place", ["//evil.example", "\\evil", "\r\nSet-Cookie: x=y", "javascript:alert(1)", "x" * 600])
def test_no_place_leads_elsewhere(browser: Browser, small: SmallProvider, hosting: Hosting, place: str) -> None:
    location = browser.log_in(small, place)
    assert urlsplit(location)[:4] == urlsplit(f"{hosting.url}/")[:4]
    assert "x" not in browser.cookies


def refused(browser: Browser, location: str, problem: str = "refused") -> None:
    assert location.endswith(f"/?login={problem}")
    assert browser.cookies == {}, "neither a session nor an attempt is left"
    browser.ask("GET", "/api/studies", 401)


@pytest.mark.parametrize("changes", [{"state": "x"}, {"iss": "https://evil.example"}, {"code": "x"}, {"error": "x"}])
def test_an_answer_that_was_tampered_with_begins_no_session(
    browser: Browser, small: SmallProvider, changes: dict[str, str]
) -> None:
    refused(browser, browser.come_back(small, browser.begin(), **changes))


def test_the_answer_of_another_browser_begins_no_session(
    browser: Browser, small: SmallProvider, hosting: Hosting
) -> None:
    query = Browser(hosting).begin()
    refused(browser, browser.come_back(small, query))  # no attempt of its own
    browser.begin()
    refused(browser, browser.come_back(small, query))  # the state of another


def test_a_replayed_code_begins_no_session_even_with_its_cookie(browser: Browser, small: SmallProvider) -> None:
    query = browser.begin()
    attempt = dict(browser.cookies)
    answer = dict(parse_qsl(urlsplit(small.authorize(query)).query))
    assert browser.ask("GET", f"/api/oidc/hospital/callback?{urlencode(answer)}", 303).endswith("/")
    browser.cookies = attempt
    refused(browser, browser.ask("GET", f"/api/oidc/hospital/callback?{urlencode(answer)}", 303))


def test_a_nonce_of_another_attempt_begins_no_session(browser: Browser, small: SmallProvider) -> None:
    small.nonce = "other"
    refused(browser, browser.log_in(small))


def test_parameters_that_come_twice_count_as_none(browser: Browser, small: SmallProvider) -> None:
    answer = urlsplit(small.authorize(browser.begin())).query
    refused(browser, browser.ask("GET", f"/api/oidc/hospital/callback?{answer}&code=x", 303))


def test_a_provider_that_is_down_is_told_on_the_page(browser: Browser, small: SmallProvider, hosting: Hosting) -> None:
    provider = hosting.engine.identities.provider("hospital")
    assert provider is not None
    hosting.on_loop(lambda: setattr(provider, "_discovered_s", float("-inf")))
    small.is_down = True
    location = browser.ask("GET", "/api/oidc/hospital/login", 303)
    refused(browser, location, "unavailable")
    hosting.on_loop(lambda: setattr(provider, "_failed_s", float("-inf")))


@pytest.mark.parametrize("path", ["/api/oidc/nobody/login", "/api/oidc/clinic/login", "/api/oidc/nobody/callback"])
def test_there_is_no_other_provider(browser: Browser, path: str) -> None:
    browser.ask("GET", path, 404)


def test_whoever_chooses_a_name_at_the_provider_becomes_nobody_else_here(
    browser: Browser, small: SmallProvider, hosting: Hosting
) -> None:
    small.claims["preferred_username"] = "local"  # a user of this archive, with a password
    refused(browser, browser.log_in(small))
    small.claims = {**KEYCLOAK, "preferred_username": "LOCAL"}
    refused(browser, browser.log_in(small))
    small.claims = {**KEYCLOAK, "preferred_username": "alice", "sub": "u-2"}  # another's, by a renaming there
    refused(browser, browser.log_in(small))
    small.claims = {**KEYCLOAK, "preferred_username": "a b/../<script>"}
    refused(browser, browser.log_in(small))
    for name in ("local", "alice"):
        token = small.token({"preferred_username": name, "sub": "u-3"})
        browser.ask("GET", "/api/studies", 401, Authorization=f"Bearer {token}")


def test_a_user_who_is_disabled_here_stays_out(browser: Browser, small: SmallProvider, hosting: Hosting) -> None:
    small.claims |= {"preferred_username": "carol", "sub": "u-c"}
    browser.log_in(small)
    browser.ask("GET", "/api/studies")
    users.change(hosting.engine.accounts.database, "carol", is_disabled=True)
    browser.ask("GET", "/api/studies", 401)
    browser.cookies.clear()
    refused(browser, browser.log_in(small))
    token = small.token()
    browser.ask("GET", "/api/studies", 401, Authorization=f"Bearer {token}")


def test_the_attempts_cookie_is_none_of_a_users(browser: Browser, hosting: Hosting, small: SmallProvider) -> None:
    browser.cookies["filmroom-login"] = Attempt.begin("clinic", time.time()).to_text()
    refused(browser, browser.ask("GET", "/api/oidc/hospital/callback?code=x&state=y", 303))
    for text in ("", "x", "x" * 5000):
        browser.cookies["filmroom-login"] = text
        refused(browser, browser.ask("GET", "/api/oidc/hospital/callback?code=x&state=y", 303))


# back-channel log-out ----------------------------------------------------------------------------


def logout(browser: Browser, token: str, status: int = 200) -> Any:
    form = {"Content_Type": "application/x-www-form-urlencoded", "Sec_Fetch_Site": ""}
    return browser.ask("POST", "/api/oidc/hospital/logout", status, urlencode({"logout_token": token}).encode(), **form)


def logout_token(small: SmallProvider, **claims: Any) -> str:
    base = dict.fromkeys(KEYCLOAK)
    return small.token({**base, "aud": CLIENT, "events": {LOGOUT_EVENT: {}}, **claims}, typ="logout+jwt")


def test_the_provider_ends_the_sessions_that_began_there(
    browser: Browser, small: SmallProvider, hosting: Hosting
) -> None:
    small.claims |= {"preferred_username": "dave", "sub": "u-d", "sid": "s-1"}
    browser.log_in(small)
    other = Browser(hosting)
    small.claims["sid"] = "s-2"
    other.log_in(small)
    provider = Browser(hosting)
    assert logout(provider, logout_token(small, sub="u-d", sid="s-1")) == {"ended": 1}
    browser.ask("GET", "/api/studies", 401)
    other.ask("GET", "/api/studies")
    assert logout(provider, logout_token(small, sub="u-d")) == {"ended": 1}
    other.ask("GET", "/api/studies", 401)


@pytest.mark.parametrize(
    "claims",
    [
        {"events": None}, {"events": {}}, {"events": [LOGOUT_EVENT]}, {"nonce": "n"}, {"aud": AUDIENCE},
        {"iss": "https://evil.example"}, {"iat": 1_000_000_000, "exp": None}, {"sub": None}, {"sid": 7, "sub": None},
    ],
)  # fmt: skip
def test_a_log_out_token_that_is_none_ends_nothing(
    browser: Browser, small: SmallProvider, hosting: Hosting, claims: dict[str, Any]
) -> None:
    small.claims |= {"preferred_username": "erin", "sub": "u-e", "sid": "s-e"}
    browser.log_in(small)
    logout(Browser(hosting), logout_token(small, **{"sub": "u-e", **claims}), 400)
    browser.ask("GET", "/api/studies")


def test_an_access_token_ends_no_sessions(browser: Browser, small: SmallProvider) -> None:
    for token in (small.token(), small.token({"aud": CLIENT}), "", "a.b.c"):
        logout(browser, token, 400)


# bearer tokens -----------------------------------------------------------------------------------


def test_a_bearer_token_has_the_roles_that_it_states(browser: Browser, small: SmallProvider) -> None:
    bearer = {"Authorization": f"Bearer {small.token({'preferred_username': 'frank', 'sub': 'u-f'})}"}
    facts = browser.ask("GET", "/api/session", **bearer)
    assert (facts["user"], facts["roles"]) == ("frank", ["radiologist"])
    browser.ask("GET", "/api/studies", **bearer)
    browser.ask("GET", "/api/peers/X", 405, **bearer)
    stranger = {
        "Authorization": f"Bearer {small.token({'realm_access': None, 'sub': 'u-g', 'preferred_username': 'g'})}"
    }
    browser.ask("GET", "/api/studies", 403, **stranger)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "account"},
        {"iss": "https://evil.example"},
        {"exp": 1_000_000_000},
        {"nbf": 4_000_000_000},
        {"sub": None},
    ],
)
def test_a_bad_token_is_401_even_where_a_session_would_do(
    browser: Browser, small: SmallProvider, claims: dict[str, Any]
) -> None:
    browser.log_in(small)
    browser.ask("GET", "/api/studies", 401, Authorization=f"Bearer {small.token(claims)}")
    assert browser.headers is not None and browser.headers["WWW-Authenticate"].startswith("Bearer")


def multipart(*data_sets: Any) -> tuple[bytes, str]:
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(ds) + b"\r\n" for ds in data_sets]
    return b"".join(parts) + b"--b--\r\n", 'multipart/related; type="application/dicom"; boundary=b'


def test_a_token_ends_on_an_open_connection_too(browser: Browser, small: SmallProvider, hosting: Hosting) -> None:
    """The quick way of frames keeps what it knows of a connection's client."""
    ds = samples.instance(7, pixels=bytes(60))
    hank = {"preferred_username": "hank", "sub": "u-h", "realm_access": {"roles": ["pacs-full"]}}
    body, kind = multipart(ds)
    browser.ask("POST", "/dicom-web/studies", 200, body, Authorization=f"Bearer {small.token(hank)}", Content_Type=kind)
    until = int(time.time()) + 2
    short = small.token({**hank, "exp": until - 30})  # clocks may differ by 30 s
    series = f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
    headers = {"Authorization": f"Bearer {short}", "Accept": "application/octet-stream;transfer-syntax=*"}
    statuses = []
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)
    while not statuses or statuses[-1] == 200:
        connection.request("GET", f"{series}/instances/{ds.SOPInstanceUID}/frames/1", headers=headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    assert statuses[-1] in (401, 403) and time.time() >= until


def test_a_smart_token_shows_its_patient_and_nobody_else(browser: Browser, small: SmallProvider) -> None:
    both = [
        samples.instance(number, patient_id=patient, IssuerOfPatientID="H")
        for number, patient in ((21, "4711"), (22, "4712"))
    ]
    body, kind = multipart(*both)
    full = small.token({"preferred_username": "ida", "sub": "u-i", "realm_access": {"roles": ["pacs-full"]}})
    browser.ask("POST", "/dicom-web/studies", 200, body, Authorization=f"Bearer {full}", Content_Type=kind)
    claims = {"scope": "patient/ImagingStudy.read", "patient": "4711", "sub": "u-q", "preferred_username": "pat"}
    bearer = {"Authorization": f"Bearer {small.token(claims)}", "Accept": "application/dicom+json"}
    found = browser.ask("GET", "/dicom-web/studies", **bearer)
    assert [study["00100020"]["Value"] for study in found] == [["4711"]]
    for ds, status in zip(both, (200, 404), strict=True):
        browser.ask("GET", f"/dicom-web/studies/{ds.StudyInstanceUID}/metadata", status, **bearer)


def test_a_smart_token_may_only_read(browser: Browser, small: SmallProvider) -> None:
    """Which studies it reads: tests/access/test_launch.py."""
    claims = {"scope": "openid patient/ImagingStudy.read", "patient": "4711", "sub": "u-p", "preferred_username": "pat"}
    bearer = {"Authorization": f"Bearer {small.token(claims)}"}
    facts = browser.ask("GET", "/api/session", **bearer)
    assert (facts["roles"], facts["may"]) == ([], ["query", "retrieve"])
    browser.ask("GET", "/dicom-web/studies", Accept="application/dicom+json", **bearer)
    browser.ask("POST", "/dicom-web/studies", 403, b"x", Content_Type="application/dicom", **bearer)
    nothing = small.token({**claims, "scope": "patient/Observation.read"})
    browser.ask("GET", "/dicom-web/studies", 403, Authorization=f"Bearer {nothing}")


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [
        ("user/ImagingStudy.rs", (200, 200, 403, 200, 404)),
        ("user/Patient.s", (403, 403, 200, 403, 403)),
        ("user/ImagingStudy.r", (403, 404, 403, 403, 404)),
        ("openid profile", (200, 200, 200, 200, 404)),
    ],
)
def test_fhir_and_dicomweb_keep_to_the_scopes_of_a_token(
    browser: Browser, small: SmallProvider, scope: str, statuses: tuple[int, ...]
) -> None:
    claims = {"scope": scope, "sub": "u-i", "preferred_username": "ida", "realm_access": {"roles": ["pacs-full"]}}
    bearer = {"Authorization": f"Bearer {small.token(claims)}", "Accept": "*/*"}
    paths = ("/fhir/ImagingStudy", "/fhir/ImagingStudy/1.2", "/fhir/Patient", "/dicom-web/studies")
    expected = (statuses[0], 404 if statuses[1] == 200 else statuses[1], *statuses[2:])
    for path, status in zip((*paths, "/dicom-web/studies/1.2/metadata"), expected, strict=True):
        browser.ask("GET", path, status, **bearer)
    include = "/fhir/ImagingStudy?_include=ImagingStudy:patient&_include=ImagingStudy:endpoint"
    if statuses[0] == 200:
        kinds = {each["resource"]["resourceType"] for each in browser.ask("GET", include, **bearer).get("entry", [])}
        assert ("Patient" in kinds) <= (scope == "openid profile")


def test_clients_learn_where_to_get_tokens(browser: Browser, small: SmallProvider) -> None:
    document = browser.ask("GET", "/fhir/.well-known/smart-configuration")
    assert document["issuer"] == small.issuer and document["token_endpoint"] == f"{small.issuer}/token"
    assert {"permission-v1", "permission-v2", "permission-patient"} <= set(document["capabilities"])
    (rest,) = browser.ask("GET", "/fhir/metadata")["rest"]
    assert rest["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"


def test_the_configuration_in_force_decides(browser: Browser, small: SmallProvider, hosting: Hosting) -> None:
    engine = hosting.engine
    before = engine.config
    token = {"Authorization": f"Bearer {small.token({'preferred_username': 'jane', 'sub': 'u-j'})}"}
    browser.ask("GET", "/api/studies", **token)
    hosting.on_loop(lambda: engine.configure(msgspec.structs.replace(before, oidc=())))
    try:
        browser.ask("GET", "/api/studies", 401, **token)
        browser.ask("GET", "/api/oidc/hospital/login", 404)
        assert browser.ask("GET", "/api/session")["providers"] == []
    finally:
        hosting.on_loop(lambda: engine.configure(before))


def test_a_provider_is_reason_enough_to_need_a_login(
    small: SmallProvider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    provider = Oidc(name="hospital", issuer=small.issuer, client_id=CLIENT, default_roles=("radiologist",))
    with serving(tmp_path_factory.mktemp("first") / "data", oidc=(provider,)) as first:
        browser = Browser(first)
        browser.ask("GET", "/api/studies", 401)
        assert browser.log_in(small).endswith("/")
        assert browser.ask("GET", "/api/session")["roles"] == ["radiologist"]
        user: User = users.get(first.engine.accounts.database, "alice")
        assert (user.source, user.subject, user.password) == ("hospital", "u-1", "")
        # Where the provider has no mapping, roles are given here and stay.
        users.change(first.engine.accounts.database, "alice", roles=("auditor",))
        browser.log_in(small)
        assert browser.ask("GET", "/api/session")["roles"] == ["auditor"]
