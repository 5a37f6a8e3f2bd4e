"""An AES key in a PKCS#11 token, which never leaves it: CKM_AES_GCM, PKCS#11 2.40. Needs the package python-pkcs11.

The PIN is read from the file `pin_file`, or else from FILMROOM_PKCS11_PIN: it stands neither in keys.json nor in the
configuration.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from engine.errors import KeyStoreError
from engine.keys.provider_fields import setting

_NONCE_BYTES = 12
_TAG_BITS = 128
_PIN_BYTES_MAX = 256


class Pkcs11Token:
    """Wraps with the key `label` of a token."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._module = setting(settings, "module", "pkcs11")
        self._token = setting(settings, "token", "pkcs11")
        self._label = setting(settings, "label", "pkcs11")
        self._pin_file = settings.get("pin_file", "")

    def wrap(self, secret: bytes, context: bytes) -> str:
        """See `Provider`."""
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._crypt("encrypt", secret, nonce, context)).decode("ascii")

    def unwrap(self, wrapped: str, context: bytes) -> bytes:
        """See `Provider`."""
        try:
            data = base64.b64decode(wrapped, validate=True)
        except binascii.Error as error:
            raise KeyStoreError(f"the wrapping by {self._name} is damaged") from error
        return self._crypt("decrypt", data[_NONCE_BYTES:], data[:_NONCE_BYTES], context)

    def make_key(self) -> None:
        """Makes the key in the token; it can be neither read nor exported. Raises KeyStoreError."""
        pkcs11 = _library()
        try:
            with self._session(pkcs11, rw=True) as session:
                session.generate_key(pkcs11.KeyType.AES, 256, label=self._label, store=True)
        except pkcs11.exceptions.PKCS11Error as error:
            raise self._failure(error) from error

    @property
    def _name(self) -> str:
        return f"the key {self._label} of the PKCS#11 token {self._token}"

    def _crypt(self, operation: str, data: bytes, nonce: bytes, context: bytes) -> bytes:
        pkcs11 = _library()
        try:
            with self._session(pkcs11) as session:
                key = session.get_key(
                    object_class=pkcs11.ObjectClass.SECRET_KEY, key_type=pkcs11.KeyType.AES, label=self._label
                )
                parameters = pkcs11.GCMParams(nonce, context, _TAG_BITS)
                mechanism = pkcs11.Mechanism.AES_GCM
                return bytes(getattr(key, operation)(data, mechanism=mechanism, mechanism_param=parameters))
        except pkcs11.exceptions.PKCS11Error as error:
            raise self._failure(error) from error

    def _session(self, pkcs11: Any, *, rw: bool = False) -> AbstractContextManager[Any]:
        try:
            token = pkcs11.lib(self._module).get_token(token_label=self._token)
        except RuntimeError as error:
            if isinstance(error, pkcs11.exceptions.PKCS11Error):
                raise
            raise KeyStoreError(f"the PKCS#11 module {self._module} cannot be used: {error}") from error
        session: AbstractContextManager[Any] = token.open(rw=rw, user_pin=self._pin())
        return session

    def _pin(self) -> str:
        if not self._pin_file:
            pin = os.environ.get("FILMROOM_PKCS11_PIN", "")
            if not pin:
                raise KeyStoreError(f"{self._name} needs a PIN: name a pin_file, or set FILMROOM_PKCS11_PIN")
            return pin
        try:
            with open(self._pin_file, encoding="ascii") as file:
                return file.read(_PIN_BYTES_MAX).strip()
        except (OSError, ValueError) as error:
            raise KeyStoreError(f"the PIN file {self._pin_file} cannot be read: {error}") from error

    def _failure(self, error: Exception) -> KeyStoreError:
        return KeyStoreError(f"{self._name} cannot be used: {type(error).__name__} {error}".rstrip())


def open_provider(settings: Mapping[str, str]) -> Pkcs11Token:
    """The provider for `module`, `token` and `label`. Raises KeyStoreError."""
    return Pkcs11Token(settings)


def _library() -> Any:
    try:
        importlib.import_module("pkcs11.exceptions")
        return importlib.import_module("pkcs11")
    except ImportError as error:
        reason = "the key provider pkcs11 needs the package python-pkcs11: pip install filmroom[pkcs11]"
        raise KeyStoreError(reason) from error
