"""`filmroom cert`: certificates for sites without a certificate authority."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import click

from engine import certificates
from engine.certificates import Certificate, KeyKind
from engine.cli import options, output
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("kind"),
    wrapped("subject"),
    whole("expires"),
    whole("key"),
    wrapped("names"),
    wrapped("fingerprint"),
)

_FOLDER = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
_KEY_KIND = click.option(
    "--key", "kind", type=click.Choice(["ec", "rsa"]), default="ec", show_default=True, help="Kind of its private key."
)


@options.group("cert")
def command() -> None:
    """Make certificates for DICOM over TLS and HTTPS, where no authority of the site does."""


@command.command("authority", short_help="Make a certificate authority.")
@_FOLDER
@click.option("--name", default="Filmroom site authority", show_default=True, help="Its common name.")
def authority(folder: Path, name: str) -> None:
    """Make a certificate authority in FOLDER: ca.pem, ca.key and ca.crl.

    Keep ca.key away from the server: who has it can pretend to be any peer. Give ca.pem to every peer, and name it in
    tls.trust.
    """
    _show_path(certificates.make_authority(folder, name))


@command.command("issue", short_help="Make a certificate for a server or a peer.")
@_FOLDER
@click.argument("name")
@click.argument("host_names", nargs=-1, metavar="[HOST]...")
@_KEY_KIND
def issue(folder: Path, name: str, host_names: tuple[str, ...], kind: str) -> None:
    """Make a certificate NAME, signed by the authority in FOLDER, for the host names and addresses HOST.

    NAME.pem and NAME.key are for tls.certificates and tls.keys of a server, or for a modality. Make a second one with
    --key rsa for peers that know only RSA.
    """
    path = certificates.issue(folder, name, host_names, cast("KeyKind", kind))
    _show(certificates.describe(path))


@command.command("revoke", short_help="Revoke a certificate.")
@_FOLDER
@click.argument("certificate", type=click.Path(path_type=Path, dir_okay=False))
def revoke(folder: Path, certificate: Path) -> None:
    """Add CERTIFICATE to the revocation list of the authority in FOLDER.

    Name the list in tls.crls, and run `filmroom reload`.
    """
    _show_path(certificates.revoke(folder, certificate))


@command.command("renew-crl", short_help="Write the revocation list anew, before it expires.")
@_FOLDER
def renew_crl(folder: Path) -> None:
    """Write the revocation list of the authority in FOLDER anew. One that has expired keeps every peer out."""
    _show_path(certificates.renew_crl(folder))


@command.command("show", short_help="Show what certificates and revocation lists say.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
def show(files: tuple[Path, ...]) -> None:
    """Show subject, names, key, fingerprint and end of the certificates and revocation lists in FILES."""
    for path in files:
        _show(certificates.describe(path))


def _show_path(path: Path) -> None:
    """What was written: a line for people and scripts."""
    if output.as_json():
        output.write_one({"path": str(path)})
    else:
        output.write_line(output.to_text(str(path)))


def _show(descriptions: Sequence[object]) -> None:
    output.write_list([_row(each) for each in descriptions], COLUMNS)


def _row(description: Any) -> dict[str, object]:
    row: dict[str, object] = dataclasses.asdict(description)
    row["path"] = str(description.path)
    row["expires"] = description.expires.isoformat(timespec="seconds") if description.expires else ""
    if isinstance(description, Certificate):
        row["kind"] = "authority" if description.is_authority else "certificate"
        row["names"] = list(description.names)
    else:
        row |= {"kind": "revocation list", "subject": description.issuer, "key": "", "names": [], "fingerprint": ""}
        row["updated"] = description.updated.isoformat(timespec="seconds")
    return row
