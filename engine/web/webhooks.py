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

import asyncio
import hashlib
import hmac
import time
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import orjson

from engine import guards, log
from engine.archive.feed.cursor import Cursor
from engine.archive.feed.destinations import DELIVERING, PARKED, WAITING, Standing
from engine.archive.feed.event import action_of, time_text
from engine.archive.feed.subscription import cursor_of_now
from engine.errors import CursorRefused, EngineError, FeedMissing
from engine.sole_worker import run_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.archive.feed.destinations import Destinations
    from engine.archive.feed.subscription import Watch
    from engine.runtime.engine import Engine
    from engine.web.settings import Webhook

logger = log.get("web.webhooks")

CHECK_S = 1.0
"""How often the lock, the configuration, a missing feed, and the resume requests of parked webhooks are checked."""
SAVE_S = 2.0
"""How often a destination's position is saved: a crash repeats the events since then."""
RESPONSE_BYTES_MAX = 64 << 10
"""Bytes of a response that are read to keep its connection open; after a longer one it is closed."""
SECRET_BYTES_MAX = 4096


class Webhooks:
    """Delivers, if this process has the lock. Used on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._destinations = engine.archive.feed_destinations()
        self._running: dict[str, tuple[Webhook, asyncio.Task[None]]] = {}
        self._task = guards.watch(engine.loop.create_task(self._run()), "webhooks")

    def close(self) -> None:
        """Stops. Requests that are in progress may be repeated later."""
        self._task.cancel()
        # The task ends them only in its next turn, and the pools may be closed by then.
        for _, task in self._running.values():
            task.cancel()

    async def _run(self) -> None:
        archive = self._engine.archive
        await run_alone(
            archive.delivering,
            self._run_deliveries,
            is_needed=lambda: bool(self._engine.config.webhooks) and not archive.is_read_only,
            check_s=CHECK_S,
            logger=logger,
            failure="nothing is delivered to webhooks",
        )

    async def _run_deliveries(self) -> None:
        """Runs a task for each [[webhook]] table of the configuration in force, until it is cancelled."""
        watch = self._engine.archive.feed_watch(self._engine.loop)
        timeouts = aiohttp.ClientTimeout(sock_connect=10.0)
        try:
            async with aiohttp.ClientSession(timeout=timeouts, auto_decompress=False) as session:
                while self._engine.config.webhooks:
                    self._update_tasks(session, watch)
                    await asyncio.sleep(CHECK_S)
        finally:
            for _, task in self._running.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
            self._running.clear()
            watch.close()

    def _update_tasks(self, session: aiohttp.ClientSession, watch: Watch) -> None:
        configured = {hook.name: hook for hook in self._engine.config.webhooks}
        for name, (hook, task) in list(self._running.items()):
            if task.done() or configured.get(name) != hook:
                task.cancel()
                del self._running[name]
        for name, hook in configured.items():
            if name not in self._running:
                delivery = Delivery(self._engine, hook, self._destinations, session, watch.changed)
                task = guards.watch(self._engine.loop.create_task(delivery.run()), f"webhook {name}")
                self._running[name] = hook, task


class Delivery:
    """Delivers to one destination."""

    def __init__(
        self,
        engine: Engine,
        hook: Webhook,
        destinations: Destinations,
        session: aiohttp.ClientSession,
        changed: Callable[[], asyncio.Future[None]],
    ) -> None:
        self._engine = engine
        self._hook = hook
        self._destinations = destinations
        self._session = session
        self._changed = changed
        self._feed = engine.archive.feed()
        self._standing = Standing(name=hook.name)
        self._saved_at = 0.0
        self._saved_cursor = ""

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        hook, pools = self._hook, self._engine.pools
        while True:
            try:
                saved = await pools.reads.run(partial(self._destinations.load, hook.name))
                self._standing = saved or Standing(name=hook.name)
                self._saved_cursor = self._standing.cursor
                await self._deliver()
            except EngineError as error:
                logger.warning("a webhook cannot be served", webhook=hook.name, error=str(error))
                await asyncio.sleep(hook.retry_s)
            finally:
                # Also when it is cancelled, so that delivered events are not repeated.
                self._save_or_warn()

    async def _deliver(self) -> None:
        reads = self._engine.pools.reads
        standing = self._standing
        if not standing.cursor:
            standing.cursor = str(await cursor_of_now(self._feed, reads.run, CHECK_S))
            await self._save()
        while True:
            if standing.state == PARKED:
                await self._until_resumed()
            changed = self._changed()
            try:
                cursor = Cursor.parse(standing.cursor)
                page = await reads.run(partial(self._feed.read, cursor, self._hook.events_max))
            except CursorRefused as error:
                standing.reset = str(error)
                standing.cursor = str(await cursor_of_now(self._feed, reads.run, CHECK_S))
                continue
            except FeedMissing:
                await asyncio.sleep(CHECK_S)
                continue
            lines = [line for line in page.lines if not self._hook.actions or action_of(line) in self._hook.actions]
            if lines or standing.reset:
                failure = await self._post(lines, str(page.cursor), standing.reset)
                if failure:
                    await self._wait_after(failure)
                    continue
                standing.reset = ""
                standing.state, standing.attempts, standing.error = DELIVERING, 0, ""
                standing.delivered += len(lines)
            standing.cursor = str(page.cursor)
            is_unsaved = standing.cursor != self._saved_cursor
            if is_unsaved and self._engine.loop.time() - self._saved_at >= SAVE_S:
                await self._save()
                is_unsaved = False
            if not page.lines:
                try:
                    await asyncio.wait_for(asyncio.shield(changed), SAVE_S if is_unsaved else None)
                except TimeoutError:
                    pass

    async def _post(self, lines: list[bytes], cursor: str, reset: str) -> str:
        """Sends events. Returns the reason of a failure; "": they are delivered."""
        fields: dict[str, str] = {"webhook": self._hook.name, "cursor": cursor, **({"reset": reset} if reset else {})}
        body = b'{"events":[' + b",".join(lines) + b"]," + orjson.dumps(fields)[1:]
        status, failure = 0, ""
        try:
            headers = {"Content-Type": "application/json", "Filmroom-Delivery": cursor, **self._signature(body)}
            async with asyncio.timeout(self._hook.timeout_s):
                async with self._session.post(
                    self._hook.url, data=body, headers=headers, allow_redirects=False
                ) as response:
                    status = response.status
                    await response.content.read(RESPONSE_BYTES_MAX)
                    if not response.content.at_eof():
                        response.close()
        except TimeoutError:
            failure = f"no answer within {self._hook.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"[:300]
        if 200 <= status < 300:
            return ""  # whatever became of the body
        return failure or f"it answered {status}"

    def _signature(self, body: bytes) -> dict[str, str]:
        path = self._hook.secret_file
        if path is None:
            return {}
        secret = path.read_bytes()[:SECRET_BYTES_MAX].strip()
        now = str(int(time.time()))
        digest = hmac.new(secret, now.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {"Filmroom-Signature": f"t={now},v1={digest}"}

    async def _wait_after(self, error: str) -> None:
        standing, hook = self._standing, self._hook
        standing.attempts += 1
        standing.error = error
        standing.state = PARKED if standing.attempts >= hook.attempts_max else WAITING
        self._engine.metrics.counters["webhook_attempts_failed"] += 1
        await self._save()
        if standing.state == PARKED:
            logger.error("webhook parked", webhook=hook.name, attempts=standing.attempts, error=error)
            return
        pause_s = min(hook.retry_s * 2.0 ** min(standing.attempts - 1, 40), hook.retry_s_max)
        logger.warning("webhook failed", webhook=hook.name, attempt=standing.attempts, error=error, pause_s=pause_s)
        pause_end = self._engine.loop.time() + pause_s
        while (remaining_s := pause_end - self._engine.loop.time()) > 0 and not self._is_resumed():
            await asyncio.sleep(min(remaining_s, CHECK_S))

    async def _until_resumed(self) -> None:
        while not self._is_resumed():
            await asyncio.sleep(CHECK_S)
        self._standing.state, self._standing.attempts = WAITING, 0

    def _is_resumed(self) -> bool:
        return self._destinations.take_resume(self._hook.name)

    async def _save(self) -> None:
        self._saved_at, self._saved_cursor = self._engine.loop.time(), self._standing.cursor
        self._standing.updated = time_text(time.time_ns())
        await self._engine.pools.reads.run(partial(self._destinations.save, self._standing))

    def _save_or_warn(self) -> None:
        if not self._standing.cursor:
            return
        try:
            self._standing.updated = time_text(time.time_ns())
            self._destinations.save(self._standing)
        except (EngineError, OSError) as error:
            logger.warning("the position of a webhook was not saved", webhook=self._hook.name, error=str(error))
