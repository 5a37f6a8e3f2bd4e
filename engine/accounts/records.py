"""The rows of the accounts database, as values. They are stored as JSON; a reader ignores fields that it does not know.

Times are seconds since 1970.
"""

from __future__ import annotations

from msgspec import Struct, field


class User(Struct, frozen=True, kw_only=True):
    """A person or a program that logs in."""

    name: str
    """As it was written first; `key_of` makes the key."""
    full_name: str = ""
    roles: tuple[str, ...] = ()
    password: str = ""
    """The argon2id hash; "": no password opens this account."""
    must_change_password: bool = False
    is_disabled: bool = False
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What rules compare with studies, as `referrer`: the names under which it refers patients."""
    source: str = ""
    """The provider that vouches for this user; "": this archive."""
    subject: str = ""
    """The user's name at the provider that never changes (`sub`)."""
    created: float = 0.0
    created_by: str = ""


class Session(Struct, frozen=True, kw_only=True):
    """One log-in."""

    user: str
    """The key of the user."""
    method: str
    """What proved the identity: password, password+code, passkey, oidc, link."""
    created: float
    used: float
    """The last request, to the minute."""
    until: float
    """It ends then at the latest."""
    address: str = ""
    agent: str = ""
    """The beginning of the browser's User-Agent."""
    provider: str = ""
    provider_session: str = ""
    """The session at the provider (`sid`), which may end this one."""
    id_token: str = ""
    """The provider's proof, for logging out there."""


class Link(Struct, frozen=True, kw_only=True):
    """A link that works once: the welcome to a new user, or a new password."""

    user: str
    """The name of the user; "": the one who follows it chooses a name."""
    roles: tuple[str, ...]
    """The roles of a user that is made by it."""
    until: float
    by: str
