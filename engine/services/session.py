"""One association as its services see it: the peer, the negotiated contexts, the operations and the responses.

The acceptor makes a session when it accepts an association. The session tracks the operations in progress. `start` runs
an operation as a task, which must check `cancelled` between two steps, and which ends when it returns. An operation
that answers by callback must call `operation_began` and `operation_ended`. The release waits for all operations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from engine import log
from engine.access import ARCHIVE, Action, Decision, Principal, Target
from engine.dimse.assembly import fragment_bytes
from engine.errors import EngineError, for_log
from engine.net.responses import Responses
from engine.titles import readable

if TYPE_CHECKING:
    from engine.access import Scope
    from engine.archive.archive import Archive
    from engine.archive.view import View
    from engine.config import Config, PeerSettings
    from engine.net.connection import Connection
    from engine.services.shared import Services
    from engine.ul.negotiation import Accepted, AcceptedContext

SENT_PDU_BYTES_MAX = 128 << 10
"""The longest P-DATA-TF that we send, even if the peer accepts longer ones: these were measured no faster."""


class Response(Protocol):
    """A message of `dimse.messages`."""

    def encode(self) -> bytes: ...


class Session:
    """One association, as its services see it. All calls come on the loop's thread."""

    def __init__(
        self, services: Services, connection: Connection, principal: Principal, called_ae_title: str, accepted: Accepted
    ) -> None:
        self.services = services
        self.connection = connection
        self.principal = principal
        self.calling_ae_title = principal.name
        self.called_ae_title = called_ae_title
        self.accepted = accepted
        self.contexts: Mapping[int, AcceptedContext] = accepted.contexts
        self.fragment = fragment_bytes(accepted.peer_maximum_length, self.settings.pdu_length_max or SENT_PDU_BYTES_MAX)
        """Bytes of data in one P-DATA-TF to the peer."""
        self.responses = Responses()
        """Responses to our own requests on this association."""
        self.operations_count = 0
        """Operations without a final response yet."""
        self.is_releasing = False
        """Whether the peer has requested the release."""
        self._running: set[int] = set()
        """Message ids of the operations that run as tasks."""
        self._cancelled: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log.get("services").about(connection.peer_host)

    # -- the peer and its settings ----------------------------------------------------------------

    @property
    def caller(self) -> str:
        """The calling AE title, for people."""
        return readable(self.calling_ae_title)

    @property
    def config(self) -> Config:
        """The current configuration."""
        return self.services.config

    @property
    def settings(self) -> PeerSettings:
        """The current settings for the peer."""
        return self.services.config.settings_of(self.calling_ae_title)

    @property
    def archive(self) -> Archive:
        """The archive that is served."""
        return self.services.archive

    def allowed(self, action: Action, target: Target = ARCHIVE) -> Decision:
        """Whether the peer may perform the action. Ask once per operation, not per instance."""
        return self.services.engine.access.allowed(self.principal, action, target)

    def scope(self, action: Action) -> Scope:
        """The studies that the peer may reach by the action, by the rules in force now."""
        return self.services.engine.access.scope(self.principal, action)

    def view(self, action: Action) -> View:
        """The archive as the peer sees it, for the action."""
        return self.archive.view(self.scope(action))

    # -- answers ----------------------------------------------------------------------------------

    def respond(self, presentation_context_id: int, message: Response, data_set: bytes | None = None) -> None:
        """Sends a message."""
        self.connection.send_message(presentation_context_id, message.encode(), data_set, self.fragment)

    # -- operations -------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an operation is in progress."""
        return self.operations_count > 0

    def operation_began(self) -> None:
        """Counts a request that is answered later."""
        self.operations_count += 1

    def operation_ended(self) -> None:
        """Each operation must call this once, after its final response."""
        self.operations_count -= 1
        if self.is_releasing and not self.busy:
            self.connection.respond_release()

    def start(
        self, message_id: int, serve: Callable[[], Coroutine[Any, Any, None]], refuse: Callable[[str], None]
    ) -> None:
        """Runs an operation as a task; calls `refuse` with a comment if too many run, or one has the same id."""
        outstanding_max = self.settings.receive_window
        if len(self._running) >= outstanding_max or message_id in self._running:
            self.services.engine.metrics.counters["operations_refused"] += 1
            comment = f"out of resources: {outstanding_max} operations at a time, with different message ids"
            self._log.warning("operation refused", calling=self.caller, why=comment)
            refuse(comment)
            return
        self.operation_began()
        self._running.add(message_id)
        task = self.services.engine.loop.create_task(self._run(message_id, serve()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, message_id: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (ConnectionError, EngineError) as error:
            self._log.warning("operation failed", calling=self.caller, error=for_log(error))
            self.connection.abort(f"operation failed: {error}", 2, 0)
        except Exception as error:
            self._log.error("operation crashed", calling=self.caller, error=for_log(error))
            self.connection.abort("internal error", 2, 0)
            raise
        finally:
            self._running.discard(message_id)
            self._cancelled.discard(message_id)
            self.operation_ended()

    def cancel(self, message_id: int) -> None:
        """Handles C-CANCEL; ignores one for an operation that does not run."""
        if message_id in self._running:
            self._cancelled.add(message_id)

    def cancelled(self, message_id: int) -> bool:
        """Whether C-CANCEL has come for that request."""
        return message_id in self._cancelled

    # -- the end ----------------------------------------------------------------------------------

    def ended(self, reason: str) -> None:
        """The association has ended: stops all operations."""
        for task in self._tasks:
            task.cancel()
        self.responses.fail(reason)
