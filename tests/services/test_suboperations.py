"""Source: in order, whether one by one or several at once; what is put back comes next again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from engine.index.format.types import Instance
from engine.services.suboperations import Sent, Source


@dataclass
class Named:
    sop_instance_uid: str


ALL = [cast(Instance, Named(f"1.{number}")) for number in range(6)]


def test_instances_come_in_order_and_what_is_put_back_comes_next() -> None:
    source = Source(lambda: True, ALL)
    assert source.take(2) == ALL[:2]
    assert next(source) is ALL[2]
    taken = source.take(2)
    for each in reversed(taken):
        source.put_back(each)
    assert source.left() == ALL[3:]
    assert source.take(0) == []
    assert source.take(100) == ALL[3:]
    source.ended([Sent(ALL[1], 0)])
    assert source.under_way() == [ALL[0], *ALL[2:]]
    assert (source.left(), source.take(5), next(source, None)) == ([], [], None)


def test_nothing_comes_that_is_not_wanted() -> None:
    source = Source(lambda: False, ALL)
    assert (source.take(3), next(source, None), source.left()) == ([], None, ALL)
