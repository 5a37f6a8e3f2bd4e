"""One job: what is to be done, how far it is, and what went wrong.

waiting ──► running ──► done         everything went well
   ▲           │
   │           ├──────► failed       something did not; `failed` names it, and a retry does only that
   │           ├──────► waiting      the peer cannot be reached: again after a while, a few times, then failed
   └── retry ──┴──────► cancelled    whoever wanted it does not any more
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

NAMED_MAX = 1000
"""Failed instances that are named; further ones are counted."""


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job is about."""

    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    filters: dict[str, str] = {}
    """Of a pull: keyword → value that studies must have."""
    limit: int | None = None
    """Of a pull: studies at most."""
    again: bool = False
    """Of a pull: also what is here."""


class Job(msgspec.Struct, kw_only=True):
    """One job, as its file has it."""

    id: str
    kind: str
    peer: str
    """The AE title."""
    work: Work
    by: str
    """Who asked for it, as it is recorded of whatever it does."""
    reason: str = ""
    state: str = WAITING
    created_ns: int
    started_ns: int = 0
    ended_ns: int = 0
    due_ns: int = 0
    """When it is tried again; 0: as soon as there is room."""
    attempts: int = 0
    """That have failed in a row."""
    total: int = 0
    """Instances, as far as that is known."""
    completed: int = 0
    bytes: int = 0
    failed_count: int = 0
    failed: dict[str, str] = {}
    """SOP Instance UID → reason."""
    remarks: list[str] = []
    error: str = ""
    """Why the last attempt ended early; "" when it did not."""

    def begin(self) -> None:
        """Forgets what the attempt before has said."""
        self.failed_count, self.failed, self.remarks, self.error = 0, {}, [], ""

    def fail(self, sop_instance_uid: str, why: str) -> None:
        """One instance did not go through."""
        self.failed_count += 1
        if len(self.failed) < NAMED_MAX:
            self.failed[sop_instance_uid] = why
