"""The accounts of an archive, for the commands user, key, share and grant: they work beside a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine import audit
from engine.access.networks import is_loopback
from engine.access.roles import BY_NAME
from engine.accounts.database import FOLDER, Database
from engine.accounts.records import GrantRow, Key, Session, Share, User
from engine.audit import Alert, Event
from engine.cli import backend
from engine.errors import AccountsRefused, StorageError

if TYPE_CHECKING:
    from engine.config import Config

Command = TypeVar("Command", bound="Callable[..., object]")

studies_option = click.option(
    "--study", "studies", metavar="UID", multiple=True, help="Study Instance UID; may be repeated."
)
patient_option = click.option("--patient", metavar="ID", help="All studies of a patient: ID or ID^^^ISSUER.")


def actions_option(help: str, default: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """The option --action of a command, which may be repeated."""
    return click.option(
        "--action",
        "actions",
        multiple=True,
        type=click.Choice(sorted(BY_NAME)),
        metavar="ACTION",
        default=default,
        show_default=bool(default),
        help=help,
    )


@contextmanager
def opened(config: Config) -> Iterator[Database]:
    """The accounts of the archive. Raises StorageError if there is no archive, AccountsError."""
    if not (config.data / "archive.json").exists():
        raise StorageError(f"{config.data} holds no archive: start `filmroom serve --data {config.data}` first")
    with backend.recorded(config):
        database = Database(config.data / FOLDER)
        try:
            yield database
        finally:
            database.close()


def record(what: str, *, study: str = "", alert: Alert = Alert.USER, reason: str = "") -> None:
    """Writes a change to the audit log."""
    event = Event(
        kind=audit.Kind.ALERT,
        alert=alert,
        principal=backend.operator(),
        study=study,
        action="filmroom",
        detail=what,
        reason=reason,
    )
    audit.write(event)


def check_studies(config: Config, study_instance_uids: Iterable[str]) -> None:
    """Raises NotStored for studies that are not there: most likely a UID was mistyped."""
    with backend.opened(config) as archive:
        missing = [f"study {uid}" for uid in study_instance_uids if not archive.sees(uid)]
    backend.refuse_missing(missing, "nothing was changed; --patient also covers studies that come later")


def studies_of_series(config: Config, series_instance_uids: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Each series with its study. Raises NotStored for those that are not there."""
    pairs: dict[str, str] = {}
    series_instance_uids = tuple(series_instance_uids)
    with backend.opened(config) as archive:
        for uid in series_instance_uids:
            for match in archive.find("series", {"SeriesInstanceUID": uid, "StudyInstanceUID": ""}):
                pairs[uid] = str(match["StudyInstanceUID"])
    missing = [f"series {uid}" for uid in series_instance_uids if uid not in pairs]
    backend.refuse_missing(missing, "nothing was changed")
    return tuple((pairs[uid], uid) for uid in series_instance_uids)


def check_roles(config: Config, names: Iterable[str]) -> tuple[str, ...]:
    """The names of roles. Raises AccountsRefused for one that does not exist."""
    from engine.access.roles import roles_of

    known = roles_of(config.roles)
    for name in names:
        if name not in known:
            raise AccountsRefused(f"there is no role {name!r}; there are {', '.join(sorted(known))}")
    return tuple(names)


def root_of(config: Config) -> str:
    """The address of the page."""
    if config.http.public_root:
        return config.http.public_root.rstrip("/")
    is_tls = config.http.certificate is not None or (
        bool(config.tls.certificates) and not (config.http.plain or is_loopback(config.http.host))
    )
    scheme = "https" if is_tls else "http"
    host = "localhost" if config.http.host in ("0.0.0.0", "::") else config.http.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.http.port}"


def end_of(until: datetime | None, days: float) -> float:
    """When something ends: at that time, or in so many days."""
    return (until or datetime.now(UTC) + timedelta(days=days)).timestamp()


def patient_of(text: str | None) -> tuple[str, str] | None:
    """ID or ID^^^ISSUER."""
    if text is None:
        return None
    identifier, _, issuer = text.partition("^^^")
    if not identifier:
        raise click.BadParameter("write a patient as ID or ID^^^ISSUER")
    return identifier, issuer


def time_text(seconds: float | None) -> str:
    """A time in the machine's zone; "": none."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else ""


def user_row(user: User) -> dict[str, Any]:
    """A user without secrets."""
    factors = [name for name, has in (("totp", user.totp_secret), ("passkey", user.passkeys)) if has]
    return {
        "name": user.name,
        "full_name": user.full_name,
        "roles": list(user.roles),
        "state": "disabled" if user.is_disabled else "active" if _can_enter(user) else "invited",
        "second_factor": factors,
        "source": user.source,
        "created": time_text(user.created),
    }


def session_row(identifier: str, session: Session) -> dict[str, Any]:
    """A session without secrets."""
    return {
        "id": identifier,
        "user": session.user or f"share {session.share}",
        "method": session.method,
        "address": session.address,
        "used": time_text(session.used),
        "until": time_text(session.until),
    }


def key_row(identifier: str, key: Key) -> dict[str, Any]:
    """An API key without its secret."""
    return {
        "id": identifier,
        "user": key.user,
        "name": key.name,
        "roles": list(key.roles),
        "actions": list(key.actions),
        "until": time_text(key.until),
    }


def share_row(identifier: str, share: Share) -> dict[str, Any]:
    """A share without its secret."""
    return {
        "id": identifier,
        "what": [*share.studies, *(f"series {series}" for _, series in share.series)] or [_patient_text(share.patient)],
        "recipient": share.recipient,
        "may": "download" if share.may_download else "view",
        "until": "revoked" if share.revoked else time_text(share.until),
        "uses": f"{share.uses} of {share.uses_max}" if share.uses_max else str(share.uses),
        "by": share.by,
    }


def grant_row(identifier: str, row: GrantRow) -> dict[str, Any]:
    """A grant."""
    return {
        "id": identifier,
        "to": row.holder if row.holder_kind == "user" else f"role {row.holder}",
        "what": list(row.studies) or [_patient_text(row.patient)],
        "actions": list(row.actions),
        "until": time_text(row.until),
        "by": row.by,
        "reason": f"EMERGENCY: {row.reason}" if row.is_break_glass else row.reason,
    }


def _can_enter(user: User) -> bool:
    return bool(user.password or user.passkeys or user.source or user.certificates)


def _patient_text(patient: tuple[str, str] | None) -> str:
    if patient is None:
        return ""
    return f"patient {patient[0]}" + (f"^^^{patient[1]}" if patient[1] else "")
