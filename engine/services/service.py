"""The interface of a service: a row of the registry, and a handler for each association.

To add a service, write one file that defines its `ServiceClass`, and add a row to `registry`. Its handler gets a
`Session`; do not import the acceptor.

    SERVICE = ServiceClass(
        name="Modality Worklist",
        sop_class_uids=(uids.ModalityWorklistInformationModelFind,),
        action=Action.WORKLIST,                   the permission that its negotiation needs
        requests=frozenset({CFindRQ}),            other messages on its contexts are refused
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
    """A service on one association: handles the requests of its contexts.

    `message` is one of the `requests` of its `ServiceClass`, about the SOP class of its presentation context.
    """

    def request(self, presentation_context_id: int, message: Any, has_data_set: bool) -> None:
        """Handles a command; its data set, if any, has not arrived yet."""

    def receive(self, presentation_context_id: int, message: Any, data_set: DataSet) -> None:
        """Handles the data set of that command, or its last part. The handler must release it."""

    def receive_part(self, presentation_context_id: int, message: Any, part: DataSet) -> None:
        """Handles a part of a large data set; more parts follow. The handler must release it."""

    def ended(self) -> None:
        """The association has ended."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceClass:
    """A row of the registry."""

    name: str
    sop_class_uids: tuple[str, ...]
    """Abstract syntaxes of the presentation contexts that it serves."""
    action: Action
    """The permission that a peer needs for its contexts."""
    requests: frozenset[type[Message]]
    attach: Callable[[Session], Handler]
    """Makes the handler for one association."""
    responses: frozenset[type[Message]] = frozenset()
    """Responses to our own requests on its contexts: `Session.responses` passes them to the waiting tasks."""
    is_cancellable: bool = False
    """Whether its requests can be cancelled by C-CANCEL."""
    transfer_syntaxes: tuple[str, ...] = PLAIN_TRANSFER_SYNTAXES
    """In our order of preference."""
    instances_class: str = ""
    """The SOP class that requests about instances name instead of the context's; "": they name the context's."""
    options: bytes = b""
    """The options that we support in SOP class extended negotiation, byte by byte; empty: it is not answered."""
