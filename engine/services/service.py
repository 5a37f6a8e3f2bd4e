"""What a service is: a row of the registry, and what it makes for each association.

A new service is one file that defines its `ServiceClass`, and one row in `registry`. It gets a `Session` and imports
nothing of the acceptor.

    SERVICE = ServiceClass(
        name="Modality Worklist",
        sop_class_uids=(uids.ModalityWorklistInformationModelFind,),
        action=Action.QUERY,                      who may do this may have it negotiated
        requests=frozenset({CFindRQ}),            what else comes on its contexts is refused
        is_cancellable=True,
        attach=operations(find, refuse),          find(session, presentation_context_id, rq, identifier), as a task
    )
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine.ul.negotiation import PLAIN_TRANSFER_SYNTAXES

if TYPE_CHECKING:
    from engine.access import Action
    from engine.dimse.assembly import DataSet
    from engine.dimse.messages import Message
    from engine.services.session import Session


class Handler(Protocol):
    """A service on one association: it gets the requests of its contexts.

    `message` is one of the `requests` of its `ServiceClass`, about the SOP class of its presentation context.
    """

    def request(self, presentation_context_id: int, message: Any, has_data_set: bool) -> None:
        """A command; what it says of a data set has not come yet."""

    def receive(self, presentation_context_id: int, message: Any, data_set: DataSet) -> None:
        """The data set of that command, or the last part of it, to be released by the handler."""

    def receive_part(self, presentation_context_id: int, message: Any, part: DataSet) -> None:
        """A part of a large data set, to be released by the handler; more follows."""

    def ended(self) -> None:
        """The association is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceClass:
    """A row of the registry."""

    name: str
    sop_class_uids: tuple[str, ...]
    """Abstract syntaxes of the presentation contexts that it serves."""
    action: Action
    """Its contexts are accepted from those who may do this."""
    requests: frozenset[type[Message]]
    attach: Callable[[Session], Handler]
    """Makes what serves one association."""
    responses: frozenset[type[Message]] = frozenset()
    """Responses to requests of ours on its contexts: `Session.responses` hands them to whoever waits."""
    is_cancellable: bool = False
    """Whether C-CANCEL may come for its requests."""
    transfer_syntaxes: tuple[str, ...] = PLAIN_TRANSFER_SYNTAXES
    """In our order of preference."""
    options: bytes = b""
    """What we can do of SOP class extended negotiation, byte by byte; empty: it is not answered."""
