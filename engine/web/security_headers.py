"""Headers of every answer that tell browsers what it may do there; pages of ours and OHIF's bring their own policy.

An answer of the archive may be what a sender wrote: XML with a style sheet, a report. Opened in a browser it is a
document of our origin, so its policy is a sandbox without scripts. Chromium's reader of PDF works in no sandbox, and
gives scripts in a PDF no access to our origin.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.settings import Http

POLICY: Final = "Content-Security-Policy"
SANDBOX: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox"
)
PDF: Final = "frame-ancestors 'self'"

_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": (
        "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), "
        "payment=(), usb=()"
    ),
}


def add(response: web.StreamResponse, settings: Http, *, is_https: bool) -> None:
    """Adds them to an answer. `is_https`: its client reached us by HTTPS."""
    headers = response.headers
    headers.update(_ALWAYS)
    # Other pages may embed an image without asking by CORS only where every page may use us.
    headers["Cross-Origin-Resource-Policy"] = "cross-origin" if "*" in settings.cors_origins else "same-origin"
    # A 304 would replace the policy of what the browser has.
    if POLICY not in headers and response.status != HTTPStatus.NOT_MODIFIED:
        headers[POLICY] = PDF if headers.get("Content-Type", "").startswith("application/pdf") else SANDBOX
    if is_https and settings.hsts_s:
        headers["Strict-Transport-Security"] = f"max-age={settings.hsts_s}"
