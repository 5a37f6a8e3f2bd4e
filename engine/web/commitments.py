"""Judges requests for storage commitment over HTTP, one at a time, in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final

from engine import guards
from engine.archive.commitment.judge import Judge
from engine.archive.commitment.requests import CommitmentRequest, CommitmentRequests
from engine.dicom import storage_classes

if TYPE_CHECKING:
    from engine.access import Scope
    from engine.runtime.engine import Engine

WAIT_S: Final = 2.0
"""How long a request waits for its result before the client is told to ask again."""


class Commitments:
    """The judge of one process, with the requests in progress."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = threading.Event()
        self._judge = Judge(engine.archive, self._is_supported, self._stopping)
        self._turn = asyncio.Lock()
        self._in_progress: dict[str, asyncio.Task[CommitmentRequest]] = {}
        self.requests: CommitmentRequests = engine.archive.commitment_requests()

    def _is_supported(self, sop_class_uid: str) -> bool:
        return storage_classes.is_stored(sop_class_uid, promiscuous=self._engine.config.promiscuous)

    async def judged(self, commitment: CommitmentRequest, scope: Scope) -> CommitmentRequest:
        """The request, with its result unless that takes longer than WAIT_S. `scope`: of who has requested it."""
        uid = commitment.transaction.transaction_uid
        task = self._in_progress.get(uid)
        if task is None:
            task = guards.watch(self._engine.loop.create_task(self._judged(commitment, scope)), "storage commitment")
            self._in_progress[uid] = task
            task.add_done_callback(lambda _: self._in_progress.pop(uid, None))
        done, _ = await asyncio.wait([task], timeout=WAIT_S)
        return task.result() if done else commitment

    async def _judged(self, commitment: CommitmentRequest, scope: Scope) -> CommitmentRequest:
        options = self._engine.config.commitment

        def judge() -> CommitmentRequest:
            verdicts = self._judge.verdicts(
                commitment.transaction.references,
                scope=scope,
                verify=options.verify,
                bytes_per_s=options.verify_bytes_per_s,
                whole=set(),
            )
            return self.requests.set_verdicts(commitment, [verdict.value for verdict in verdicts])

        async with self._turn:
            return await self._engine.pools.slow.run(judge)

    def close(self) -> None:
        """Ends the judgement in progress."""
        self._stopping.set()
