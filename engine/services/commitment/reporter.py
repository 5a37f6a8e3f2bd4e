"""The reporter: sends storage commitment reports that could not be sent on the association of their request.

One worker is the reporter: the one with the flock on DATA/commitments.lock; when it dies another one takes over within
a second. It sends all due reports of a peer on one association, on which we propose the SCP role (PS3.4 J.3.3); a peer
that does not answer the proposal counts as having accepted it, since the association has no other use.

    due ──sent──► accepted: removed      else due again after retry_s, twice as long each time, at most retry_s_max
     ▲                                            │
     └── the peer accepted another of its reports ┘      older than retry_days: given up, with a warning

A transaction is judged again before each attempt, so that its report is true when it is sent; verified records are not
read again. The caretaker cannot do this: it has no connections.
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
from engine.errors import AssociationFailed, EngineError, StorageFailed, StorageFull, for_log
from engine.net.client import PLAIN, Address, Requestor, open_association
from engine.services.commitment import report
from engine.sole_worker import run_alone
from engine.titles import readable
from engine.ul.pdu import PresentationContextRQ, RoleSelection

if TYPE_CHECKING:
    from engine.archive.commitment.judge import Place, Verdict
    from engine.archive.commitment.transactions import Transaction
    from engine.config import Peer
    from engine.net.trace import TraceFolder
    from engine.services.commitment.commitments import Commitments

logger = log.get("services.commitment.reporter")

CHECK_S = 1.0
"""The interval of checks for due reports; a check without any lists one folder."""

ATTEMPTS_MIN = 24
"""Attempts before a report may be given up: with the default pauses, most of a day."""

VISITS_MAX = 8
"""Peers that get reports at the same time."""

REPORTS_PER_VISIT_MAX = 32
INSTANCES_PER_VISIT_MAX = 50_000
"""Reports that are judged and held in memory for one association; further ones follow a second later."""

VERIFIED_MAX = 500_000
"""Records that need not be read again at the next attempt: at most some 60 MB. Above it all are forgotten, and read
again."""


class Reporter:
    """Sends the reports that are due, from one worker of the server. Used on the loop's thread."""

    def __init__(self, commitments: Commitments, trace: TraceFolder | None = None) -> None:
        """`trace`: the folder for traces of the associations."""
        self._commitments = commitments
        self._archive = commitments.archive
        self._transactions = commitments.transactions
        self._run_in_file_thread = commitments.run_in_file_thread
        self._trace = trace
        self._visited_titles: set[str] = set()
        """AE titles that get reports now."""
        self._headings: dict[str, Heading] = {}
        """By transaction, as the next two: all stored transactions."""
        self._attempts: dict[str, Attempts] = {}
        self._verified: dict[str, set[Place]] = {}
        """Positions of records that were verified."""

    def start(self) -> None:
        """Starts reporting as soon as no other worker is the reporter; does nothing in a read-only archive."""
        if not self._archive.is_read_only:
            self._commitments.spawn(self._run())

    async def _run(self) -> None:
        await run_alone(
            self._archive.reporting,
            self._report_forever,
            is_needed=lambda: self._transactions.exist,
            check_s=CHECK_S,
            logger=logger,
            failure="storage commitments cannot be reported",
        )

    async def _report_forever(self) -> None:
        await self._run_in_file_thread(partial(self._transactions.sweep, time.time_ns()))
        self._attempts = await self._run_in_file_thread(self._transactions.load_attempts)
        while True:
            await self._check()
            await asyncio.sleep(CHECK_S)

    async def _check(self) -> None:
        """Starts a visit to each peer that has due reports, and gives up old reports."""
        self._headings = await self._run_in_file_thread(self._transactions.headings)
        for identifier in await self._run_in_file_thread(self._transactions.take_retries):
            self._attempts.pop(identifier, None)
        await self._forget_removed()
        now_ns = time.time_ns()
        options = self._commitments.config().commitment
        age_max_ns, pause_max_ns = int(options.retry_days * 86400 * 10**9), int(options.retry_s_max * 1e9)
        due: dict[str, list[Heading]] = {}
        for heading in self._headings.values():
            if heading.is_damaged:
                continue
            attempts = self._attempts_of(heading.identifier)
            if heading.received_ns + age_max_ns < now_ns and attempts.count >= self._attempts_min():
                await self._give_up(heading)
            elif not now_ns < attempts.due_ns <= now_ns + pause_max_ns:  # later than any pause: the clock went back
                due.setdefault(heading.calling_ae_title, []).append(heading)
        for title, waiting in due.items():
            if title not in self._visited_titles and len(self._visited_titles) < VISITS_MAX:
                self._visited_titles.add(title)
                self._commitments.spawn(self._visit(title, _batch(waiting)))

    def _attempts_min(self) -> int:
        """Attempts before the age of a report counts: the clock may jump, but attempts take real time."""
        options = self._commitments.config().commitment
        return int(min(ATTEMPTS_MIN, options.retry_days * 86400 / options.retry_s_max))

    async def _forget_removed(self) -> None:
        for identifier in self._verified.keys() - self._headings.keys():
            del self._verified[identifier]
        if sum(map(len, self._verified.values())) > VERIFIED_MAX:
            self._verified.clear()
        if self._attempts.keys() - self._headings.keys():
            self._attempts = {name: each for name, each in self._attempts.items() if name in self._headings}
            await self._save()

    async def _give_up(self, heading: Heading) -> None:
        claim = await self._run_in_file_thread(partial(self._transactions.claim, heading.identifier))
        if claim is None:
            return
        with claim:
            await self._run_in_file_thread(claim.remove)
        self._commitments.counters["commitment_reports_given_up"] += 1
        logger.warning(
            "commitment report given up, the peer never accepted it",
            calling=readable(heading.calling_ae_title),
            transaction_uid=heading.transaction_uid,
            instances=heading.instance_count,
            error=self._attempts_of(heading.identifier).error,
        )

    # -- a visit ------------------------------------------------------------------------------------

    async def _visit(self, title: str, waiting: list[Heading]) -> None:
        try:
            with ExitStack() as stack:
                claims = []
                for heading in waiting:
                    claim = await self._run_in_file_thread(partial(self._transactions.claim, heading.identifier))
                    if claim is not None:
                        claims.append(stack.enter_context(claim))
                if claims:
                    await self._report_to(title, claims)
                    await self._save()
        except EngineError as error:
            logger.warning("storage commitments cannot be reported", calling=readable(title), error=for_log(error))
        finally:
            self._visited_titles.discard(title)

    async def _report_to(self, title: str, claims: list[Claim]) -> None:
        """Sends the reports of these claims to one peer; postpones those that cannot be sent."""
        unsent = {claim.identifier for claim in claims}
        try:
            peer = self._commitments.config().peer(title)
            if peer is None or not peer.has_address:
                raise AssociationFailed(f"there is no [[peer]] {readable(title)} with host and port")
            reports = []
            for claim in claims:
                try:
                    transaction = await self._run_in_file_thread(claim.read)
                    verified = self._verified.setdefault(claim.identifier, set())
                    reports.append((claim, transaction, await self._commitments.verdicts(transaction, verified)))
                except StorageFailed:
                    raise
                except EngineError as error:  # a fault of this transaction: the peer's other reports do not wait for it
                    logger.warning("commitment cannot be judged", commitment=claim.identifier, error=for_log(error))
                    unsent.discard(claim.identifier)
                    self._postpone([claim.identifier], str(error))
            if not reports:
                return
            requestor = await self._associate(peer, title)
            try:
                for claim, transaction, verdicts in reports:
                    refusal = await self._send(requestor, transaction, verdicts)
                    unsent.discard(claim.identifier)
                    if refusal:
                        self._postpone([claim.identifier], refusal, is_refused=True)
                        continue
                    await self._run_in_file_thread(claim.remove)
                    self._commitments.count_report(transaction, verdicts, "a new association")
                    self._make_due(title)
            finally:
                await requestor.release()
        except StorageFailed:
            raise
        except EngineError as error:
            logger.warning(
                "commitment was not reported", calling=readable(title), count=len(unsent), error=for_log(error)
            )
            self._postpone(unsent, str(error))
        except Exception as error:
            logger.error(
                "commitment was not reported", calling=readable(title), count=len(unsent), error=for_log(error)
            )
            self._postpone(unsent, repr(error))

    async def _associate(self, peer: Peer, title: str) -> Requestor:
        """Opens an association on which we are SCP. Raises AssociationFailed."""
        contexts = [PresentationContextRQ(1, report.SOP_CLASS, PLAIN)]
        roles = [RoleSelection(report.SOP_CLASS, scu_role=False, scp_role=True)]
        address = Address.of(peer, self._commitments.config(), title)
        requestor = await open_association(address, contexts, trace=self._trace, roles=roles)
        assert requestor.accepted is not None
        role_grants = {role.sop_class_uid: role for role in requestor.accepted.ac.user_information.role_selections}
        role = role_grants.get(report.SOP_CLASS)
        if requestor.accepted.contexts and (role is None or role.scp_role):
            return requestor
        await requestor.release()
        subject = "our SCP role for" if requestor.accepted.contexts else "the SOP class"
        raise AssociationFailed(f"{peer.aet} does not accept {subject} Storage Commitment Push Model")

    async def _send(self, requestor: Requestor, transaction: Transaction, verdicts: Sequence[Verdict]) -> str:
        """Sends one report; returns why the peer refused it, "" if it accepted it. Raises AssociationFailed."""
        assert requestor.accepted is not None
        context = requestor.accepted.contexts[1]
        aet, syntax = self._commitments.config().aet, context.transfer_syntax
        encode = partial(report.event_information, transaction, verdicts, aet, syntax)
        information = await self._run_in_file_thread(encode)
        response = await requestor.request_message(
            context.presentation_context_id,
            lambda message_id: report.report_rq(message_id, verdicts),
            information,
        )
        return report.refusal_of(response)

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

    def _make_due(self, title: str) -> None:
        """Makes all other reports of a peer due, since it is reachable again; except those that it refused."""
        for identifier, attempts in self._attempts.items():
            heading = self._headings.get(identifier)
            if heading is not None and heading.calling_ae_title == title and not attempts.is_refused:
                attempts.due_ns = 0

    async def _save(self) -> None:
        attempts = {name: msgspec.structs.replace(each) for name, each in self._attempts.items()}
        try:
            await self._run_in_file_thread(partial(self._transactions.save_attempts, attempts))
        except StorageFull as error:
            logger.warning("attempts to report storage commitments cannot be saved", error=for_log(error))


def _batch(waiting: Sequence[Heading]) -> list[Heading]:
    """The oldest reports, as many as one visit may have."""
    batch: list[Heading] = []
    instances = 0
    for heading in waiting[:REPORTS_PER_VISIT_MAX]:
        instances += heading.instance_count
        if batch and instances > INSTANCES_PER_VISIT_MAX:
            break
        batch.append(heading)
    return batch
