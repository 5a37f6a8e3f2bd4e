"""The reporter: sends storage commitment reports that could not go out on the association of their request.

One worker of all is it: the one that has the flock on DATA/commitments.lock; when it dies another one takes over within
a second. It visits each peer that has reports due, with all of them on one association on which we propose the SCP
role (PS3.4 J.3.3); a peer that says nothing to the proposal is taken to agree, since nothing else can be meant.

    due ──visit──► taken: removed      else due again after retry_s, twice as long each time, at most retry_s_max
     ▲                                    │
     └── another report of its was taken ─┘      older than retry_days: given up, with a warning

A report is judged anew before each visit, so that it is true when it leaves; what has been read for it once is not read
again. Not the caretaker's: that has no connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from engine import log
from engine.archive.commitment.transactions import Attempts, Claim, Heading
from engine.errors import ArchiveInUse, AssociationFailed, EngineError, StorageFailed, StorageFull
from engine.net.client import PLAIN, Address, Requestor, open_association
from engine.services.commitment import report
from engine.titles import readable
from engine.ul.pdu import PresentationContextRQ, RoleSelection

if TYPE_CHECKING:
    from engine.archive.commitment.judge import Place, Verdict
    from engine.archive.commitment.transactions import Transaction
    from engine.config import Peer
    from engine.net.trace import TraceFolder
    from engine.services.commitment.commitments import Commitments

logger = log.get("services.commitment.reporter")

LOOK_S = 1.0
"""How often it looks what is due; while nothing is, a look is the list of one folder."""

ATTEMPTS_MIN = 24
"""With the default pauses, most of a day."""

VISITS_MAX = 8
"""Peers that are visited at the same time."""

REPORTS_PER_VISIT_MAX = 32
INSTANCES_PER_VISIT_MAX = 50_000
"""What is judged and kept in memory for one visit; what is left comes with the next one, a second later."""

WHOLE_MAX = 500_000
"""Records that need not be read again at the next attempt: some 60 MB at the worst. Beyond it all is forgotten, and
read again."""


class Reporter:
    """Sends the reports that are due, from one worker of the server. Used on the loop's thread."""

    def __init__(self, commitments: Commitments, trace: TraceFolder | None = None) -> None:
        """`trace`: where the associations are traced."""
        self._commitments = commitments
        self._archive = commitments.archive
        self._transactions = commitments.transactions
        self._at_desk = commitments.at_desk
        self._trace = trace
        self._visiting: set[str] = set()
        """AE titles."""
        self._known: dict[str, Heading] = {}
        self._attempts: dict[str, Attempts] = {}
        self._whole: dict[str, set[Place]] = {}
        """By transaction, all three: what there is, how often it was tried, what of it was read."""

    def start(self) -> None:
        """Begins as soon as no other worker is the reporter; not where nothing can be written."""
        if not self._archive.is_read_only:
            self._commitments.spawn(self._stand_by())

    async def _stand_by(self) -> None:
        while True:
            try:
                if self._transactions.exist:
                    with self._archive.reporting():
                        await self._attend()
            except ArchiveInUse:
                pass  # another worker is the reporter
            except EngineError as error:
                logger.warning("storage commitments cannot be reported", error=str(error))
            except Exception as error:
                # Others depend on it for days: it begins again.
                logger.error("storage commitments cannot be reported", error=repr(error))
            await asyncio.sleep(LOOK_S)

    async def _attend(self) -> None:
        await self._at_desk(partial(self._transactions.sweep, time.time_ns()))
        self._attempts = await self._at_desk(self._transactions.load_attempts)
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Sends somebody to each peer that has reports due."""
        self._known = await self._at_desk(self._transactions.headings)
        for identifier in await self._at_desk(self._transactions.take_retries):
            self._attempts.pop(identifier, None)
        await self._forget_gone()
        now_ns = time.time_ns()
        options = self._commitments.config().commitment
        kept_ns, pause_max_ns = int(options.retry_days * 86400 * 10**9), int(options.retry_s_max * 1e9)
        due: dict[str, list[Heading]] = {}
        for heading in self._known.values():
            if heading.is_damaged:
                continue
            attempts = self._attempts_of(heading.identifier)
            if heading.received_ns + kept_ns < now_ns and attempts.count >= self._attempts_min():
                await self._give_up(heading)
            elif not now_ns < attempts.due_ns <= now_ns + pause_max_ns:  # later than any pause: the clock was set back
                due.setdefault(heading.calling_ae_title, []).append(heading)
        for title, waiting in due.items():
            if title not in self._visiting and len(self._visiting) < VISITS_MAX:
                self._visiting.add(title)
                self._commitments.spawn(self._visit(title, _batch(waiting)))

    def _attempts_min(self) -> int:
        """How often a report is tried before its age counts: the clock may have jumped, attempts take their time."""
        options = self._commitments.config().commitment
        return int(min(ATTEMPTS_MIN, options.retry_days * 86400 / options.retry_s_max))

    async def _forget_gone(self) -> None:
        for gone in self._whole.keys() - self._known.keys():
            del self._whole[gone]
        if sum(map(len, self._whole.values())) > WHOLE_MAX:
            self._whole.clear()
        if self._attempts.keys() - self._known.keys():
            self._attempts = {name: each for name, each in self._attempts.items() if name in self._known}
            await self._save()

    async def _give_up(self, heading: Heading) -> None:
        claim = await self._at_desk(partial(self._transactions.claim, heading.identifier))
        if claim is None:
            return
        with claim:
            await self._at_desk(claim.remove)
        self._commitments.counters["commitment_reports_given_up"] += 1
        logger.warning(
            "commitment report given up, nobody took it",
            calling=readable(heading.calling_ae_title),
            transaction_uid=heading.transaction_uid,
            instances=heading.instance_count,
            error=self._attempts_of(heading.identifier).error,
        )

    # -- a visit ------------------------------------------------------------------------------------

    async def _visit(self, title: str, waiting: list[Heading]) -> None:
        try:
            with ExitStack() as held:
                claims = []
                for heading in waiting:
                    claim = await self._at_desk(partial(self._transactions.claim, heading.identifier))
                    if claim is not None:
                        claims.append(held.enter_context(claim))
                if claims:
                    await self._report_to(title, claims)
                    await self._save()
        except EngineError as error:
            logger.warning("storage commitments cannot be reported", calling=readable(title), error=str(error))
        finally:
            self._visiting.discard(title)

    async def _report_to(self, title: str, claims: list[Claim]) -> None:
        """Sends what can be sent; what cannot has its next attempt set."""
        left = {claim.identifier for claim in claims}
        try:
            peer = self._commitments.config().peer(title)
            if peer is None or not peer.has_address:
                raise AssociationFailed(f"there is no [[peer]] {readable(title)} with host and port")
            judged = []
            for claim in claims:
                try:
                    transaction = await self._at_desk(claim.read)
                    whole = self._whole.setdefault(claim.identifier, set())
                    judged.append((claim, transaction, await self._commitments.verdicts(transaction, whole)))
                except StorageFailed:
                    raise
                except EngineError as error:  # its own fault: the others of this peer do not wait for it
                    logger.warning("commitment cannot be judged", commitment=claim.identifier, error=str(error))
                    left.discard(claim.identifier)
                    self._postpone([claim.identifier], str(error))
            if not judged:
                return
            requestor = await self._associate(peer, title)
            try:
                for claim, transaction, verdicts in judged:
                    why_not = await self._send(requestor, transaction, verdicts)
                    left.discard(claim.identifier)
                    if why_not:
                        self._postpone([claim.identifier], why_not, is_refused=True)
                        continue
                    await self._at_desk(claim.remove)
                    self._commitments.reported(transaction, verdicts, "a new association")
                    self._hurry(title)
            finally:
                await requestor.release()
        except StorageFailed:
            raise
        except EngineError as error:
            logger.warning("commitment was not reported", calling=readable(title), count=len(left), error=str(error))
            self._postpone(left, str(error))
        except Exception as error:
            logger.error("commitment was not reported", calling=readable(title), count=len(left), error=repr(error))
            self._postpone(left, repr(error))

    async def _associate(self, peer: Peer, title: str) -> Requestor:
        """An association on which we may be SCP. Raises AssociationFailed."""
        contexts = [PresentationContextRQ(1, report.SOP_CLASS, PLAIN)]
        roles = [RoleSelection(report.SOP_CLASS, scu_role=False, scp_role=True)]
        address = Address.of(peer, self._commitments.config(), title)
        requestor = await open_association(address, contexts, trace=self._trace, roles=roles)
        assert requestor.accepted is not None
        granted = {role.sop_class_uid: role for role in requestor.accepted.ac.user_information.role_selections}
        role = granted.get(report.SOP_CLASS)
        if requestor.accepted.contexts and (role is None or role.scp_role):
            return requestor
        await requestor.release()
        what = "that we are SCP of" if requestor.accepted.contexts else "the SOP class"
        raise AssociationFailed(f"{peer.aet} does not accept {what} Storage Commitment Push Model")

    async def _send(self, requestor: Requestor, transaction: Transaction, verdicts: Sequence[Verdict]) -> str:
        """Why the peer did not take a report; "" when it did. Raises AssociationFailed."""
        assert requestor.accepted is not None
        context = requestor.accepted.contexts[1]
        aet, syntax = self._commitments.config().aet, context.transfer_syntax
        information = await self._at_desk(partial(report.event_information, transaction, verdicts, aet, syntax))
        response = await requestor.request_message(
            context.presentation_context_id,
            lambda message_id: report.report_rq(message_id, verdicts),
            information,
        )
        return report.why_not_taken(response)

    # -- attempts -----------------------------------------------------------------------------------

    def _attempts_of(self, identifier: str) -> Attempts:
        return self._attempts.get(identifier) or Attempts()

    def _postpone(self, identifiers: Iterable[str], error: str, *, is_refused: bool = False) -> None:
        options = self._commitments.config().commitment
        for identifier in identifiers:
            count = self._attempts_of(identifier).count + 1
            pause_s = min(options.retry_s * 2.0 ** min(count - 1, 40), options.retry_s_max)
            self._attempts[identifier] = Attempts(count, time.time_ns() + int(pause_s * 1e9), error, is_refused)
            self._commitments.counters["commitment_reports_postponed"] += 1

    def _hurry(self, title: str) -> None:
        """The peer is there again: whatever else waits for it is due."""
        for identifier, attempts in self._attempts.items():
            heading = self._known.get(identifier)
            if heading is not None and heading.calling_ae_title == title and not attempts.is_refused:
                attempts.due_ns = 0

    async def _save(self) -> None:
        attempts = {name: msgspec.structs.replace(each) for name, each in self._attempts.items()}
        try:
            await self._at_desk(partial(self._transactions.save_attempts, attempts))
        except StorageFull as error:
            logger.warning("attempts to report storage commitments are not kept", error=str(error))


def _batch(waiting: Sequence[Heading]) -> list[Heading]:
    """The oldest of them, as many as one visit may take."""
    batch: list[Heading] = []
    instances = 0
    for heading in waiting[:REPORTS_PER_VISIT_MAX]:
        instances += heading.instance_count
        if batch and instances > INSTANCES_PER_VISIT_MAX:
            break
        batch.append(heading)
    return batch
