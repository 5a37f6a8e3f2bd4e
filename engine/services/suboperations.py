"""The data of sub-operations that senders and counters share: the queue of instances, the originator, the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.index.format.types import Instance

SENT_WITH_FAILURE = 0xA700
"""The status of an instance that could not be sent; it never appears on the wire."""


@dataclass(frozen=True, slots=True)
class Originator:
    """The originator of a C-MOVE's sub-operations (PS3.7 9.1.1.1)."""

    ae_title: str = ""
    message_id: int | None = None
    priority: int = 0


@dataclass(slots=True)
class SendResult:
    """The result of one instance: the peer's status, or the error that kept it from being sent."""

    instance: Instance
    status: int
    error: EngineError | None = None


class InstanceQueue:
    """A queue of instances to send, which ends when `is_wanted` returns False; tracks the instances in progress."""

    def __init__(self, is_wanted: Callable[[], bool], instances: list[Instance]) -> None:
        self._is_wanted = is_wanted
        self._todo = list(reversed(instances))
        self._in_progress: dict[str, Instance] = {}

    def __iter__(self) -> InstanceQueue:
        return self

    def __next__(self) -> Instance:
        if not self._todo or not self._is_wanted():
            raise StopIteration
        instance = self._todo.pop()
        self._in_progress[instance.sop_instance_uid] = instance
        return instance

    def take(self, count: int) -> list[Instance]:
        """The next instances, `count` at most; fewer only at the end of the queue."""
        if not self._is_wanted():
            return []
        instances = self._todo[: -count - 1 : -1]
        del self._todo[len(self._todo) - len(instances) :]
        self._in_progress.update((instance.sop_instance_uid, instance) for instance in instances)
        return instances

    def put_back(self, instance: Instance) -> None:
        """Returns an instance that was not sent; it comes next again."""
        self._in_progress.pop(instance.sop_instance_uid, None)
        self._todo.append(instance)

    def remove(self, results: Iterable[SendResult]) -> None:
        """Removes instances that have a result."""
        for result in results:
            self._in_progress.pop(result.instance.sop_instance_uid, None)

    def in_progress(self) -> list[Instance]:
        """Instances that were taken and have no result."""
        return list(self._in_progress.values())

    def remaining(self) -> list[Instance]:
        """Instances that were not taken yet, in order."""
        return list(reversed(self._todo))
