"""A key as a systemd credential, which the machine's key or its TPM has encrypted.

In a service with `LoadCredentialEncrypted=NAME:FILE` systemd has decrypted it into $CREDENTIALS_DIRECTORY/NAME. For a
command outside of the service, root may decrypt FILE by `systemd-creds`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from engine.errors import KeyStoreError
from engine.keys.key_file import KeyInMemory, parse
from engine.keys.provider_fields import setting

_TIMEOUT_S = 30


def open_provider(settings: Mapping[str, str]) -> KeyInMemory:
    """The provider for the credential `name`, whose encrypted form may be in the file `path`. Raises KeyStoreError."""
    name = setting(settings, "name", "systemd")
    what = f"the systemd credential {name}"
    if "/" in name or name.startswith("."):
        raise KeyStoreError(f"{what} has no valid name")
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if folder and (Path(folder) / name).is_file():
        try:
            content = (Path(folder) / name).read_bytes()
        except OSError as error:
            raise KeyStoreError(f"{what} cannot be read: {error.strerror}") from error
    else:
        content = _decrypted(name, settings.get("path", ""), what)
    return KeyInMemory(parse(content, what), what)


def _decrypted(name: str, path: str, what: str) -> bytes:
    if not path:
        raise KeyStoreError(f"{what} is not there: add LoadCredentialEncrypted={name}:FILE to the service")
    try:
        done = subprocess.run(
            ["systemd-creds", "decrypt", f"--name={name}", path, "-"],
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeyStoreError(f"{what} cannot be decrypted: systemd-creds: {error}") from error
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise KeyStoreError(f"{what} cannot be decrypted: {reason}")
    return done.stdout
