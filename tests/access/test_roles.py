"""engine.access: what roles, grants and the roles of peers let through."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import pytest

from engine.access import FULL, NOTHING, Action, Grant, Holder, Kind, Patient, Policy, Principal
from engine.access.role_settings import BUILT_IN_ROLES, StudyRule
from engine.access.scope import AccessFacts, Attribute, OfPatients, OneOfStudies, normalized, scope_of
from engine.config import Config, Peer, Role

TODAY = date(2026, 11, 30)
NOW_S = 1_000_000.0
ANNA = Principal(Kind.HTTP, "anna", "10.0.0.1", session="s1")


class People:
    """A directory of one user."""

    def __init__(self, *roles: str, grants: tuple[Grant, ...] = (), is_valid: bool = True, **attributes: str) -> None:
        self.roles, self.grants, self.valid = frozenset(roles), grants, is_valid
        self.attributes = {name: (value,) for name, value in attributes.items()}

    def is_valid(self, principal: Principal) -> bool:
        return self.valid and bool(principal.session)

    def roles_of(self, principal: Principal) -> frozenset[str]:
        return self.roles

    def actions_of(self, principal: Principal) -> frozenset[str] | None:
        return None

    def grants_of(self, principal: Principal) -> tuple[Grant, ...]:
        return self.grants

    def attributes_of(self, principal: Principal) -> Mapping[str, tuple[str, ...]]:
        return self.attributes


def policy(people: People, *roles: Role) -> Policy:
    return Policy(lambda: Config(roles=roles), people, now_s=lambda: NOW_S)


def grant(*actions: Action, **fields: object) -> Grant:
    values: dict[str, object] = {"study_instance_uids": frozenset({"1.2.3"}), **fields}
    return Grant("g1", Holder.USER, "anna", frozenset(actions), **values)  # type: ignore[arg-type]


def study(referrer: str = "", department: str = "", study_date: date | None = None) -> AccessFacts:
    texts = {Attribute.REFERRER: referrer, Attribute.DEPARTMENT: department}
    return AccessFacts(
        "1.2.3",
        Patient("1"),
        {name: frozenset({normalized(text)}) for name, text in texts.items()},
        study_date,
    )


def test_an_administrator_sees_no_images_and_an_auditor_no_studies() -> None:
    admin, auditor = policy(People("admin")), policy(People("auditor"))
    assert admin.scope(ANNA, Action.QUERY) is FULL
    assert admin.scope(ANNA, Action.RETRIEVE) is NOTHING
    assert not admin.allowed(ANNA, Action.BREAK_GLASS)
    assert auditor.allowed(ANNA, Action.AUDIT)
    assert auditor.scope(ANNA, Action.QUERY) is NOTHING


def test_a_role_that_may_everything_may_everything() -> None:
    full = policy(People("full"))
    assert all(full.allowed(ANNA, action) and full.scope(ANNA, action) is FULL for action in Action)


def test_a_referrer_sees_the_studies_that_name_them_and_what_is_granted() -> None:
    scope = policy(People("referrer", referrer="DOE^JOHN")).scope(ANNA, Action.RETRIEVE)
    assert scope.admits(study("Doe^John"), TODAY)
    assert not scope.admits(study("Roe^Jane"), TODAY)
    granted = People("referrer", grants=(grant(Action.RETRIEVE),), referrer="*")
    assert policy(granted).scope(ANNA, Action.RETRIEVE).admits(study("Roe^Jane"), TODAY)
    assert not policy(granted).scope(ANNA, Action.QUERY).admits(study("Roe^Jane"), TODAY)


def test_a_technologist_sees_the_last_days_of_the_own_department() -> None:
    scope = policy(People("technologist", department="CT 1")).scope(ANNA, Action.QUERY)
    assert scope.admits(study(department="ct 1", study_date=date(2026, 11, 1)), TODAY)
    assert not scope.admits(study(department="ct 1", study_date=date(2026, 10, 1)), TODAY)
    assert not scope.admits(study(department="ct 2", study_date=date(2026, 11, 1)), TODAY)
    without_one = policy(People("technologist")).scope(ANNA, Action.QUERY)
    assert not without_one.admits(study(study_date=date(2026, 11, 1)), TODAY)


def test_several_roles_add_up_for_each_action_by_itself() -> None:
    both = policy(People("admin", "referrer", referrer="DOE^JOHN"))
    assert both.scope(ANNA, Action.QUERY) is FULL
    assert both.scope(ANNA, Action.RETRIEVE) is not FULL
    assert both.scope(ANNA, Action.RETRIEVE).admits(study("DOE^JOHN"), TODAY)


def test_a_configured_role_replaces_a_built_in_one_and_a_name_without_a_role_gives_nothing() -> None:
    narrow = Role(name="radiologist", may=("query",), studies=(StudyRule(department="CT*"),))
    scope = policy(People("radiologist"), narrow).scope(ANNA, Action.QUERY)
    assert scope is not FULL
    assert not policy(People("radiologist"), narrow).allowed(ANNA, Action.RETRIEVE)
    assert not policy(People("nonsense")).allowed(ANNA, Action.QUERY)
    assert policy(People("nonsense")).scope(ANNA, Action.QUERY) is NOTHING


def test_grants_end_and_a_share_has_nothing_else() -> None:
    share = Principal(Kind.HTTP, "", "10.0.0.1", session="t1", share="t1")
    patient = grant(Action.QUERY, study_instance_uids=frozenset(), patient=Patient("1", "X"), until_s=NOW_S + 1)
    ended = grant(Action.QUERY, Action.RETRIEVE, until_s=NOW_S)
    rules = policy(People(grants=(patient, ended, grant(Action.QUERY))))
    assert rules.scope(share, Action.QUERY) == scope_of(
        [frozenset({OneOfStudies(frozenset({"1.2.3"}))}), frozenset({OfPatients(frozenset({Patient("1", "X")}))})]
    )
    assert rules.scope(share, Action.RETRIEVE) is NOTHING
    assert not rules.allowed(share, Action.DELETE)


def test_a_role_without_studies_takes_no_grants() -> None:
    rules = policy(People("auditor", grants=(grant(Action.QUERY),)))
    assert rules.scope(ANNA, Action.QUERY) is NOTHING


def test_a_session_that_ended_may_nothing_whatever_its_roles() -> None:
    rules = policy(People("full", is_valid=False))
    assert not any(rules.allowed(ANNA, action) for action in Action)
    assert all(rules.scope(ANNA, action) is NOTHING for action in Action)


def test_changes_act_at_the_next_question() -> None:
    people = People("full")
    rules = policy(people)
    assert rules.scope(ANNA, Action.RETRIEVE) is FULL
    people.roles = frozenset()
    assert rules.scope(ANNA, Action.RETRIEVE) is NOTHING


def test_without_accounts_an_invented_session_is_worth_nothing() -> None:
    assert not Policy(Config).allowed(Principal(Kind.HTTP, "anna", "127.0.0.1", session="x"), Action.QUERY)


# Peers -------------------------------------------------------------------------------------------

WARD = Role(name="ward", may=("query", "retrieve"), studies=(StudyRule(department="Ward 3"),))


def peers(people: People | None = None, **of_peer: object) -> Policy:
    peer = Peer(aet="CT1", host="h", port=104, **of_peer)  # type: ignore[arg-type]
    return Policy(lambda: Config(peers=(peer,), roles=(WARD,)), people)


def test_the_role_of_a_peer_narrows_its_actions_and_studies() -> None:
    rules, caller = peers(role="ward"), Principal(Kind.PEER, "CT1", "10.0.0.1")
    assert rules.allowed(caller, Action.QUERY)
    assert not rules.allowed(caller, Action.STORE)
    assert not peers(role="ward", may=("store",)).allowed(caller, Action.QUERY)
    assert rules.scope(caller, Action.QUERY).admits(study(department="ward 3"), TODAY)
    assert not rules.scope(caller, Action.QUERY).admits(study(department="ward 4"), TODAY)
    assert rules.scope(caller, Action.STORE) is NOTHING
    assert peers().scope(caller, Action.QUERY) is FULL


def test_a_destination_receives_what_its_role_sees() -> None:
    assert peers().scope_of_destination("CT1") is FULL
    assert not peers(role="ward").scope_of_destination("CT1").admits(study(department="ward 4"), TODAY)
    assert peers(may=("query",)).scope_of_destination("CT1") is NOTHING
    assert peers().scope_of_destination("OTHER") is NOTHING


def test_a_user_of_an_association_may_what_the_peer_may_and_the_user() -> None:
    caller = Principal(Kind.PEER, "CT1", "10.0.0.1", session="s1", user="anna")
    rules = peers(People("referrer", referrer="DOE^JOHN"), role="ward")
    scope = rules.scope(caller, Action.QUERY)
    assert scope.admits(study("DOE^JOHN", "Ward 3"), TODAY)
    assert not scope.admits(study("DOE^JOHN", "Ward 4"), TODAY)
    assert not scope.admits(study("ROE^JANE", "Ward 3"), TODAY)
    assert not peers(People("referrer"), role="full").allowed(caller, Action.STORE)
    assert not peers(People("full", is_valid=False)).allowed(caller, Action.ASSOCIATE)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peers": (Peer(aet="CT1", role="nonsense"),)}, "the role nonsense, which is no"),
        ({"roles": (WARD, WARD)}, "two \\[\\[role\\]\\] have one name"),
    ],
)
def test_a_configuration_whose_roles_do_not_fit_is_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Config(**settings)  # type: ignore[arg-type]


def test_the_built_in_roles_are_those_that_the_documentation_names() -> None:
    assert [role.name for role in BUILT_IN_ROLES] == [
        "admin", "radiologist", "technologist", "referrer", "researcher", "service", "auditor", "full",
    ]  # fmt: skip
