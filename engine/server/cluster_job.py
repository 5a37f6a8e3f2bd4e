"""The caretaker's job for an archive of several nodes: two threads of its own, begun here, as for the object store.

    follow    applies what the other nodes announce (`archive.nodes.follower`), as soon as PostgreSQL tells of it
    beat      three signs of life in the term of this node's lease

What this node announces is announced by who ships to the bucket (`object_store_job`), with the same `NodeLog`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine import __version__, guards, log
from engine.archive.archive import Archive
from engine.archive.nodes.follower import Follower
from engine.archive.nodes.membership import Membership
from engine.config import Config
from engine.errors import EngineError, Fenced, for_log

logger = log.get("server.cluster")

NOTHING_TO_DO_S = 3600.0
WAIT_S = 1.0
"""The longest wait for news; then the chains are read all the same."""
PAUSE_S = 0.5
"""The pause after an error."""
DEFECT_PAUSE_S = 5.0
FOLLOW, BEAT = "follow", "beat"
BEATS_A_TERM = 3
TRIM_EVERY_BEATS = 20


class ClusterJob:
    """Follows the other nodes while the caretaker runs."""

    name = "cluster"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._stopping = stopping
        self._membership = archive.membership
        self._following = threading.Lock()
        self._beating = threading.Lock()
        """Apart, since a step may wait for the bucket for as long as the term of the lease."""
        self._is_released = False
        self._state = "starting"
        self._faults: dict[str, str] = {}
        """What each thread fails at now."""
        self._clock_offset_s: float | None = None
        self._applied = 0
        self._behind: dict[int, int] = {}
        self._errors: dict[int, str] = {}
        if self._membership is not None:
            membership = self._membership
            membership.log.software = __version__
            guards.start("cluster-follow", lambda: self._keep(FOLLOW, lambda: self._follow(membership)))
            guards.start("cluster-beat", lambda: self._keep(BEAT, lambda: self._beat(membership)))

    def configure(self, config: Config) -> None:
        """Nothing can change while the server runs."""

    def step(self) -> float:
        """Nothing: the threads work by themselves."""
        return NOTHING_TO_DO_S

    def stats(self) -> dict[str, object]:
        """This node's part, and how far it has followed the others."""
        if self._membership is None:
            return {"enabled": False}
        return {
            "enabled": True,
            "node": self._membership.settings.node,
            "slot": self._membership.slot,
            "state": self._state,
            "error": "; ".join(filter(None, map(self._faults.get, (BEAT, FOLLOW)))),
            "clock_offset_s": self._clock_offset_s,
            "applied_groups": self._applied,
            "behind_groups": {str(slot): count for slot, count in self._behind.items() if count},
            "stopped": {str(slot): reason for slot, reason in self._errors.items()},
        }

    def close(self) -> None:
        """Lets the archive be closed: the threads use it no more."""
        with self._following, self._beating:
            self._is_released = True
        if self._membership is not None:
            self._membership.close()

    # -- the threads ----------------------------------------------------------------------------

    def _keep(self, thread: str, work: Callable[[], None]) -> None:
        """Begins again after a defect: a node must not be blind or silent until somebody restarts it."""
        while not self._stopping.is_set():
            try:
                work()
                return
            except Exception as error:
                guards.log_failure(f"cluster-{thread}", error)
                self._faults[thread] = f"a defect, {type(error).__name__}: its place is in the log"
                self._stopping.wait(DEFECT_PAUSE_S)

    def _follow(self, membership: Membership) -> None:
        follower: Follower | None = None
        has_mended = False
        try:
            wake = membership.cluster.wake()  # connects when it waits
        except EngineError as error:
            self._note_error(FOLLOW, "the other nodes cannot be followed", error)
            return
        while not self._stopping.is_set():
            try:
                chains = membership.cluster.chains
                with self._following:
                    if self._is_released:
                        return
                    follower = follower or Follower.of(self._archive)
                    if not has_mended:
                        follower.mend(chains)
                        has_mended = True
                    self._applied += follower.step(chains)
                    self._behind = follower.behind
                    self._errors = dict(follower.errors)
                self._faults.pop(FOLLOW, None)
                wake.wait(PAUSE_S if follower.errors else WAIT_S)
            except EngineError as error:
                if not self._stopping.is_set():
                    self._note_error(FOLLOW, "the other nodes cannot be followed", error)
                    self._stopping.wait(PAUSE_S)
        wake.close()

    def _beat(self, membership: Membership) -> None:
        beats = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                with self._beating:
                    if self._is_released:
                        return
                    applied = self._archive.applied_of_nodes()
                sign = membership.log.beat(applied)
                self._note_state(sign.state)
                self._clock_offset_s = sign.clock_offset_s
                if sign.is_clock_wrong:
                    self._faults[BEAT] = f"this machine's clock is {sign.clock_offset_s:+.1f} s off PostgreSQL's"
                beats += 1
                if beats % TRIM_EVERY_BEATS == 0:
                    membership.cluster.chains.trim(membership.slot)
                    membership.cluster.database.look()
            except Fenced as error:
                self._state, self._faults[BEAT] = "fenced", str(error)
                logger.error("this node is no member of the cluster any more", reason=for_log(error))
                return
            except EngineError as error:
                self._note_error(BEAT, "this node gives no sign of life", error)
            pause_s = membership.settings.lease_s / BEATS_A_TERM
            self._stopping.wait(max(0.1, pause_s - (time.monotonic() - began_s)))

    def _note_state(self, state: str) -> None:
        if self._state != state:
            logger.info("the state of this node", state=state)
        self._state = state
        self._faults.pop(BEAT, None)

    def _note_error(self, thread: str, what: str, error: EngineError) -> None:
        if self._faults.get(thread) != str(error):
            logger.error(what, reason=for_log(error))
        self._faults[thread] = str(error)
