"""/fhir/.well-known/smart-configuration: where clients get tokens, and which scopes count here (SMART App Launch 2.2).

The provider of identities gives tokens; this server checks them (`identity`), and keeps to their scopes
(`access.smart`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine.web.errors import NotFound

if TYPE_CHECKING:
    from engine.web.request import Request

WELL_KNOWN: Final = "/.well-known/smart-configuration"
CAPABILITIES: Final = ("permission-patient", "permission-user", "permission-v1", "permission-v2")
SCOPES: Final = (
    *("patient/ImagingStudy.rs", "patient/DiagnosticReport.rs", "patient/Patient.r", "user/ImagingStudy.rs"),
    *("user/DiagnosticReport.rs", "user/Patient.rs", "user/*.rs", "system/ImagingStudy.rs", "system/*.rs"),
    "system/Subscription.cruds",
)


async def configuration(request: Request) -> web.Response:
    """The document. Raises NotFound, IdentityUnavailable."""
    provider = request.engine.identities.of_tokens
    if provider is None:
        raise NotFound("no provider of identities gives tokens for this server ([[oidc]] with audiences)")
    document = {
        "issuer": provider.settings.issuer,
        **await provider.endpoints(),
        "grant_types_supported": ["authorization_code", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": SCOPES,
        "capabilities": CAPABILITIES,
    }
    headers = {"Cache-Control": "no-cache"}
    return web.Response(body=orjson.dumps(document), content_type="application/json", headers=headers)
