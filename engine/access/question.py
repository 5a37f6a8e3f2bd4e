"""The parts of an access question: actions, targets and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol, TypeAlias

from engine.access.principal import Principal
from engine.access.scope import Scope


class Action(Enum):
    """An operation that needs permission."""

    ASSOCIATE = auto()
    """Open an association, and verify us by C-ECHO."""
    STORE = auto()
    COMMIT = auto()
    """Ask whether what was stored is safe (storage commitment)."""
    QUERY = auto()
    RETRIEVE = auto()
    SEND = auto()
    """Have instances sent to a `Destination`."""
    DELETE = auto()
    RESTORE = auto()
    """See the trash, and restore from it."""
    EMPTY = auto()
    """Empty the trash: delete for good."""
    WORKLIST = auto()
    """See worklists, report performed procedure steps (MPPS), and notify of instances elsewhere (IAN)."""
    WORKITEM = auto()
    """See, create and perform workitems (UPS), and subscribe to their events."""
    CORRECT = auto()
    """Correct patients, studies or series, and undo corrections."""
    HOLD = auto()
    """Set and end legal holds."""
    MANAGE = auto()
    """Manage the quarantine and jobs."""
    CONFIGURE = auto()
    """Change settings while the server runs: peers."""
    OBSERVE = auto()
    """See the state and the use of the server: metrics, jobs, peers."""
    SHARE = auto()
    """Give somebody outside a link to a study or patient."""
    BREAK_GLASS = auto()
    """Give oneself a study or patient in an emergency, with a reason."""
    AUDIT = auto()
    """Search and verify the audit trail."""
    ADMINISTER = auto()
    """Manage users, roles, keys and the shares of others."""

    @property
    def title(self) -> str:
        """Its name in the configuration, and for people."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Destination:
    """An application entity that instances go to."""

    ae_title: str
    """A received or a written title."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything in the archive."""


@dataclass(frozen=True, slots=True)
class Records:
    """The resources of FHIR of one kind."""

    kind: str
    """As ImagingStudy."""
    interaction: str
    """`r`: to read one by its id; `s`: to search."""


@dataclass(frozen=True, slots=True)
class Service:
    """The server itself and what it keeps for its users: jobs, grants, the change feed. FHIR has no resource for it."""


Target: TypeAlias = Stored | Destination | Records | Service

ARCHIVE: Final = Stored()
SERVICE: Final = Service()


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes or no; true when it is yes."""

    is_allowed: bool
    reason: str = ""
    """The reason for a refusal, for the log only: it reveals more than the requester may know."""

    is_alarming: bool = False
    """Whether somebody seems to pretend to be somebody else: a security alert."""

    def __bool__(self) -> bool:
        return self.is_allowed


ALLOWED: Final = Decision(True)


class Access(Protocol):
    """A set of rules."""

    def allowed(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Decision:
        """Whether the principal may perform the action on the target."""

    def scope(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        """The studies on which the principal may perform the action; `target`: in which form they are asked for."""

    def scope_of_actor(self, actor: str, action: Action) -> Scope:
        """The studies that the requester of a job may reach by now."""

    def scope_of_destination(self, ae_title: str) -> Scope:
        """The studies that an application entity may receive from us."""

    def scope_of_peer(self, ae_title: str, action: Action) -> Scope:
        """The studies that an application entity may reach by its role."""
