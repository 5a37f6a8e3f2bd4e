"""The parameters of a search: of the URL, and of the body of POST …/_search (http.html#search)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from engine.errors import RequestError
from engine.fhir.search import PAGE, Parameter, Search, parse
from engine.web.errors import HttpError
from engine.web.fhir.answers import root_of

if TYPE_CHECKING:
    from engine.web.request import Request

FORM: Final = "application/x-www-form-urlencoded"
PARAMETERS_MAX: Final = 200


async def search_of(request: Request, parameters: Mapping[str, Parameter]) -> Search:
    """The search. Raises RequestError, HttpError (415)."""
    pairs = _pairs(request.rel_url.raw_query_string)
    if request.method == "POST":
        if request.content_type != FORM:
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the parameters must be {FORM}")
        try:
            pairs += _pairs((await request.body()).decode("ascii"))
        except UnicodeDecodeError:
            raise RequestError("the body has bytes that are not encoded") from None
    request.search_parameters = pairs
    is_lenient = "handling=lenient" in request.headers.get("Prefer", "").replace(" ", "")
    return parse(parameters, pairs, root_of(request), is_lenient=is_lenient)


def page_url(request: Request, kind: str, place: str | None) -> str:
    """The URL of this page of a search for resources of a kind, or of the page at another place."""
    pairs = [pair for pair in request.search_parameters or () if place is None or pair[0] != PAGE]
    if place is not None:
        pairs.append((PAGE, place))
    query = urlencode(pairs)
    return f"{root_of(request)}/{kind}" + (f"?{query}" if query else "")


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError:
        raise RequestError("the parameters have bytes that are not UTF-8") from None
    except ValueError:
        raise RequestError(f"there are more than {PARAMETERS_MAX} parameters") from None
