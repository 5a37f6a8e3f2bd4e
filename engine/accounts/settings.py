"""The [accounts] table: passwords and sessions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class AccountSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Users who log in over HTTP. A reload applies it to what is made from then on."""

    session_idle_s: Annotated[int, Meta(ge=60, le=86_400)] = 900
    """Seconds without a request after which a session ends: people leave their places without logging out."""

    session_s: Annotated[int, Meta(ge=60, le=604_800)] = 43_200
    """Seconds from the log-in to the end of a session, whatever it does: a shift."""

    password_length_min: Annotated[int, Meta(ge=8, le=128)] = 12
    """Characters that a password must have. There is no rule about their kinds: length is what helps (NIST SP
    800-63B)."""
