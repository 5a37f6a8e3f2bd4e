"""JSON in and out of the API: strict bodies, plain answers, pages of lists.

    body      application/json only, so that no form of a foreign page can send one; an unknown field is 400
    answer    what is asked for, never cached
    page      {NAME: [...], "more": true}: `limit` and `offset` of a list in a stable order

A parameter that a route does not have is 400 too: a filter that is misspelt must not show everything.
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
    Parameter("limit", f"Rows to give at most, up to {ROWS_MAX}", schema="integer"),
    Parameter("offset", "Rows to leave out at the start", schema="integer"),
)


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The body as a struct. Raises UnsupportedMediaType, TooLarge, RequestError."""
    if request.content_type != JSON:
        raise UnsupportedMediaType(f"the body must be {JSON}")
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body does not say what is needed: {error}") from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is no JSON: {error}") from None


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of plain data."""
    return web.Response(
        status=status, body=orjson.dumps(body), content_type=JSON, headers={**NO_STORE, **(headers or {})}
    )


def check_parameters(request: Request, names: Collection[str] = ()) -> None:
    """Raises RequestError for a parameter that is none of these, or is there twice."""
    for name in request.query:
        if name not in names:
            raise RequestError(f"{name[:64]}: there is no such parameter; there are: {', '.join(names) or 'none'}")
        if len(request.query.getall(name)) > 1:
            raise RequestError(f"{name}: is there twice")


def number_of(request: Request, name: str, default: int, most: int) -> int:
    """A whole number from 0 on, cut at `most`. Raises RequestError."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise RequestError(f"{name}: is no whole number from 0 on")
    return min(int(text), most)


def switch_of(request: Request, name: str) -> bool:
    """A parameter that is true or false; false when it is not there. Raises RequestError."""
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise RequestError(f"{name}: is neither true nor false")
    return text == "true"


def page_of(request: Request) -> tuple[int, int]:
    """`limit` and `offset`. Raises RequestError."""
    return number_of(request, "limit", ROWS_MAX, ROWS_MAX), number_of(request, "offset", 0, OFFSET_MAX)


def page(name: str, rows: Iterable[Any], limit: int, offset: int) -> dict[str, Any]:
    """The rows of one page, and whether there are more."""
    taken = list(itertools.islice(rows, offset, offset + limit + 1))
    return {name: taken[:limit], "more": len(taken) > limit}
