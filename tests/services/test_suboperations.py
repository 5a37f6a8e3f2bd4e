"""InstanceQueue: gives instances in order, one by one or several at once; an instance that is put back comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from engine.index.format.types import Instance
from engine.services.suboperations import InstanceQueue, SendResult


@dataclass
class FakeInstance:
    sop_instance_uid: str


ALL = [cast(Instance, FakeInstance(f"1.{number}")) for number in range(6)]


def test_instances_keep_their_order_and_returned_ones_come_next() -> None:
    queue = InstanceQueue(lambda: True, ALL)
    assert queue.take(2) == ALL[:2]
    assert next(queue) is ALL[2]
    taken = queue.take(2)
    for each in reversed(taken):
        queue.put_back(each)
    assert queue.remaining() == ALL[3:]
    assert queue.take(0) == []
    assert queue.take(100) == ALL[3:]
    queue.remove([SendResult(ALL[1], 0)])
    assert queue.in_progress() == [ALL[0], *ALL[2:]]
    assert (queue.remaining(), queue.take(5), next(queue, None)) == ([], [], None)


def test_unneeded_instances_are_left_out() -> None:
    queue = InstanceQueue(lambda: False, ALL)
    assert (queue.take(3), next(queue, None), queue.remaining()) == ([], None, ALL)
