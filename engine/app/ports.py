"""The ports that the server listens on, one for each front. Imports no front: the supervisor serves nothing itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.accounts import links
from engine.accounts.database import FOLDER, Database
from engine.messaging.sources import Sources
from engine.net.trace import make_folder
from engine.runtime.front import Port, Verdict
from engine.services import first_pdu
from engine.tls import server_context
from engine.web import first_bytes, https

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.config import Config


class FilmroomComposition:
    """Implements `server.supervisor.Composition`."""

    worker_module = "engine.app.worker"
    caretaker_module = "engine.server.caretaker"
    http_modules = ("engine.web.front", "engine.exchange.runner")
    """What a worker imports beside its module if HTTP is enabled."""
    messages_module = "engine.app.messages"

    def ports(self, config: Callable[[], Config]) -> list[Port]:
        """The DICOM port and, where they are enabled, those of DICOM over TLS, of HTTP and of HL7.

        Raises ConfigError when the files of [tls] or [http] cannot be used, HTTP would be open without TLS, or what an
        [[hl7_source]] names does not exist.
        """

        def judge(head: bytes) -> Verdict:
            return first_pdu.judge(head, config().limits.associate_pdu_length_max)

        initial = config()
        ports = [
            Port(
                front="dicom",
                protocol="DICOM",
                host=initial.host,
                number=initial.dicom_port,
                judge=judge,
                silence_s_max=lambda: config().limits.artim_timeout_s,
            )
        ]
        if initial.tls.enabled:
            server_context(initial.tls)  # the files must be usable
            ports.append(
                Port(
                    front="dicom-tls",
                    protocol="DICOM over TLS",
                    host=initial.tls.host,
                    number=initial.tls.port,
                    judge=first_pdu.judge_secure,
                    silence_s_max=lambda: config().limits.artim_timeout_s,
                    scheme="dicom-tls",
                )
            )
        if initial.http.enabled:
            is_tls = (https_settings := https.settings_of(initial)) is not None
            if https_settings is not None:
                https.server_context(https_settings)
            ports.append(
                Port(
                    front="http",
                    protocol="HTTPS" if is_tls else "HTTP",
                    host=initial.http.host,
                    number=initial.http.port,
                    judge=lambda head: first_bytes.judge(head, is_tls=is_tls),
                    silence_s_max=lambda: config().http.header_timeout_s,
                    scheme="https" if is_tls else "http",
                )
            )
        if initial.hl7_listeners:
            Sources(initial.hl7, initial.hl7_sources)
        for listener in initial.hl7_listeners:
            if listener.tls:
                server_context(initial.tls)
            ports.append(
                Port(
                    front="hl7-tls" if listener.tls else "hl7",
                    protocol="HL7",
                    host=listener.host,
                    number=listener.port,
                    judge=lambda head: Verdict(is_complete=True),
                    silence_s_max=lambda: math.inf,
                    scheme="mllps" if listener.tls else "mllp",
                    is_lone=True,
                )
            )
        return ports

    def welcome(self, config: Config, urls: Sequence[str]) -> str:
        """The link that makes the first administrator. From then on everybody has to log in."""
        root = config.http.public_root.rstrip("/") or next((url for url in urls if url.startswith("http")), "")
        if not root or config.http.login == "off":
            return ""
        database = Database(config.data / FOLDER)
        try:
            token = links.make(database, roles=links.FIRST_ROLES, by="filmroom serve")
        finally:
            database.close()
        return f"make yourself administrator within a day: {root.rstrip('/')}/#/welcome/{token}"

    def prepare(self, config: Config) -> None:
        """Makes the folder of wire traces."""
        if config.log.wire_trace is not None:
            make_folder(config.log.wire_trace)
