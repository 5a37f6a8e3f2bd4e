"""Webhooks: delivers the change feed to the receivers of the [[webhook]] tables: in order, one request at a time each.

Only one worker delivers: the one that has the flock on DATA/webhooks.lock. If it dies another one takes over within a
second, and repeats what was not recorded yet.

    POST url    {"webhook": NAME, "events": [{…}, …], "cursor": CURSOR}
                Filmroom-Delivery: CURSOR
                Filmroom-Signature: t=UNIX TIME,v1=HMAC-SHA256 in hex of "UNIX TIME.BODY", with the secret
    2xx         delivered; the body of the response is not used
    else        again after retry_s, twice as long each time, at most retry_s_max; parked after attempts_max in a row

A receiver checks the signature, and that the time is recent. It may get events twice, never out of order. A redirect
counts as a failure: signed events are not sent elsewhere. If a cursor is no longer valid (`archive.feed.cursor`) the
next request gives the reason in `reset`, and delivery continues with new events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from engine import guards, log
from engine.errors import DeliveryFailed
from engine.outbox.follower import Follower, Retries, Saving
from engine.outbox.source import FeedLines, Unit
from engine.outbox.tables import Tables
from engine.sole_worker import run_alone
from engine.web import posting

if TYPE_CHECKING:
    from engine.archive.feed.subscription import Watch
    from engine.runtime.engine import Engine
    from engine.web.settings import Webhook

logger = log.get("web.webhooks")

CHECK_S = 1.0
"""How often the lock is tried."""
SAVE_S = 2.0
"""How often a destination's position is saved: a crash repeats the events since then."""


class Webhooks:
    """Delivers, if this process has the lock. Used on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tables = Tables(
            engine, "webhook", lambda: {hook.name: hook for hook in engine.config.webhooks}, self._follow
        )
        self._task = guards.watch(engine.loop.create_task(self._run()), "webhooks")

    def close(self) -> None:
        """Stops. Requests that are in progress may be repeated later."""
        self._task.cancel()
        self._tables.close()

    async def _run(self) -> None:
        archive = self._engine.archive
        await run_alone(
            archive.delivering,
            self._tables.run,
            is_needed=lambda: bool(self._engine.config.webhooks) and not archive.is_read_only,
            check_s=CHECK_S,
            logger=logger,
            failure="nothing is delivered to webhooks",
        )

    async def _follow(self, hook: Webhook, watch: Watch) -> None:
        archive = self._engine.archive
        follower = Follower(
            self._engine,
            "webhook",
            hook.name,
            FeedLines(archive.feed(), watch.changed, hook.actions, events_max=hook.events_max),
            Receiver(hook),
            destinations=archive.feed_destinations(),
            retries=Retries(
                retry_s=hook.retry_s, retry_s_max=hook.retry_s_max, attempts_max=hook.attempts_max, policy="park"
            ),
            saving=Saving(accepted_s=SAVE_S, passed_s=SAVE_S),
        )
        await follower.run()


class Receiver:
    """The machine of one [[webhook]] table (`outbox.follower.Sink`)."""

    def __init__(self, hook: Webhook) -> None:
        self._hook = hook
        self._session = posting.session()

    async def close(self) -> None:
        """Closes its connections."""
        await self._session.close()

    def nothing(self, cursor: str) -> Unit[list[bytes]]:
        """A request without events, which gives the reason."""
        return Unit([], cursor, cursor, 0)

    async def deliver(self, unit: Unit[list[bytes]], reset: str) -> None:
        """Sends events. Raises DeliveryFailed."""
        failure = await self._post(unit.content, unit.after, reset)
        if failure:
            raise DeliveryFailed(failure)

    async def _post(self, lines: list[bytes], cursor: str, reset: str) -> str:
        """Sends events. Returns the reason of a failure; "": they are delivered."""
        fields: dict[str, str] = {"webhook": self._hook.name, "cursor": cursor, **({"reset": reset} if reset else {})}
        body = b'{"events":[' + b",".join(lines) + b"]," + orjson.dumps(fields)[1:]
        headers = {"Content-Type": "application/json", "Filmroom-Delivery": cursor}
        hook = self._hook
        return await posting.post(
            self._session, hook.url, body, headers, secret_file=hook.secret_file, timeout_s=hook.timeout_s
        )
