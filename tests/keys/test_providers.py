"""The key providers beside the file: a PKCS#11 token (SoftHSM), a stub of Vault's transit engine, systemd-creds."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine.errors import KeyStoreError
from engine.keys import key_file
from engine.keys.pkcs11_token import Pkcs11Token
from engine.keys.providers import provider

SECRET = bytes(range(32))
CONTEXT = b"filmroom master key\0archive"
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"


def assert_wraps(kind: str, settings: dict[str, str]) -> None:
    wrapped = provider(kind, settings).wrap(SECRET, CONTEXT)
    assert base64.b64encode(SECRET).decode() not in wrapped
    assert provider(kind, settings).unwrap(wrapped, CONTEXT) == SECRET
    with pytest.raises(KeyStoreError):
        provider(kind, settings).unwrap(wrapped, b"another archive")


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    if not os.path.exists(SOFTHSM) or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "site", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "pin").write_text("1234\n")
    settings = {"module": SOFTHSM, "token": "site", "label": "filmroom", "pin_file": str(folder / "pin")}
    Pkcs11Token(settings).make_key()
    yield settings
    del os.environ["SOFTHSM2_CONF"]


def test_a_pkcs11_token_wraps_and_unwraps(token: dict[str, str]) -> None:
    assert_wraps("pkcs11", token)


def test_a_pkcs11_token_with_a_wrong_pin_or_label_is_an_error_with_its_name(
    token: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "pin").write_text("4321")
    for changes in ({"pin_file": str(tmp_path / "pin")}, {"label": "nothing"}, {"token": "nothing"}):
        settings = token | changes
        with pytest.raises(KeyStoreError, match=settings["label"]):
            provider("pkcs11", settings).wrap(SECRET, CONTEXT)
    with pytest.raises(KeyStoreError, match="needs a PIN"):
        provider("pkcs11", token | {"pin_file": ""}).wrap(SECRET, CONTEXT)


class TransitStub(BaseHTTPRequestHandler):
    """Speaks the two calls of Vault's transit engine that we use. It is no Vault: it XORs, and keeps no key safe."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.path.removeprefix("/v1/transit/").removesuffix("/site")
        status, data = 200, {}
        if self.headers["X-Vault-Token"] != "s.token":
            status = 403
        elif self.path == "/v1/transit/redirect/site":
            status = 307
        elif operation == "encrypt":
            data = {"ciphertext": f"vault:v1:{body['associated_data']}:{body['plaintext'][::-1]}"}
        elif operation == "decrypt":
            _, _, associated, text = body["ciphertext"].split(":")
            status = 200 if associated == body["associated_data"] else 400
            data = {"plaintext": text[::-1]}
        else:
            status = 404
        content = json.dumps({"data": data}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def transit() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), TransitStub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def vault(transit: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("s.token\n")
    return {"url": transit, "key": "site", "token_file": str(tmp_path / "token")}


def test_a_transit_engine_wraps_and_unwraps(vault: dict[str, str]) -> None:
    assert_wraps("vault", vault)


def test_a_transit_engine_that_refuses_or_is_away_is_an_error_with_its_address(
    vault: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("s.other")
    for changes, reason in (
        ({"token_file": str(tmp_path / "wrong")}, "403"),
        ({"key": "other"}, "404"),
        ({"url": "http://127.0.0.1:1"}, "cannot be used"),
        ({"token_file": str(tmp_path / "missing")}, "token file"),
    ):
        with pytest.raises(KeyStoreError, match=reason):
            provider("vault", vault | changes).wrap(SECRET, CONTEXT)


def test_a_token_goes_to_no_address_without_tls(vault: dict[str, str]) -> None:
    with pytest.raises(KeyStoreError, match="https"):
        provider("vault", vault | {"url": "http://vault.hospital:8200"})


def test_a_systemd_credential_is_read_where_systemd_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file.make(tmp_path / "filmroom")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert_wraps("systemd", {"name": "filmroom"})


def test_a_systemd_credential_is_decrypted_for_a_command_outside_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("systemd-creds") is None:
        pytest.skip("systemd-creds is not installed")
    key_file.make(tmp_path / "key")
    command = ["systemd-creds", "encrypt", "--with-key=host", "--name=filmroom", tmp_path / "key", tmp_path / "cred"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"systemd-creds cannot encrypt here: {done.stderr.decode(errors='replace').strip()}")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert_wraps("systemd", {"name": "filmroom", "path": str(tmp_path / "cred")})
    with pytest.raises(KeyStoreError, match="cannot be decrypted"):
        provider("systemd", {"name": "other", "path": str(tmp_path / "cred")})


def test_a_systemd_credential_that_is_not_there_says_how_to_add_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KeyStoreError, match="LoadCredentialEncrypted=filmroom"):
        provider("systemd", {"name": "filmroom"})
    with pytest.raises(KeyStoreError, match="no valid name"):
        provider("systemd", {"name": "../shadow"})


def test_an_unknown_provider_and_a_missing_setting_are_errors() -> None:
    with pytest.raises(KeyStoreError, match="choose one of file"):
        provider("abacus", {})
    for kind in ("file", "systemd", "pkcs11", "vault"):
        with pytest.raises(KeyStoreError, match="needs the setting"):
            provider(kind, {})
