"""engine.access: what the configuration lets a peer do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from engine.access import FULL, NOTHING, Action, Decision, Destination, Kind, Policy, Principal
from engine.accounts import users
from engine.accounts.accounts import Accounts
from engine.accounts.records import User
from engine.config import Config, Peer, Permission

WS1 = Peer(aet="WS1", host="ws1", port=104)
WEB = Peer(aet="WEB", url="http://web/dicom-web")
WS2 = Peer(aet="WS2", host="ws2", port=104)


def decision(config: Config, title: str, action: Action, destination: str = "", address: str = "127.0.0.1") -> Decision:
    rules = Policy(lambda: config)
    target = (Destination(destination),) if destination else ()
    return rules.allowed(Principal(Kind.PEER, title, address), action, *target)


def granted(config: Config, title: str, address: str = "127.0.0.1") -> set[Action]:
    return {action for action in Action if decision(config, title, action, address=address)}


@pytest.mark.parametrize(
    ("may", "actions"),
    [
        ((), set()),
        (("store",), {Action.STORE, Action.COMMIT}),
        (("query",), {Action.QUERY}),
        (("retrieve",), {Action.RETRIEVE, Action.SEND}),
        (("worklist",), {Action.WORKLIST}),
        (("workitem",), {Action.WORKITEM}),
        (("destination",), set()),
    ],
)
def test_a_peer_may_do_what_its_entry_allows_and_always_call(may: tuple[Permission, ...], actions: set[Action]) -> None:
    config = Config(peers=(Peer(aet="CT1", may=may),), accept_unknown_peers=False)
    assert granted(config, "CT1") == {Action.ASSOCIATE, *actions}


@pytest.mark.parametrize(
    ("names", "address", "why"),
    [
        ({"san:ct1.hosp"}, "10.0.0.7", ""),
        ({"san:ct2.hosp"}, "10.0.0.7", "certificate"),
        (set(), "10.0.0.7", "certificate"),
        (None, "10.0.0.7", "without TLS"),
        ({"san:ct1.hosp"}, "10.0.1.7", "networks"),
    ],
)
def test_a_title_is_its_peers_by_certificate_network_and_tls_and_all_else_is_alarming(
    names: set[str] | None, address: str, why: str
) -> None:
    peer = Peer(aet="CT1", tls="required", certificates=("san:ct1.hosp",), networks=("10.0.0.0/24",))
    certificate_names = None if names is None else frozenset(names)
    principal = Principal(Kind.PEER, "CT1", address, certificate_names=certificate_names)
    found = Policy(lambda: Config(peers=(peer,))).allowed(principal, Action.ASSOCIATE)
    assert (bool(found), found.is_alarming) == (not why, bool(why))
    assert why in found.reason


PEERS_ACTIONS = {Action.ASSOCIATE, Action.STORE, Action.COMMIT, Action.QUERY, Action.RETRIEVE, Action.SEND}
PEERS_ACTIONS |= {Action.WORKLIST, Action.WORKITEM}


@pytest.mark.parametrize(
    ("setting", "here", "elsewhere"),
    [
        ("loopback", PEERS_ACTIONS, set()),
        (True, PEERS_ACTIONS, PEERS_ACTIONS),
        (False, set(), set()),
    ],
)
def test_unknown_titles_may_do_what_peers_may_from_the_addresses_that_are_accepted(
    setting: bool | Literal["loopback"], here: set[Action], elsewhere: set[Action]
) -> None:
    config = Config(accept_unknown_peers=setting, peers=(WS1,))
    for address in ("127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"):
        assert granted(config, "X", address) == here
    for address in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", ""):
        assert granted(config, "X", address) == elsewhere
        assert granted(config, "WS1", address) == PEERS_ACTIONS


def test_unknown_titles_are_accepted_from_this_machine_only_by_default() -> None:
    assert granted(Config(), "X") == PEERS_ACTIONS
    refusal = decision(Config(), "X", Action.ASSOCIATE, address="10.0.0.1")
    assert not refusal and "add one" in refusal.reason


def test_instances_are_sent_only_to_a_known_allowed_peer_with_an_address() -> None:
    config = Config(
        peers=(
            WS1,
            WEB,
            Peer(aet="NOWHERE"),
            Peer(aet="ARCHIVE", host="a", port=104, may=("store", "query", "retrieve")),
        )
    )
    reasons = {
        title: decision(config, "X", Action.SEND, title).reason
        for title in ("WS1", "WEB", "NOWHERE", "ARCHIVE", "OTHER")
    }
    assert reasons == {
        "WS1": "",
        "WEB": "",
        "NOWHERE": "a destination without host and port, and without a url",
        "ARCHIVE": "a peer that may not be a destination",
        "OTHER": "an unknown destination",
    }


def test_a_peer_with_its_own_destinations_sends_only_to_these() -> None:
    ward = Peer(aet="WARD", destinations=("WS1",))
    nowhere = Peer(aet="NOWHERE", destinations=())
    config = Config(peers=(WS1, WS2, ward, nowhere))
    sendable = {
        title: [to for to in ("WS1", "WS2") if decision(config, title, Action.SEND, to)]
        for title in ("WARD", "NOWHERE", "WS1", "X")
    }
    assert sendable == {"WARD": ["WS1"], "NOWHERE": [], "WS1": ["WS1", "WS2"], "X": ["WS1", "WS2"]}


@pytest.mark.parametrize("came", ["RÖNTGEN", "RÃ\x96NTGEN"])
def test_titles_beyond_ascii_are_recognised_as_received(came: str) -> None:
    config = Config(
        peers=(
            Peer(aet="RÖNTGEN", host="r", port=104, may=("store", "destination")),
            Peer(aet="WARD", destinations=("RÖNTGEN",)),
        )
    )
    assert decision(config, came, Action.STORE)
    assert not decision(config, came, Action.QUERY)
    assert decision(config, "WARD", Action.SEND, came)


def test_a_decision_follows_the_configuration_in_force() -> None:
    config = Config(peers=(Peer(aet="CT1", may=("store",)),))
    rules, principal = Policy(lambda: config), Principal(Kind.PEER, "CT1")
    assert not rules.allowed(principal, Action.QUERY)
    config = Config(peers=(Peer(aet="CT1", may=("query",)),))
    assert rules.allowed(principal, Action.QUERY)


def test_an_operator_may_do_everything() -> None:
    config = Config(accept_unknown_peers=False)
    operator = Principal(Kind.OPERATOR, "anna")
    assert all(Policy(lambda: config).allowed(operator, action) for action in Action)
    assert Policy(lambda: config).allowed(operator, Action.SEND, Destination("ANYWHERE"))
    assert (operator.actor, Principal(Kind.PEER, "CT1").actor) == ("cli:anna", "CT1")


# HTTP clients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("", False),
        ("nonsense", False),
        ("fe80::1%eth0", False),
    ],
)
def test_an_http_client_may_do_everything_or_nothing_depending_on_its_address(address: str, is_allowed: bool) -> None:
    rules = Policy(Config)
    client = Principal(Kind.HTTP, "", address)
    assert {bool(rules.allowed(client, action)) for action in Action} == {is_allowed}
    assert client.actor == f"http:{address}"


def test_a_client_has_instances_sent_to_known_destinations_only() -> None:
    rules = Policy(lambda: Config(peers=(WS1,)))
    client = Principal(Kind.HTTP, "", "127.0.0.1")
    assert rules.allowed(client, Action.SEND, Destination("WS1"))
    assert not rules.allowed(client, Action.SEND, Destination("OTHER"))


def test_the_requester_of_a_job_reaches_what_the_rights_in_force_allow(tmp_path: Path) -> None:
    accounts = Accounts.open(tmp_path, Config)
    users.add(accounts.database, User(name="anna", roles=("radiologist",)))
    users.add(accounts.database, User(name="rita", roles=("researcher",)))
    rules = Policy(Config, accounts.directory)
    assert rules.scope_of_actor("http:anna", Action.SEND) is FULL
    assert rules.scope_of_actor("http:rita", Action.SEND) is NOTHING, "her role may not send"
    assert rules.scope_of_actor("http:nobody", Action.SEND) is NOTHING
    for actor in ("cli:anna", "http:10.0.0.1", "http:fe80::1%eth0"):
        assert rules.scope_of_actor(actor, Action.SEND) is FULL
    users.change(accounts.database, "anna", roles=())
    assert rules.scope_of_actor("http:anna", Action.SEND) is NOTHING
    users.change(accounts.database, "anna", roles=("radiologist",), is_disabled=True)
    assert rules.scope_of_actor("http:anna", Action.SEND) is NOTHING
    accounts.close()
