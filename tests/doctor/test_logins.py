"""filmroom doctor --security: who can come in over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.accounts import database, users
from engine.accounts.records import User
from engine.config import Config, Http
from engine.doctor import logins
from engine.doctor.finding import Finding, Verdict
from engine.identity.settings import Oidc
from tests.identity.small_provider import SmallProvider, small_provider

HASH = "$argon2id$"


def findings(config: Config, *present: User) -> list[Finding]:
    return list(logins.examine(config, present))


def user(name: str, *roles: str, **more: Any) -> User:
    return User(name=name, roles=roles, **{"password": HASH, **more})


@pytest.mark.parametrize(
    ("http", "present", "verdict"),
    [
        (Http(), (), Verdict.GOOD),
        (Http(allow=("10.0.0.0/8",)), (), Verdict.FAULT),
        (Http(allow=("10.0.0.0/8",)), (user("anna"),), Verdict.GOOD),
        (Http(allow=("10.0.0.0/8",), login="required"), (), Verdict.GOOD),
        (Http(allow=("10.0.0.0/8",), login="off"), (user("anna"),), Verdict.FAULT),
        (Http(login="off"), (user("anna"),), Verdict.GOOD),
    ],
)
def test_a_port_that_is_open_without_a_login_is_a_fault(
    http: Http, present: tuple[User, ...], verdict: Verdict
) -> None:
    (finding,) = findings(Config(http=http), *present)
    assert finding.verdict is verdict


def test_administrators_without_a_second_factor_are_named() -> None:
    several = (
        user("anna", "admin"),
        user("bert", "radiologist"),
        user("carl", "full", totp_secret="JBSWY3DP"),
        user("dora", "full"),
        user("emil", "admin", is_disabled=True),
        user("fred", "admin", password="", source="hospital"),
    )
    problems = [each for each in findings(Config(), *several) if each.verdict is not Verdict.GOOD]
    (problem,) = problems
    assert problem.verdict is Verdict.WARNING and problem.what.endswith(": anna, dora")


def test_users_are_read_from_the_archives_folder(tmp_path: Path) -> None:
    config = Config(data=tmp_path)
    assert logins.users_of(config) == []
    accounts = database.Database(tmp_path / database.FOLDER)
    users.add(accounts, user("anna", "admin"))
    accounts.close()
    assert [each.name for each in logins.users_of(config)] == ["anna"]
    assert "anna" in list(logins.examine(config, None))[-1].what
    (tmp_path / database.FOLDER / database.FILE).write_bytes(b"no database")
    assert next(iter(logins.examine(config, None))).verdict is Verdict.FAULT


def provider_finding(small: SmallProvider, **more: Any) -> Finding:
    settings: dict[str, Any] = {"name": "hospital", "issuer": small.issuer, "client_id": "filmroom", **more}
    return findings(Config(oidc=(Oidc(**settings),)))[-1]


def test_an_identity_provider_that_cannot_be_asked_is_a_fault() -> None:
    with small_provider() as small:
        assert provider_finding(small).verdict is Verdict.GOOD
        small.published = []
        assert "none of its keys" in provider_finding(small).what
        assert provider_finding(small, audiences=("account",)).verdict is Verdict.WARNING
        small.is_down = True
        assert provider_finding(small).verdict is Verdict.FAULT
    assert provider_finding(small).verdict is Verdict.FAULT
