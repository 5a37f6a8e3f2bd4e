"""What the senders of stored instances share with who counts them: the instances, their originator, their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.index.format.types import Instance

SENT_WITH_FAILURE = 0xA700
"""Not a status on the wire: what a sender notes for an instance that it could not send."""


@dataclass(frozen=True, slots=True)
class Originator:
    """What sub-operations of a C-MOVE carry (PS3.7 9.1.1.1)."""

    ae_title: str = ""
    message_id: int | None = None
    priority: int = 0


@dataclass(slots=True)
class Sent:
    """What became of one instance: the peer's status, or why it was not sent."""

    instance: Instance
    status: int
    error: EngineError | None = None


class Source:
    """Gives out instances one by one, and stops when they are not wanted any more; knows which are under way."""

    def __init__(self, is_wanted: Callable[[], bool], instances: list[Instance]) -> None:
        self._is_wanted = is_wanted
        self._todo = list(reversed(instances))
        self._under_way: dict[str, Instance] = {}

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Instance:
        if not self._todo or not self._is_wanted():
            raise StopIteration
        instance = self._todo.pop()
        self._under_way[instance.sop_instance_uid] = instance
        return instance

    def take(self, count: int) -> list[Instance]:
        """The next ones, `count` at most; fewer: there are no more, or they are not wanted."""
        if not self._is_wanted():
            return []
        taken = self._todo[: -count - 1 : -1]
        del self._todo[len(self._todo) - len(taken) :]
        self._under_way.update((instance.sop_instance_uid, instance) for instance in taken)
        return taken

    def put_back(self, instance: Instance) -> None:
        """It has not been sent, and comes next again."""
        self._under_way.pop(instance.sop_instance_uid, None)
        self._todo.append(instance)

    def ended(self, results: Iterable[Sent]) -> None:
        """These have their results."""
        for result in results:
            self._under_way.pop(result.instance.sop_instance_uid, None)

    def under_way(self) -> list[Instance]:
        """Given out and without a result."""
        return list(self._under_way.values())

    def left(self) -> list[Instance]:
        """Not given out yet, in order."""
        return list(reversed(self._todo))
