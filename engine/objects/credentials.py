"""Credentials for an object store from a file, in the form in which its provider hands them out.

    S3, Azure    [default]                       names as in ~/.aws/credentials, with or without "aws_"; account_key,
                 aws_access_key_id = …           sas_token
                 aws_secret_access_key = …
    Google       the JSON of a service account

Without a file, obstore looks into the environment, and asks the cloud for the role of this machine.
"""

from __future__ import annotations

import configparser
import os
import stat
from pathlib import Path

from engine.errors import ConfigError

FILE_BYTES_MAX = 1 << 16
_NAMES = frozenset(
    {"access_key_id", "secret_access_key", "session_token", "account_key", "sas_token", "account_name"}
    | {"client_id", "client_secret", "tenant_id"}
)


def read(path: Path | None) -> dict[str, str]:
    """The settings of obstore that the file has; none without a file. Raises ConfigError, which names no value."""
    if path is None:
        return {}
    text = _text(path)
    if text.lstrip().startswith("{"):
        return {"service_account_key": text}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        section = parser["default"]
    except (configparser.Error, KeyError):
        raise ConfigError(f"{path}: no credentials: a section [default] or a service account is expected") from None
    values = {name.removeprefix("aws_").removeprefix("azure_storage_"): value for name, value in section.items()}
    found = {name: value for name, value in values.items() if name in _NAMES and value}
    if not found:
        raise ConfigError(f"{path}: [default] has no credentials")
    return found


def secret(path: Path) -> bytes:
    """The 32 bytes of a file of 64 hex digits. Raises ConfigError."""
    try:
        key = bytes.fromhex(_text(path).strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"{path}: 64 hex digits are expected; `openssl rand -hex 32` makes them")
    return key


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise ConfigError(f"{path} can be read by others: chmod 600")
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{path} is too long for credentials")
        return content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text") from None
