"""JSON bodies of the API's requests and answers, query parameters, and pages of lists.

    body      application/json only, so that an HTML form of another site cannot send one; an unknown field is 400
    answer    never cached
    page      {NAME: [...], "more": true}: `limit` and `offset` of a list in a stable order

An unknown query parameter is 400 too: a misspelt filter must not return everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import orjson
from aiohttp import web

from engine.errors import RequestError
from engine.web.errors import UnsupportedMediaType
from engine.web.route import Parameter

if TYPE_CHECKING:
    from engine.web.request import Request

Body = TypeVar("Body")

JSON: Final = "application/json"
NO_STORE: Final = {"Cache-Control": "no-store"}
ROWS_MAX: Final = 1000
"""Rows of one page."""
OFFSET_MAX: Final = 10_000_000
PAGE_PARAMETERS: Final = (
    Parameter("limit", f"Maximum number of rows, up to {ROWS_MAX}", schema="integer"),
    Parameter("offset", "Rows to skip", schema="integer"),
)


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The body as a struct. Raises UnsupportedMediaType, TooLarge, RequestError."""
    if request.content_type != JSON:
        raise UnsupportedMediaType(f"the body must be {JSON}")
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body is not valid: {error}") from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with a JSON body."""
    return web.Response(
        status=status, body=orjson.dumps(body), content_type=JSON, headers={**NO_STORE, **(headers or {})}
    )


def check_parameters(request: Request, names: Collection[str] = ()) -> None:
    """Raises RequestError for a parameter that is not one of these, or occurs twice."""
    for name in request.query:
        if name not in names:
            raise RequestError(f"{name[:64]}: unknown parameter; known: {', '.join(names) or 'none'}")
        if len(request.query.getall(name)) > 1:
            raise RequestError(f"{name}: occurs twice")


def number_of(request: Request, name: str, default: int, maximum: int) -> int:
    """A non-negative integer, at most `maximum`. Raises RequestError."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise RequestError(f"{name}: is not a non-negative integer")
    return min(int(text), maximum)


def switch_of(request: Request, name: str) -> bool:
    """A parameter that is true or false; false if it is missing. Raises RequestError."""
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise RequestError(f"{name}: must be true or false")
    return text == "true"


def page_of(request: Request) -> tuple[int, int]:
    """`limit` and `offset`. Raises RequestError."""
    return number_of(request, "limit", ROWS_MAX, ROWS_MAX), number_of(request, "offset", 0, OFFSET_MAX)


def page(name: str, rows: Iterable[Any], limit: int, offset: int) -> dict[str, Any]:
    """The rows of one page, and whether there are more."""
    window = list(itertools.islice(rows, offset, offset + limit + 1))
    return {name: window[:limit], "more": len(window) > limit}
