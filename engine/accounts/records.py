"""The rows of the accounts database, as values. They are stored as JSON; a reader ignores fields that it does not know.

Times are seconds since 1970. `user` is the key of a user (`users.key_of`).
"""

from __future__ import annotations

from msgspec import Struct, field


class Passkey(Struct, frozen=True, kw_only=True):
    """A credential of WebAuthn. The secret never leaves the user's device."""

    id: bytes
    public_key: bytes
    sign_count: int
    name: str
    created: float
    transports: tuple[str, ...] = ()


class User(Struct, frozen=True, kw_only=True):
    """A person or a program that logs in."""

    name: str
    """As it was written first."""
    full_name: str = ""
    roles: tuple[str, ...] = ()
    password: str = ""
    """The argon2id hash; "": no password opens this account."""
    must_change_password: bool = False
    """Whether nothing is allowed before there is a new password."""
    is_disabled: bool = False
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What rules compare with studies, as `referrer`: the names under which it refers patients."""
    certificates: tuple[str, ...] = ()
    """Names of client certificates that stand for it, in the form of a [[peer]]'s `certificates`."""
    source: str = ""
    """The provider that vouches for this user; "": this archive."""
    subject: str = ""
    """The user's name at the provider that never changes (`sub`)."""
    totp_secret: str = ""
    """Base32; "": no codes are needed."""
    totp_used: int = 0
    """The time step of the last code: no code counts twice."""
    recovery_codes: tuple[str, ...] = ()
    """SHA-256 of codes that each work once, when the device with the codes is lost."""
    passkeys: tuple[Passkey, ...] = ()
    created: float = 0.0
    created_by: str = ""
    password_set: float = 0.0

    @property
    def has_second_factor(self) -> bool:
        """Whether a password alone does not open the account."""
        return bool(self.totp_secret)


class Session(Struct, frozen=True, kw_only=True):
    """One log-in, or one visit by a share."""

    user: str
    """"" for a share."""
    method: str
    """What proved the identity: password, password+code, passkey, oidc, link, share."""
    created: float
    used: float
    """The last request, to the minute."""
    until: float
    """It ends then at the latest."""
    share: str = ""
    """The id of the share that it uses."""
    address: str = ""
    agent: str = ""
    """The beginning of the browser's User-Agent."""
    provider: str = ""
    provider_session: str = ""
    """The session at the provider (`sid`), which may end this one."""
    id_token: str = ""
    """The provider's proof, for logging out there."""


class Key(Struct, frozen=True, kw_only=True):
    """An API key: a program acts for a user with it."""

    user: str
    name: str
    """What it is for."""
    until: float
    created: float
    created_by: str = ""
    roles: tuple[str, ...] = ()
    """Only these of the user's roles; (): all."""
    actions: tuple[str, ...] = ()
    """Only these of what the roles allow; (): all."""


class Link(Struct, frozen=True, kw_only=True):
    """A link that works once: the welcome to a new user, or a new password."""

    user: str
    """The name of the user; "": whoever follows it chooses a name."""
    roles: tuple[str, ...]
    """The roles of a user that is made by it."""
    until: float
    created_by: str = ""


class GrantRow(Struct, frozen=True, kw_only=True):
    """A right to some studies (`access.Grant`)."""

    holder_kind: str
    """user or role."""
    holder: str
    """The key of the user, or the name of the role."""
    actions: tuple[str, ...]
    studies: tuple[str, ...] = ()
    patient: tuple[str, str] | None = None
    """Patient ID and issuer."""
    created: float = 0.0
    until: float | None = None
    by: str = ""
    reason: str = ""
    is_break_glass: bool = False
    reviewed_by: str = ""
    """Who has looked at an emergency access afterwards."""
    reviewed: float = 0.0


class Share(Struct, frozen=True, kw_only=True):
    """What somebody outside may see, with a link."""

    studies: tuple[str, ...] = ()
    series: tuple[tuple[str, str], ...] = ()
    """Study and Series Instance UIDs: these alone; then there are no `studies` and no `patient`."""
    patient: tuple[str, str] | None = None
    may_download: bool = False
    """Whether instances may be taken away as files."""
    password: str = ""
    """The argon2id hash; "": the link is enough."""
    until: float
    uses_max: int = 0
    """How often it may be opened; 0: as often as one likes."""
    uses: int = 0
    used: float = 0.0
    created: float
    by: str
    """The actor who made it."""
    owner: str = ""
    """The key of that user."""
    recipient: str = ""
    """Whom it is for, in the words of the one who made it."""
    revoked: float = 0.0
    revoked_by: str = ""


class Failures(Struct, frozen=True, kw_only=True):
    """Wrong attempts since the last right one."""

    count: int
    last: float


class Used(Struct, frozen=True, kw_only=True):
    """Something that may be used once, and was."""

    until: float
    """It is not valid any more then anyway."""
