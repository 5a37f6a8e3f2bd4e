"""A key of the transit engine of HashiCorp Vault or OpenBao: POST /v1/<mount>/encrypt/<key> and …/decrypt/<key>.

The token is read from the file `token_file`, or else from VAULT_TOKEN. VAULT_ADDR overrides `url`, which keys.json has:
set it where others may write to the archive's disk, so that the token goes nowhere else. The context of a secret goes
along as associated data. An address without TLS is refused, but for this machine.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import orjson

from engine.errors import KeyStoreError
from engine.keys.provider_fields import setting

TIMEOUT_S = 15.0
_ANSWER_BYTES_MAX = 64 << 10
_TOKEN_BYTES_MAX = 4096
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would take the token elsewhere."""

    def redirect_request(self, *arguments: object) -> None:
        return None


class VaultTransit:
    """Wraps with a key of a transit engine."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._url = (os.environ.get("VAULT_ADDR") or setting(settings, "url", "vault")).rstrip("/")
        self._key = setting(settings, "key", "vault")
        self._mount = settings.get("mount") or "transit"
        self._token_file = settings.get("token_file", "")
        self._authority = settings.get("ca_file", "")
        parts = urlsplit(self._url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise KeyStoreError(f"the address {self._url} of the vault must begin with https://")

    def wrap(self, secret: bytes, context: bytes) -> str:
        """See `Provider`."""
        return self._ask("encrypt", "ciphertext", {"plaintext": _text(secret), "associated_data": _text(context)})

    def unwrap(self, wrapped: str, context: bytes) -> bytes:
        """See `Provider`."""
        text = self._ask("decrypt", "plaintext", {"ciphertext": wrapped, "associated_data": _text(context)})
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise KeyStoreError(f"the vault at {self._url} has answered with no Base64") from error

    def _ask(self, operation: str, field: str, body: Mapping[str, str]) -> str:
        path = f"{quote(self._mount, safe='/')}/{operation}/{quote(self._key, safe='')}"
        headers = {"X-Vault-Token": self._token(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/v1/{path}", orjson.dumps(dict(body)), headers, method="POST")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), urllib.request.ProxyHandler({})]
        try:
            if self._url.startswith("https"):
                context = ssl.create_default_context(cafile=self._authority or None)
                handlers.append(urllib.request.HTTPSHandler(context=context))
            with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as answer:
                value = orjson.loads(answer.read(_ANSWER_BYTES_MAX))["data"][field]
        except urllib.error.HTTPError as error:
            raise KeyStoreError(
                f"the vault at {self._url} refuses {operation} with {self._key}: {error.code}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KeyStoreError(f"the vault at {self._url} cannot be used: {error}") from error
        if not isinstance(value, str):
            raise KeyStoreError(f"the vault at {self._url} has answered without {field}")
        return value

    def _token(self) -> str:
        if not self._token_file:
            token = os.environ.get("VAULT_TOKEN", "")
            if not token:
                raise KeyStoreError("the vault needs a token: name a token_file, or set VAULT_TOKEN")
            return token
        try:
            with open(self._token_file, encoding="ascii") as file:
                return file.read(_TOKEN_BYTES_MAX).strip()
        except (OSError, ValueError) as error:
            raise KeyStoreError(f"the token file {self._token_file} cannot be read: {error}") from error


def open_provider(settings: Mapping[str, str]) -> VaultTransit:
    """The provider for `url` and `key`. Raises KeyStoreError."""
    return VaultTransit(settings)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
