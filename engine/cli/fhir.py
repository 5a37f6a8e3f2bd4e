"""What `filmroom fhir` does."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import audit
from engine.cli import backend
from engine.config import Config
from engine.errors import PushFailed


def push(
    config: Config, url: str, *, dicomweb: str, token_file: Path | None, ca_file: Path | None, is_whole: bool, r5: bool
) -> dict[str, Any]:
    """Brings a FHIR server up to date. Raises EngineError."""
    from engine.exchange import fhir_push
    from engine.fhir.release import Release

    try:
        tls = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
    except (OSError, ssl.SSLError) as error:
        raise PushFailed(f"the file of authorities cannot be used: {error}") from None
    release = Release.R5 if r5 else Release.R4
    server = fhir_push.Server(url=url, dicomweb=dicomweb, token_file=token_file, tls=tls, release=release)
    with backend.opened(config) as archive:

        def record(uids: Sequence[str]) -> None:
            if not audit.is_on():
                return
            facts = {uid: archive.study_facts(uid) for uid in uids}
            audit.begin_now(
                *(
                    audit.Event(
                        kind=audit.Kind.EXPORTED,
                        principal=backend.operator(),
                        action="filmroom fhir push",
                        patient=fact.patient,
                        accession=fact.accession,
                        study=uid,
                        peer=url,
                    )
                    for uid, fact in facts.items()
                )
            )

        pushed = fhir_push.push(archive, server, record, is_whole=is_whole)
    return {
        "url": url,
        "pushed": "every study" if pushed.is_whole else "what has changed",
        "written": pushed.written,
        "deleted": pushed.deleted,
        "failed": len(pushed.failed),
        "reasons": [f"{uid}: {reason}" for uid, reason in list(pushed.failed.items())[:20]],
    }
