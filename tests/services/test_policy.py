"""engine.services.policy: what a calling AE title may negotiate, and which options its queries have."""

from __future__ import annotations

import pytest

from engine.config import Config, Peer, Queries
from engine.services.policy import accept_policy, query_options

ALL = frozenset({"relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values"})


@pytest.mark.parametrize(
    ("agreed", "options"),
    [
        (b"", set()),
        (b"\0", set()),
        (b"\1", {"relational"}),
        (b"\0\1", {"date-time"}),
        (b"\0\0\1", {"fuzzy"}),
        (b"\0\0\0\1", {"timezone"}),
        (b"\0\0\0\0\1", set()),
        (b"\0\0\0\0\0\1", {"empty-values"}),
        (b"\0\0\0\0\0\0\1", {"multiple-values"}),
        (b"\1\1\1\1\1\1\1\1\1", ALL),
        (b"\2", set()),
    ],
)
def test_each_byte_of_the_negotiated_item_is_one_option(agreed: bytes, options: set[str]) -> None:
    assert query_options(Config(), "ANY", agreed) == options


def test_what_is_configured_holds_beside_what_is_negotiated() -> None:
    config = Config(query=Queries(options=("relational",)), peers=(Peer(aet="LITERAL", query_options=()),))
    assert query_options(config, "ANY", b"\0\0\1") == {"relational", "fuzzy"}
    assert query_options(config, "LITERAL", b"\0\0\1") == {"fuzzy"}
    assert query_options(config, "LITERAL", b"") == set()


def test_who_may_only_store_gets_neither_query_nor_retrieval() -> None:
    config = Config(peers=(Peer(aet="CT1", may=("store",)), Peer(aet="ASKER", may=("query",))))
    model = "1.2.840.10008.5.1.4.1.2."
    served = {
        title: {uid.removeprefix(model) for uid in accept_policy(config, title).services if uid.startswith(model)}
        for title in ("CT1", "ASKER", "ANYBODY")
    }
    assert served == {
        "CT1": set(),
        "ASKER": {"1.1", "2.1", "3.1"},
        "ANYBODY": {f"{root}.{operation}" for root in (1, 2, 3) for operation in (1, 2, 3)},
    }
