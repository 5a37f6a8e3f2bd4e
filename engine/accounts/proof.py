"""Proof: a credential of ours that was valid when it was looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.access import Kind, Principal
from engine.accounts import tokens
from engine.accounts.records import Key, Session, Share, User

SESSION: Final = "s-"
KEY: Final = "k-"


@dataclass(frozen=True, slots=True)
class Proof:
    """A session of a user or of a share, or an API key."""

    digest: bytes
    """The key of its row."""
    until: float
    """It ends then at the latest."""
    user: User | None = None
    """None: a visitor with a share."""
    session: Session | None = None
    key: Key | None = None
    share: Share | None = None

    @property
    def identifier(self) -> str:
        """As in `Principal.session`."""
        return (SESSION if self.key is None else KEY) + tokens.id_of(self.digest)

    def principal(self, address: str) -> Principal:
        """Who shows it, from this address."""
        return Principal(
            Kind.HTTP,
            "" if self.user is None else self.user.name,
            address,
            session=self.identifier,
            share="" if self.session is None else self.session.share,
        )
