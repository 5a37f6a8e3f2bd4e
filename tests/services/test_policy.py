"""engine.services.policy: what a peer may negotiate."""

from __future__ import annotations

from engine.access import Kind, Policy, Principal
from engine.config import Config, Peer
from engine.services.policy import accept_policy
from engine.ul.negotiation import AcceptPolicy

MODEL = "1.2.840.10008.5.1.4.1.2."
CONFIG = Config(peers=(Peer(aet="CT1", may=("store",)), Peer(aet="ASKER", may=("query",)), Peer(aet="WS", may=())))


def policy_of(title: str, config: Config = CONFIG) -> AcceptPolicy:
    return accept_policy(config, Policy(lambda: config), Principal(Kind.PEER, title, "127.0.0.1"))


def test_a_peer_that_may_only_store_gets_neither_query_nor_retrieval() -> None:
    served = {
        title: {uid.removeprefix(MODEL) for uid in policy_of(title).services if uid.startswith(MODEL)}
        for title in ("CT1", "ASKER", "ANYBODY")
    }
    assert served == {
        "CT1": set(),
        "ASKER": {"1.1", "2.1", "3.1"},
        "ANYBODY": {f"{root}.{operation}" for root in (1, 2, 3) for operation in (1, 2, 3)},
    }


def test_storage_is_negotiated_with_peers_that_may_store_or_retrieve() -> None:
    fetcher = Config(peers=(Peer(aet="FETCHER", may=("retrieve",)),))
    assert policy_of("CT1").accept_storage
    assert policy_of("FETCHER", fetcher).accept_storage
    assert not policy_of("ASKER").accept_storage


def test_any_allowed_peer_may_verify_and_commitment_needs_storage() -> None:
    verification, commitment = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
    assert set(policy_of("WS").services) == {verification}
    assert commitment in policy_of("CT1").services
    assert commitment not in policy_of("ASKER").services


def test_the_own_settings_of_a_peer_are_negotiated() -> None:
    own = Config(peers=(Peer(aet="SLOW", pdu_length_max=16384, asynchronous_window=1, prefer_compressed=True),))
    slow, other = policy_of("SLOW", own), policy_of("OTHER", own)
    assert (slow.maximum_length, slow.asynchronous, slow.prefer_compressed) == (16384, False, True)
    assert (other.maximum_length, other.asynchronous, other.prefer_compressed) == (131072, True, False)
