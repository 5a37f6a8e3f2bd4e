"""Users, keys, shares, grants and emergency access over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import pyotp
import pytest

from engine.access import Action
from engine.accounts import throttle, users
from engine.archive.archive import Archive
from engine.config import Role
from tests import samples
from tests.web.hosting import Hosting
from tests.web.logged_in import PASSWORD, Browser, add_user
from tests.web.serving import serving

Open = Callable[[], Browser]
STUDY, OTHER = f"{samples.ROOT}.1", f"{samples.ROOT}.2"
NEW_PASSWORD = "another long phrase"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("accounts") / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(samples.instance(1)))
        archive.store(samples.part10(samples.instance(2, patient_id="P2")))
    with serving(data, roles=(Role(name="emergency", may=("query", "break-glass")),)) as hosting:
        for name, role in (("admin", "admin"), ("full", "full"), ("doctor", "radiologist"), ("referrer", "referrer")):
            add_user(hosting, name, role)
        yield hosting


@pytest.fixture
def browser(hosting: Hosting) -> Iterator[Open]:
    opened: list[Browser] = []

    def open_one() -> Browser:
        opened.append(Browser(hosting))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def as_user(browser: Open, name: str) -> Browser:
    one = browser()
    one.log_in(name)
    return one


def seen(hosting: Hosting, user: Browser) -> list[str]:
    """The studies that exist for who has logged in."""
    engine, found = hosting.engine, []

    def look() -> None:
        proof = engine.accounts.directory.proof(user.cookie.partition("=")[2])
        assert proof is not None
        view = engine.archive.view(engine.access.scope(proof.principal("127.0.0.1"), Action.QUERY))
        found.extend(uid for uid in (STUDY, OTHER) if view.sees(uid))

    hosting.on_loop(look)
    return found


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


# Users ---------------------------------------------------------------------------------------------


def test_an_administrator_adds_a_user_who_comes_in_by_a_link_once(browser: Open) -> None:
    admin = as_user(browser, "admin")
    made = admin.ask("POST", "/api/users", {"name": "Nina", "full_name": "Nina N", "roles": ["referrer"]}, status=201)
    token = made["link"].rpartition("/")[2]
    assert "/#/welcome/" in made["link"] and not made["has_password"]
    nina = browser()
    assert nina.ask("POST", "/api/welcome", {"token": token}) == {"user": "Nina"}
    nina.ask("POST", "/api/welcome", {"token": token, "password": "short"}, status=400)
    nina.ask("POST", "/api/welcome", {"token": token, "password": "Nina12345678"}, status=400)
    assert nina.ask("POST", "/api/welcome", {"token": token, "password": NEW_PASSWORD})["user"] == "Nina"
    browser().ask("POST", "/api/welcome", {"token": token, "password": NEW_PASSWORD}, status=404)
    again = browser()
    again.log_in("nina", NEW_PASSWORD)
    again.get("/api/users", 403)
    assert [row["name"] for row in admin.get("/api/users")["users"]].count("Nina") == 1
    admin.ask("POST", "/api/users", {"name": "NINA"}, status=409)
    assert len(admin.get("/api/users/Nina")["sessions"]) == 2
    assert admin.ask("DELETE", "/api/users/Nina/sessions") == {"ended": 2}
    again.get("/api/session")
    assert "may" not in again.get("/api/session")
    admin.ask("PATCH", "/api/users/Nina", {"is_disabled": True})
    browser().log_in("nina", NEW_PASSWORD, 401)
    admin.ask("DELETE", "/api/users/Nina")
    admin.get("/api/users/Nina", 404)


def test_a_user_with_a_first_password_may_do_nothing_before_it_is_changed(browser: Open) -> None:
    admin = as_user(browser, "admin")
    admin.ask("POST", "/api/users", {"name": "first", "roles": ["full"], "password": PASSWORD}, status=201)
    first = browser()
    facts = first.log_in("first")
    assert facts["must_change_password"] and facts["may"] == []
    first.get("/api/studies", 403)
    first.ask("POST", "/api/keys", {"name": "k", "until": in_an_hour()}, status=403)
    first.ask("POST", "/api/account/password", {"old": "wrong", "new": NEW_PASSWORD}, status=403)
    first.ask("POST", "/api/account/password", {"old": PASSWORD, "new": PASSWORD}, status=400)
    first.ask("POST", "/api/account/password", {"old": PASSWORD, "new": NEW_PASSWORD})
    first.get("/api/studies")
    browser().log_in("first", PASSWORD, 401)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "a b"}, 400),
        ({"name": ""}, 400),
        ({"name": "x" * 129}, 400),
        ({"name": "\u202egnp.exe"}, 400),
        ({"name": "<script>"}, 400),
        ({"name": "ok", "roles": ["nonsense"]}, 400),
        ({"name": "ok", "password": "aaaaaaaaaaaaaaaa"}, 400),
        ({"name": "ok", "password": "passwort12345678"}, 400),
        ({"name": "ok", "unknown": 1}, 400),
    ],
)
def test_a_wrong_user_is_refused(body: dict[str, Any], status: int, browser: Open) -> None:
    as_user(browser, "admin").ask("POST", "/api/users", body, status=status)


def test_only_administrators_see_users_and_only_auditors_review(browser: Open) -> None:
    doctor = as_user(browser, "doctor")
    for path in ("/api/users", "/api/users/admin", "/api/roles"):
        doctor.get(path, 403)
    doctor.ask("PATCH", "/api/users/doctor", {"roles": ["full"]}, status=403)
    doctor.ask("POST", "/api/grants", {"name": "doctor", "studies": [STUDY]}, status=403)
    doctor.ask("POST", f"/api/grants/{'0' * 24}/review", {}, status=403)


# Second factor -----------------------------------------------------------------------------------


def test_codes_are_needed_once_they_are_on_and_none_counts_twice(browser: Open, hosting: Hosting) -> None:
    add_user(hosting, "careful", "full")
    user = as_user(browser, "careful")
    secret = user.ask("POST", "/api/account/totp", {})["secret"]
    totp = pyotp.TOTP(secret)
    user.ask("POST", "/api/account/totp", {"secret": secret, "code": "000", "password": PASSWORD}, status=400)
    user.ask("POST", "/api/account/totp", {"secret": secret, "code": totp.now(), "password": "wrong"}, status=403)
    used = totp.now()
    codes = user.ask("POST", "/api/account/totp", {"secret": secret, "code": used, "password": PASSWORD})
    recovery = codes["recovery_codes"]
    assert len(recovery) == 10 == user.get("/api/account")["recovery_codes"]
    assert browser().log_in("careful", status=401)["needs_code"]
    browser().log_in("careful", code=used, status=401)
    following = totp.at(int(time()) + 30)
    assert browser().log_in("careful", code=following)["user"] == "careful"
    browser().log_in("careful", code=following, status=401)
    browser().log_in("careful", code=recovery[0])
    browser().log_in("careful", code=recovery[0], status=401)
    browser().log_in("careful", code=recovery[1].upper().replace("-", " "))
    assert "needs_code" not in browser().log_in("careful", "wrong password", 401)
    user.ask("POST", "/api/account/totp/off", {"password": "wrong"}, status=403)
    user.ask("POST", "/api/account/totp/off", {"password": PASSWORD})
    browser().log_in("careful")


# Throttling --------------------------------------------------------------------------------------


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays are long, so that none of them is over in a test."""
    monkeypatch.setattr(throttle, "FIRST_DELAY_S", throttle.DELAY_S_MAX)


@pytest.mark.usefixtures("slow_clock")
def test_a_thousand_wrong_passwords_slow_down_only_who_tries_them(browser: Open, hosting: Hosting) -> None:
    add_user(hosting, "target", "full")
    add_user(hosting, "bystander", "full")
    attacker = browser()
    for _ in range(throttle.FREE):
        attacker.log_in("target", "wrong password", 401)
    for _ in range(1000 - throttle.FREE):
        attacker.log_in("target", status=429)
    assert int(attacker.headers["Retry-After"]) >= 1
    browser().log_in("bystander")
    database = hosting.engine.accounts.database
    throttle.begin(database, users.key_of("target"), "10.9.8.7", time())  # the same user elsewhere


@pytest.mark.usefixtures("slow_clock")
def test_attempts_for_users_who_do_not_exist_are_slowed_down_alike(browser: Open) -> None:
    stranger = browser()
    for _ in range(throttle.FREE):
        stranger.log_in("nobody-at-all", "wrong password", 401)
    stranger.log_in("nobody-at-all", "wrong password", 429)


# Keys --------------------------------------------------------------------------------------------


def test_an_api_key_acts_for_its_user_with_its_own_actions_until_it_is_revoked(browser: Open) -> None:
    user = as_user(browser, "full")
    body = {"name": "reader", "until": in_an_hour(), "actions": ["query"]}
    made = user.ask("POST", "/api/keys", body, status=201)
    assert made["key"].startswith("fr_") and made["user"] == "full"
    program = browser()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    program.ask("GET", "/dicom-web/studies", headers=bearer, site="")
    program.ask("GET", f"/dicom-web/studies/{STUDY}/metadata", headers=bearer, status=403, site="")
    program.ask("POST", "/api/trash/empty", {"everything": True}, headers=bearer, status=403, site="")
    program.ask("POST", "/api/keys", {"name": "more", "until": in_an_hour()}, headers=bearer, status=403, site="")
    program.ask("GET", "/api/account", headers=bearer, status=403, site="")
    assert made["key"] not in json.dumps(user.get("/api/keys"))
    as_user(browser, "doctor").ask("DELETE", f"/api/keys/{made['id']}", status=404)
    user.ask("DELETE", f"/api/keys/{made['id']}")
    program.ask("GET", "/dicom-web/studies", headers=bearer, status=401, site="")


def test_a_key_has_at_most_the_rights_of_its_user_now(browser: Open, hosting: Hosting) -> None:
    add_user(hosting, "service", "admin", "radiologist")
    user = as_user(browser, "service")
    made = user.ask("POST", "/api/keys", {"name": "k", "until": in_an_hour(), "roles": ["radiologist"]}, status=201)
    bearer = {"Authorization": f"Bearer {made['key']}"}
    program = browser()
    program.ask("GET", f"/dicom-web/studies/{STUDY}/metadata", headers=bearer, site="")
    program.ask("GET", "/api/log", headers=bearer, status=403, site="")
    users.change(hosting.engine.accounts.database, "service", roles=("admin",))
    program.ask("GET", f"/dicom-web/studies/{STUDY}/metadata", headers=bearer, status=403, site="")
    program.ask("GET", "/api/log", headers=bearer, status=403, site="")
    users.change(hosting.engine.accounts.database, "service", is_disabled=True)
    program.ask("GET", f"/dicom-web/studies/{STUDY}/metadata", headers=bearer, status=401, site="")


@pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
def test_a_key_ends_in_some_years_at_the_latest(until: str, browser: Open) -> None:
    as_user(browser, "full").ask("POST", "/api/keys", {"name": "k", "until": until}, status=400)


# Shares ------------------------------------------------------------------------------------------


def test_a_share_shows_one_study_and_nothing_else(browser: Open, hosting: Hosting) -> None:
    owner = as_user(browser, "doctor")
    made = owner.ask(
        "POST", "/api/shares", {"studies": [STUDY], "until": in_an_hour(), "recipient": "Dr. X"}, status=201
    )
    token = made["link"].rpartition("/s/")[2]
    assert len(token) >= 22 and token not in json.dumps(owner.get("/api/shares"))
    assert token.encode() not in (hosting.engine.config.data / "accounts" / "data.mdb").read_bytes()
    visitor = browser()
    visitor.get(f"/s/{token}", 303)
    assert visitor.headers["Location"].endswith(f"/#/s/{token}")
    facts = visitor.ask("POST", "/api/share-session", {"token": token})
    assert facts["share"]["studies"] == [STUDY] and sorted(facts["may"]) == ["query", "retrieve"]
    assert "filmroom-share=" in visitor.headers["Set-Cookie"] and facts["user"] is None
    assert seen(hosting, visitor) == [STUDY]
    visitor.get(f"/dicom-web/studies/{STUDY}/metadata")
    visitor.ask("DELETE", f"/dicom-web/studies/{STUDY}", status=403)
    for path in ("/api/users", "/api/log", "/api/settings", "/api/shares", "/metrics"):
        visitor.get(path, 403)
    visitor.get("/api/account", 403)
    visitor.get(f"/api/download?studies={STUDY}", 403)
    visitor.get(f"/dicom-web/studies/{STUDY}", 403)
    owner.ask("DELETE", f"/api/shares/{made['id']}")
    visitor.get("/dicom-web/studies", 401)
    browser().ask("POST", "/api/share-session", {"token": token}, status=404)


def test_a_share_may_have_a_password_a_number_of_uses_and_downloads(browser: Open) -> None:
    owner = as_user(browser, "full")
    body = {"studies": [STUDY], "until": in_an_hour(), "password": "secret7", "uses_max": 1, "may_download": True}
    made = owner.ask("POST", "/api/shares", body, status=201)
    token = made["link"].rpartition("/s/")[2]
    visitor = browser()
    assert visitor.ask("POST", "/api/share-session", {"token": token}, status=401)["needs_password"]
    visitor.ask("POST", "/api/share-session", {"token": token, "password": "other"}, status=401)
    visitor.ask("POST", "/api/share-session", {"token": token, "password": "secret7"})
    assert visitor.get(f"/api/download?studies={STUDY}")
    browser().ask("POST", "/api/share-session", {"token": token, "password": "secret7"}, status=404)
    visitor.get("/dicom-web/studies")
    assert owner.get("/api/shares")["shares"][0]["uses"] == 1
    as_user(browser, "doctor").ask("DELETE", f"/api/shares/{made['id']}", status=404)


def test_a_share_of_a_patient_has_all_studies_of_the_patient(browser: Open, hosting: Hosting) -> None:
    body = {"patient": {"id": "P1"}, "until": in_an_hour()}
    made = as_user(browser, "doctor").ask("POST", "/api/shares", body, status=201)
    visitor = browser()
    visitor.ask("POST", "/api/share-session", {"token": made["link"].rpartition("/s/")[2]})
    assert seen(hosting, visitor) == [STUDY]


@pytest.mark.parametrize("token", ["", "x", "A" * 32, "\u202e", "../../etc"])
def test_a_guessed_token_opens_nothing(token: str, browser: Open) -> None:
    browser().ask("POST", "/api/share-session", {"token": token}, status=404)


def test_nobody_shares_what_they_do_not_see(browser: Open, hosting: Hosting) -> None:
    add_user(hosting, "sharing-referrer", "referrer", attributes={"referrer": ("NOBODY",)})
    referrer = as_user(browser, "sharing-referrer")
    referrer.ask("POST", "/api/shares", {"studies": [STUDY], "until": in_an_hour()}, status=403)
    doctor = as_user(browser, "doctor")
    doctor.ask("POST", "/api/shares", {"studies": ["1.2.3.404"], "until": in_an_hour()}, status=404)
    doctor.ask("POST", "/api/shares", {"studies": [], "until": in_an_hour()}, status=400)
    doctor.ask("POST", "/api/shares", {"studies": [STUDY], "until": "2020-01-01T00:00:00Z"}, status=400)


# Grants and emergencies --------------------------------------------------------------------------


def test_a_grant_shows_a_study_until_it_is_revoked(browser: Open, hosting: Hosting) -> None:
    admin, referrer = as_user(browser, "admin"), as_user(browser, "referrer")
    assert seen(hosting, referrer) == []
    grant = admin.ask(
        "POST", "/api/grants", {"name": "Referrer", "studies": [STUDY], "reason": "second opinion"}, status=201
    )
    assert seen(hosting, referrer) == [STUDY]
    assert [row["id"] for row in referrer.get("/api/grants")["grants"]] == [grant["id"]]
    referrer.ask("DELETE", f"/api/grants/{grant['id']}", status=404)
    admin.ask("DELETE", f"/api/grants/{grant['id']}")
    assert seen(hosting, referrer) == []
    by_role = admin.ask("POST", "/api/grants", {"to": "role", "name": "referrer", "patient": {"id": "P2"}}, status=201)
    assert seen(hosting, referrer) == [OTHER]
    admin.ask("DELETE", f"/api/grants/{by_role['id']}")


def test_an_emergency_access_needs_a_reason_ends_and_is_reviewed(browser: Open, hosting: Hosting) -> None:
    add_user(hosting, "night", "referrer", "emergency")
    add_user(hosting, "auditor", "auditor")
    night, auditor = as_user(browser, "night"), as_user(browser, "auditor")
    night.ask("POST", "/api/break-glass", {"study": STUDY, "reason": ""}, status=400)
    night.ask("POST", "/api/break-glass", {"study": STUDY, "reason": "    x    "}, status=400)
    night.ask("POST", "/api/break-glass", {"reason": "unconscious patient"}, status=400)
    night.ask("POST", "/api/break-glass", {"study": STUDY, "reason": "unconscious patient", "hours": 9}, status=400)
    assert seen(hosting, night) == []
    made = night.ask("POST", "/api/break-glass", {"study": STUDY, "reason": "unconscious patient"}, status=201)
    assert seen(hosting, night) == [STUDY]
    until = datetime.fromisoformat(made["until"])
    assert timedelta(minutes=50) < until - datetime.now(UTC) <= timedelta(hours=1)
    (row,) = auditor.get("/api/grants?emergency=true")["grants"]
    assert (row["reason"], row["reviewed_by"], row["is_break_glass"]) == ("unconscious patient", "", True)
    auditor.ask("POST", f"/api/grants/{row['id']}/review", {})
    night.ask("DELETE", f"/api/grants/{made['id']}")
    assert seen(hosting, night) == []
    (row,) = auditor.get("/api/grants?emergency=true")["grants"]
    assert row["reviewed_by"] == "http:auditor" and row["until"] <= datetime.now(UTC).isoformat(timespec="seconds")
    as_user(browser, "referrer").ask("POST", "/api/break-glass", {"study": STUDY, "reason": "curiosity"}, status=403)
