"""Providers: who wraps the master key of an archive, and unwraps it when a process starts.

    file       a key in a file of mode 0400, on another disk than the archive (`key_file`)
    systemd    the same key as a systemd credential, encrypted by the machine's key or its TPM (`systemd_credential`)
    pkcs11     an AES key in an HSM or smart card (`pkcs11_token`)
    vault      a key of HashiCorp Vault's or OpenBao's transit engine (`vault`)

A provider is asked once a process, and never for data keys. Its settings name where the key is, and hold no secret:
they stand in keys.json, so that every command opens the archive without further options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.errors import KeyStoreError

KINDS = ("file", "systemd", "pkcs11", "vault")


class Provider(Protocol):
    """Wraps secrets with a key that the archive's disk does not have."""

    def wrap(self, secret: bytes, context: bytes) -> str:
        """The secret, readable only with the provider's key and for the same context. Raises KeyStoreError."""

    def unwrap(self, wrapped: str, context: bytes) -> bytes:
        """The secret. Raises KeyStoreError."""


def provider(kind: str, settings: Mapping[str, str]) -> Provider:
    """The provider of a kind. Raises KeyStoreError for an unknown kind and for settings that it cannot use."""
    from engine.keys import key_file, pkcs11_token, systemd_credential, vault

    match kind:
        case "file":
            return key_file.open_provider(settings)
        case "systemd":
            return systemd_credential.open_provider(settings)
        case "pkcs11":
            return pkcs11_token.open_provider(settings)
        case "vault":
            return vault.open_provider(settings)
    raise KeyStoreError(f"there is no key provider {kind!r}: choose one of {', '.join(KINDS)}")
