"""An association that we request: connects, negotiates, sends requests and hands their responses to the callers.

It knows no services: C-STORE, C-ECHO and others use `request_message`, or `connection` directly with `responses`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from engine import tls
from engine.dimse import messages
from engine.dimse.assembly import ChunkPool, DataSet, fragment_bytes
from engine.dimse.status import GeneralStatus
from engine.errors import AssociationFailed, ConfigError, MessageError
from engine.net.connection import Connection, ConnectionLimits
from engine.net.responses import WRONG_OPERATION, Responses, ResponseStream
from engine.titles import on_the_wire, readable
from engine.ul.association import Role
from engine.ul.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from engine.ul.negotiation import Accepted, accepted_contexts
from engine.ul.pdu import (
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    AsynchronousOperationsWindow,
    PresentationContextRQ,
    RoleSelection,
    UserInformation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.config import Config, Peer, Tls
    from engine.net.trace import TraceFolder

VERIFICATION = "1.2.840.10008.1.1"
PLAIN = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")

CONTEXTS_MAX = 128
"""Presentation contexts of one association (PS3.8 9.3.2.2)."""

SENT_PDU_BYTES_MAX = 128 << 10

IDENTIFIER_BYTES_MAX = 4 << 20
"""Limit for the identifier of a response: a list of failed UIDs has 65 bytes for each."""


@dataclass(frozen=True, slots=True)
class Security:
    """How to call a peer over TLS."""

    settings: Tls
    server_name: str
    """The name in the ClientHello, and in the peer's certificate unless `certificates` has a fingerprint."""
    certificates: tuple[str, ...] = ()
    """The names of which the certificate must have one, as in its [[peer]]; empty: `server_name` is enough."""

    def context(self) -> ssl.SSLContext:
        """A new context, from the current content of the files. Raises ConfigError."""
        has_fingerprint = any(name.startswith("sha256:") for name in self.certificates)
        return tls.client_context(self.settings, checks_name=not has_fingerprint)

    def trusts(self, names: frozenset[str]) -> bool:
        """Whether a certificate with these names is the peer's."""
        return not self.certificates or not names.isdisjoint(self.certificates)


@dataclass(frozen=True, slots=True)
class Address:
    """The peer to call, our title, and the timeouts and limits for it."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    maximum_length: int = 128 << 10
    """Bytes of a P-DATA-TF that we announce, and the most that we send."""
    window: int = 1
    """Outstanding operations that we propose; 1: not negotiated."""
    connect_timeout_s: float = 10.0
    message_timeout_s: float = 30.0
    delivery_rate_bytes_per_s_min: int = 0
    security: Security | None = None
    """TLS; None: without."""

    @classmethod
    def of(cls, peer: Peer, config: Config, title: str = "") -> Address:
        """The address of a configured peer; `title`: the called title, if a received message has its own form of it."""
        settings = config.settings_of(peer.aet)
        return cls(
            peer.host,
            peer.port,
            title or on_the_wire(peer.aet),
            on_the_wire(config.aet),
            peer.pdu_length_max or config.limits.pdu_length_max,
            peer.send_window,
            config.limits.connect_timeout_s,
            settings.timeout_s,
            settings.delivery_rate_bytes_per_s_min,
            Security(config.tls, peer.tls_name or peer.host, peer.certificates) if peer.tls == "required" else None,
        )


class Requestor:
    """One requested association; made by `open_association`."""

    def __init__(self, connection: Connection, rq: AssociateRQ, address: Address) -> None:
        self.connection = connection
        self.address = address
        self.responses = Responses()
        self.accepted: Accepted | None = None
        self.fragment = 0
        self._rq = rq
        self._awaiting: dict[int, messages.Response] = {}
        """Responses that wait for their identifier, by presentation context."""
        self._identifiers: dict[int, bytes] = {}
        """Incomplete identifiers, by presentation context."""
        self._established: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether a response is outstanding; its waiter has its own timeout."""
        return self.responses.waiting_count > 0

    def associate_requested(self, rq: AssociateRQ) -> AssociateAC | AssociateRJ | None:
        """Never called for a requestor."""
        raise AssociationFailed("the peer sent A-ASSOCIATE-RQ to a requestor")

    def associate_accepted(self, ac: AssociateAC) -> None:
        """Handles the peer's A-ASSOCIATE-AC."""
        self.accepted = accepted_contexts(self._rq, ac)
        self.fragment = fragment_bytes(self.accepted.peer_maximum_length, self.address.maximum_length)
        if not self._established.done():
            self._established.set_result(None)

    def associate_rejected(self, rj: AssociateRJ) -> None:
        """`association_ended` follows, with the reason."""

    def command_received(self, presentation_context_id: int, command: bytes, has_data_set: bool) -> None:
        """Handles a response to one of our requests, or a request of the peer."""
        if self.accepted is None or presentation_context_id not in self.accepted.contexts:
            why = f"a message on presentation context {presentation_context_id}, which was not accepted"
            self.connection.abort(why, 2, 5)
            return
        try:
            message = messages.decode(command)
        except MessageError as error:
            self.connection.abort(f"invalid response: {error}")
            return
        if not isinstance(message, messages.Response):
            self.request_received(presentation_context_id, command, message, has_data_set)
        elif has_data_set:
            self._awaiting[presentation_context_id] = message
        else:
            self.responses.received(message)

    def request_received(
        self, presentation_context_id: int, command: bytes, message: messages.Request, has_data_set: bool
    ) -> None:
        """Declines a request of the peer; its data set is dropped. Ignores a C-CANCEL."""
        why = MessageError("requests are not served on this association", GeneralStatus.SOP_CLASS_NOT_SUPPORTED)
        answer = messages.failure_response(command, why)
        if answer is not None:
            self.connection.send_message(presentation_context_id, answer, None, self.fragment)

    def data_set_received(self, presentation_context_id: int, data_set: DataSet, is_last: bool) -> None:
        """Handles the identifier of a response, or drops the data set of a request that was declined."""
        response = self._awaiting.get(presentation_context_id)
        if response is None:
            data_set.release()
            return
        identifier = self._identifiers.pop(presentation_context_id, b"")
        if len(identifier) + data_set.length > IDENTIFIER_BYTES_MAX:
            data_set.release()
            self.connection.abort(f"an identifier of more than {IDENTIFIER_BYTES_MAX} bytes")
            return
        identifier += data_set.to_bytes()
        data_set.release()
        if is_last:
            del self._awaiting[presentation_context_id]
            self.responses.received(response, identifier)
        else:
            self._identifiers[presentation_context_id] = identifier

    def release_requested(self) -> bool:
        """Accepts the release by the peer, which will send no further responses."""
        self.responses.fail("released by the peer")
        return True

    def association_ended(self, reason: str) -> None:
        """Fails all waiters."""
        self._ended.set()
        if not self._established.done():
            self._established.set_exception(AssociationFailed(reason))
        self.responses.fail(reason)

    async def established(self) -> None:
        """Waits for the peer's answer. Raises AssociationFailed."""
        await self._established

    async def request_message(self, presentation_context_id: int, make: Any, data_set: bytes | None = None) -> Any:
        """Sends `make(message_id)` and waits for its response. Raises AssociationFailed."""
        message_id, response = self.responses.expect()
        try:
            request = make(message_id)
            self.connection.send_message(presentation_context_id, request.encode(), data_set, self.fragment)
            answer = await self.wait(response)
            if not messages.is_answer(request, answer):
                self.connection.abort(WRONG_OPERATION)
                raise AssociationFailed(WRONG_OPERATION)
            return answer
        finally:
            self.responses.forget(message_id)

    async def wait(self, response: asyncio.Future[Any]) -> Any:
        """Waits for a response. Aborts the association and raises AssociationFailed when it does not come in time."""
        try:
            async with asyncio.timeout(self.address.message_timeout_s):
                return await response
        except TimeoutError:
            why = f"{readable(self.address.called_ae_title)} did not answer within {self.address.message_timeout_s:g} s"
            why = self.connection.end_reason or why
            self.connection.abort(why)
            raise AssociationFailed(why) from None

    def request_several(
        self, presentation_context_id: int, make: Callable[[int], Any], identifier: bytes
    ) -> tuple[int, ResponseStream]:
        """Sends `make(message_id)`, a request with several responses. Raises AssociationFailed.

        Call `responses.forget` with the message id after the last response.
        """
        pause, resume = self.connection.pause_reading, self.connection.resume_reading
        # Only the operation counts, not the number.
        message_id, stream = self.responses.expect_several(pause, resume, partial(messages.is_answer, make(1)))
        self.connection.send_message(presentation_context_id, make(message_id).encode(), identifier, self.fragment)
        return message_id, stream

    def cancel(self, presentation_context_id: int, message_id: int) -> None:
        """Sends C-CANCEL for a request with several responses (PS3.7 9.3.2.3)."""
        rq = messages.CCancelRQ(message_id)
        self.connection.send_message(presentation_context_id, rq.encode(), None, self.fragment)

    async def release(self) -> None:
        """Releases the association; aborts it when the peer does not answer."""
        self.connection.request_release()
        try:
            async with asyncio.timeout(self.address.message_timeout_s):
                await self._ended.wait()
        except TimeoutError:
            self.connection.abort("no A-RELEASE-RP")


async def open_association(
    address: Address,
    contexts: Sequence[PresentationContextRQ],
    pool: ChunkPool | None = None,
    trace: TraceFolder | None = None,
    roles: Sequence[RoleSelection] = (),
    user: Callable[[Connection, AssociateRQ, Address], Requestor] = Requestor,
) -> Requestor:
    """Connects and negotiates; `user` makes the requestor. Raises AssociationFailed with the reason."""
    window = AsynchronousOperationsWindow(address.window, 1) if address.window > 1 else None
    rq = AssociateRQ(
        called_ae_title=address.called_ae_title,
        calling_ae_title=address.calling_ae_title,
        presentation_contexts=tuple(contexts),
        user_information=UserInformation(
            maximum_length=address.maximum_length,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            asynchronous_operations_window=window,
            role_selections=tuple(roles),
        ),
    )
    loop = asyncio.get_running_loop()
    where = f"{readable(address.called_ae_title)} at {address.host}:{address.port}"
    limits = ConnectionLimits(
        message_timeout_s=address.message_timeout_s,
        delivery_rate_bytes_per_s_min=address.delivery_rate_bytes_per_s_min,
        idle_timeout_s=0,
    )
    pool = pool or ChunkPool(64 << 10, 1)
    security = address.security
    secured: dict[str, Any] = {}
    if security is not None:
        try:
            context = security.context()
        except ConfigError as error:
            raise AssociationFailed(f"{where} must be called over TLS: {error}") from error
        secured = {
            "ssl": context,
            "server_hostname": security.server_name,
            "ssl_handshake_timeout": address.connect_timeout_s,
            "ssl_shutdown_timeout": tls.SHUTDOWN_TIMEOUT_S,
        }
    why = f"{where} did not answer within {address.connect_timeout_s:g} s"
    try:
        async with asyncio.timeout(address.connect_timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(
                    lambda connection: user(connection, rq, address),
                    Role.REQUESTOR,
                    pool,
                    limits,
                    trace.association(address.host) if trace else None,
                    request=rq,
                    trusts=None if security is None else security.trusts,
                ),
                address.host,
                address.port,
                **secured,
            )
            requestor = connection.user
            assert isinstance(requestor, Requestor)
            try:
                await requestor.established()
            except asyncio.CancelledError:
                why = f"{where}: {connection.end_reason}" if connection.end_reason else why
                connection.abort("association not answered in time")
                raise
    except TimeoutError:
        raise AssociationFailed(why) from None
    except ssl.SSLCertVerificationError as error:
        raise AssociationFailed(f"{where} has a certificate that is not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise AssociationFailed(f"{where} and we agree on no TLS: {error.reason or error}") from error
    except OSError as error:
        raise AssociationFailed(f"{where} cannot be reached: {error.strerror or error}") from error
    except AssociationFailed as error:
        raise AssociationFailed(f"{where}: {error}") from error
    return requestor


@dataclass(frozen=True, slots=True)
class EchoTimes:
    """The durations of the two parts of `echo`."""

    association_s: float
    """From connecting until the association was accepted."""
    echo_s: float
    """From C-ECHO-RQ to its response."""


async def echo(peer: Peer, config: Config) -> EchoTimes:
    """Verifies a peer by C-ECHO. Raises AssociationFailed."""
    contexts = [PresentationContextRQ(1, VERIFICATION, PLAIN)]
    start_s = time.perf_counter()
    requestor = await open_association(Address.of(peer, config), contexts)
    accepted_s = time.perf_counter()
    assert requestor.accepted is not None
    if not requestor.accepted.contexts:
        await requestor.release()
        raise AssociationFailed(f"{peer.aet} does not accept the Verification SOP class")
    response = await requestor.request_message(1, lambda message_id: messages.CEchoRQ(message_id))
    end_s = time.perf_counter()
    await requestor.release()
    if response.status != 0:
        raise AssociationFailed(f"{peer.aet} answered C-ECHO with status {response.status:04X}")
    return EchoTimes(accepted_s - start_s, end_s - accepted_s)
