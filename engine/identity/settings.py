"""The [[oidc]] tables: servers that vouch for users (OpenID Connect)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from engine.access.role_settings import RoleName
from engine.setting import Seconds

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
_Issuer = Annotated[
    str, Meta(pattern=r"^https?://[^\s?#@]+$", max_length=1024, description="an address as https://NAME")
]
_Word = Annotated[str, Meta(pattern=r"^[!#-\[\]-~]+$", description="a word without spaces")]
ClaimPath = Annotated[str, Meta(min_length=1, max_length=256, description="the name of a claim")]
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Oidc(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A provider of identities by OpenID Connect, as Keycloak or Entra ID: its users log in with it, and its access
    tokens open the HTTP port."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="1 to 32 of a-z, 0-9 and -")]
    """Its name in addresses and in accounts. The address to register with the provider for the way back is
    https://PACS/api/oidc/NAME/callback."""

    label: Annotated[str, Meta(max_length=64)] = ""
    """The text on its button on the page; unset: its name."""

    issuer: _Issuer
    """Its address, exactly as its tokens have it in iss; below it lies /.well-known/openid-configuration. https, but on
    this machine."""

    client_id: Annotated[str, Meta(min_length=1, max_length=256)]
    """Our name there."""

    client_secret_file: Path | None = None
    """A file with our secret there; unset: we are a public client, and only PKCE protects the exchange."""

    ca_file: Path | None = None
    """A PEM file with the authorities that its certificate is verified against; unset: those of this machine."""

    login: bool = True
    """Whether people can log in with it on the page."""

    scopes: tuple[_Word, ...] = ("openid", "profile")
    """What is asked for at the log-in; openid is needed."""

    acr_values: tuple[_Word, ...] = ()
    """Authentication contexts, one of which a log-in must have, as with a second factor; none: any."""

    audiences: tuple[str, ...] = ()
    """Bearer tokens must have one of these in aud. None: its tokens are not accepted as bearer tokens, only log-ins.
    Keycloak writes "account" unless a client has an audience mapper: with "account" here, tokens of every client of the
    realm would be accepted."""

    algorithms: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256", "ES384")
    """Signatures that are accepted. All have a public key, so that nobody can sign with what everybody can read."""

    user_claim: ClaimPath = "preferred_username"
    """Where a token has the user name. The parts of a path are separated by dots."""

    name_claim: ClaimPath = "name"
    """Where it has the name for people."""

    role_claims: tuple[ClaimPath, ...] = ("realm_access.roles", "resource_access.{client_id}.roles", "groups", "roles")
    """Where it has roles or groups: texts or lists of texts."""

    roles: dict[str, RoleName] = field(default_factory=dict)
    """Which of those stands for which role here, as {pacs-radiologists = "radiologist"}; others stand for none. Empty:
    roles are given here (`filmroom user`), and who logs in for the first time has those of `default_roles`."""

    default_roles: tuple[RoleName, ...] = ()
    """The roles of everybody whom it vouches for, beside the others."""

    attributes: dict[str, ClaimPath] = field(default_factory=dict)
    """Attributes of users for the rules of roles, each with the place of its values, as {department = "department"}."""

    patient_id_issuer: Annotated[str, Meta(max_length=64)] = ""
    """The Issuer of Patient ID of the patient whom a SMART token names in its claim patient."""

    clock_skew_s: Annotated[float, Meta(ge=0, le=300)] = 30.0
    """Seconds by which its clock and ours may differ."""

    timeout_s: Seconds = 10.0
    """Seconds for each of its answers."""

    def __post_init__(self) -> None:
        address = urlsplit(self.issuer)
        if address.scheme != "https" and address.hostname not in _LOCAL:
            raise ValueError(f"the issuer of [[oidc]] {self.name} must be https")
        if "openid" not in self.scopes:
            raise ValueError(f"the scopes of [[oidc]] {self.name} need openid")

    @property
    def decides_roles(self) -> bool:
        """Whether it says which roles its users have."""
        return bool(self.roles)
