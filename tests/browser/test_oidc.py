"""A person logs in with an identity provider, in a browser: with the small one of the tests, and with a real one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests import samples
from tests.browser import browsing
from tests.browser.browsing import Watch
from tests.identity.real_provider import API, SECRET, RealProvider, real_provider
from tests.identity.small_provider import SmallProvider, small_provider
from tests.system.server import Server, running

DATA_SETS = [samples.instance(number, 1, 1, patient_name=f"Doe^{number}") for number in (1, 2)]


@pytest.fixture(scope="module")
def small() -> Iterator[SmallProvider]:
    with small_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def real() -> Iterator[RealProvider]:
    with real_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def serve(browser: Browser, small: SmallProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = (
        f'[[oidc]]\nname = "hospital"\nlabel = "the hospital"\nissuer = "{small.issuer}"\nclient_id = "filmroom"\n'
        "roles = { pacs-radiologist = 'radiologist' }\n"
    )
    with running(tmp_path_factory.mktemp("oidc") / "data", config=config, workers=1, http=True) as server:
        yield server


@pytest.fixture
def page(browser: Browser, serve: Server) -> Iterator[Page]:
    context = browser.new_context(base_url=serve.url, locale="en-GB")
    context.set_default_timeout(browsing.TIMEOUT_MS)
    yield context.new_page()
    context.close()


def log_in_with(page: Page, name: str) -> None:
    page.get_by_role("link", name=f"Log in with {name}").click()


def test_a_log_in_goes_on_where_it_began_and_ends_at_the_provider_too(
    page: Page, serve: Server, small: SmallProvider
) -> None:
    watch = Watch(serve.url)
    watch.allow("status of 401")
    watch.attach(page.context)
    watch.allow(re.escape(small.issuer))
    page.goto("/#/studies?PatientName=Doe*")
    log_in_with(page, "the hospital")
    expect(page.get_by_role("link", name="Account of alice")).to_be_visible()
    assert page.url == f"{serve.url}/#/studies?PatientName=Doe*"
    (cookie,) = page.context.cookies()
    assert cookie["name"] == "filmroom" and cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    page.get_by_role("link", name="Account of alice").click()
    with page.expect_request(lambda request: request.url.startswith(f"{small.issuer}/logout?")):
        page.get_by_role("button", name="Log out", exact=True).first.click()
    expect(page.get_by_role("link", name="Log in with the hospital")).to_be_visible()
    assert page.url.startswith(serve.url) and page.context.cookies() == []
    watch.check()


def test_a_refusal_is_told_in_words(page: Page, serve: Server, small: SmallProvider) -> None:
    page.goto("/")
    small.nonce = "of another"
    try:
        log_in_with(page, "the hospital")
        expect(page.get_by_role("alert")).to_contain_text("was refused")
    finally:
        small.nonce = None
    assert page.url == f"{serve.url}/"
    log_in_with(page, "the hospital")
    expect(page.get_by_role("link", name="Account of alice")).to_be_visible()


# a real provider ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hospital(browser: Browser, real: RealProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("real")
    (folder / "secret").write_text(SECRET)
    common = f'issuer = "{real.issuer}"\nclient_id = "filmroom"\n'
    config = (
        f'[[oidc]]\nname = "sso"\nlabel = "SSO"\n{common}client_secret_file = "{folder}/secret"\n'
        "roles = { pacs-radiologist = 'radiologist' }\n"
        f'[[oidc]]\nname = "services"\nlogin = false\n{common}audiences = ["{API}"]\nuser_claim = "client_id"\n'
        'default_roles = ["full"]\n'
    )
    with running(folder / "data", config=config, workers=1, http=True) as server:
        real.begin(server.url, "sso")
        yield server


def real_log_in(page: Page, hospital: Server, user: str) -> None:
    page.route("**/fonts.googleapis.com/**", lambda route: route.abort())
    page.goto(f"{hospital.url}/")
    log_in_with(page, "SSO")
    page.locator("input[name=login]").fill(user)
    page.locator("input[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


@pytest.mark.parametrize(("user", "roles"), [("ray", ["radiologist"]), ("nobody", [])])
def test_a_person_logs_in_with_a_real_provider_and_out_again(
    page: Page, hospital: Server, user: str, roles: list[str]
) -> None:
    real_log_in(page, hospital, user)
    expect(page.get_by_role("link", name=f"Account of {user}")).to_be_visible()
    facts = page.request.get(f"{hospital.url}/api/session").json()
    assert (facts["user"], facts["full_name"], facts["roles"]) == (user, f"{user} of the hospital", roles)
    assert page.request.get(f"{hospital.url}/api/studies").status == (200 if roles else 403)
    answer = page.request.delete(f"{hospital.url}/api/session", headers={"Sec-Fetch-Site": "same-origin"}).json()
    page.goto(answer["logout_url"])
    page.get_by_role("button", name="Yes, sign me out").click()
    page.wait_for_url(f"{hospital.url}/**")
    expect(page.get_by_role("link", name="Log in with SSO")).to_be_visible()


def test_an_access_token_of_a_real_provider_opens_the_api(hospital: Server, real: RealProvider) -> None:
    form = {"grant_type": "client_credentials", "resource": API, "scope": "api"}
    answer = requests.post(f"{real.issuer}/token", form, auth=("filmroom", SECRET), timeout=60).json()
    token = answer["access_token"]
    assert token.count(".") == 2
    bearer = {"Authorization": f"Bearer {token}"}
    facts = requests.get(f"{hospital.url}/api/session", headers=bearer, timeout=60).json()
    assert (facts["user"], facts["roles"]) == ("filmroom", ["full"])
    assert requests.get(f"{hospital.url}/api/studies", headers=bearer, timeout=60).status_code == 200
    changed = {"Authorization": f"Bearer {token[:-4]}AAAA"}
    assert requests.get(f"{hospital.url}/api/studies", headers=changed, timeout=60).status_code == 401
