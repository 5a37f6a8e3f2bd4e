"""What DIMSE and HTTP statuses mean, in the words of whoever runs the test."""

from __future__ import annotations

_STORE = (
    (0xA700, 0xA7FF, "out of resources: its disk is full, or it is overloaded"),
    (0xA900, 0xA9FF, "the data set does not match the SOP class"),
    (0xC000, 0xCFFF, "it cannot understand the data set"),
    (0x0122, 0x0122, "the SOP class is not supported"),
    (0x0124, 0x0124, "not authorized"),
)
_QUERY = (
    (0xA700, 0xA700, "out of resources"),
    (0xA701, 0xA701, "out of resources: it cannot count the matches"),
    (0xA702, 0xA702, "out of resources: it cannot send; can it reach the sink?"),
    (0xA801, 0xA801, "it does not know the move destination: register the sink there"),
    (0xA900, 0xA9FF, "the identifier does not match the SOP class"),
    (0xB000, 0xB000, "some instances could not be sent; can it reach the sink?"),
    (0xC000, 0xCFFF, "it cannot process the request"),
    (0xFE00, 0xFE00, "canceled"),
)
_HTTP = {
    401: "it asks for credentials: pass them with --header",
    403: "it does not permit this to us",
    404: "there is no such resource: is the URL the root of the DICOMweb services?",
    405: "it does not support this request",
    406: "it cannot send what we accept",
    409: "it stored nothing",
    413: "the request is too large for it",
    421: "it does not go by this host name",
    429: "too many requests",
    500: "an internal error",
    503: "it is overloaded or full",
    507: "its disk is full",
}


def is_stored(status: int) -> bool:
    """Whether a C-STORE status means that the instance is stored: success or a warning (PS3.7 C.1, C.2)."""
    return status == 0 or status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116)


def store_text(status: int) -> str:
    """The failure of a C-STORE."""
    return f"C-STORE {status:04X}: {_meaning(_STORE, status)}"


def query_text(service: str, status: int) -> str:
    """The failure of a C-FIND, C-MOVE or C-GET."""
    return f"{service} {status:04X}: {_meaning(_QUERY, status)}"


def http_text(service: str, status: int) -> str:
    return f"{service} {status}: {_HTTP.get(status, 'not the expected answer')}"


def _meaning(table: tuple[tuple[int, int, str], ...], status: int) -> str:
    return next((text for low, high, text in table if low <= status <= high), "not success")
