"""One job: its work, its progress, and its failures.

waiting ──► running ──► done         everything has succeeded
   ▲           │
   │           ├──────► failed       something has failed; `failed` names it, and a retry does only that
   │           ├──────► waiting      the peer cannot be reached: tried again later, a few times, then failed
   └── retry ──┴──────► cancelled    a user has cancelled it
"""

from __future__ import annotations

import msgspec

WAITING = "waiting"
RUNNING = "running"
DONE = "done"
FAILED = "failed"
CANCELLED = "cancelled"
ENDED = frozenset((DONE, FAILED, CANCELLED))

SEND = "send"
PULL = "pull"

ROUTE = "route"
"""Begins the actor of a job that a route has created; its name follows after a colon."""
RULE = "rule"
"""The same for a rule."""

NAMED_MAX = 1000
"""The most failed instances that are named; further ones are counted."""


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The work of a job."""

    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    filters: dict[str, str] = {}
    """For a pull: keyword → value that studies must have."""
    limit: int | None = None
    """For a pull: the most studies."""
    again: bool = False
    """For a pull: also instances that are stored here."""


class Job(msgspec.Struct, kw_only=True):
    """One job, with the fields of its file."""

    id: str
    kind: str
    peer: str
    """The AE title."""
    work: Work
    by: str
    """Who requested it: the actor of everything that it does."""
    reason: str = ""
    state: str = WAITING
    created_ns: int
    started_ns: int = 0
    ended_ns: int = 0
    due_ns: int = 0
    """Time of the next attempt; 0: as soon as possible."""
    attempts: int = 0
    """Number of failed attempts in a row."""
    total: int = 0
    """Number of instances, if known."""
    completed: int = 0
    bytes: int = 0
    failed_count: int = 0
    failed: dict[str, str] = {}
    """SOP Instance UID → reason."""
    remarks: list[str] = []
    error: str = ""
    """Why the last attempt ended early; "" if it did not."""

    def begin(self) -> None:
        """Clears the results of the previous attempt."""
        self.failed_count, self.failed, self.remarks, self.error = 0, {}, [], ""

    def fail(self, sop_instance_uid: str, reason: str) -> None:
        """Records a failed instance."""
        self.failed_count += 1
        if len(self.failed) < NAMED_MAX:
            self.failed[sop_instance_uid] = reason
