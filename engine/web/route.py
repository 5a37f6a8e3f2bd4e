"""What a route is, and how a path finds its own.

    Route       method, path template, handler, what access is asked for, and what the documents say of it
    Router      path → the routes of its template by method, and the values of its parameters

    "/dicom-web/studies/{study}/series"     literal segments, and parameters, each one whole segment

A path is matched segment by segment, percent-decoded after it was split. Empty segments do not count: `//` is `/`, and
a slash at the end is none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

if TYPE_CHECKING:
    from aiohttp.web import StreamResponse

    from engine.access import Action
    from engine.web.request import Request

DICOMWEB = "/dicom-web"
"""What the paths of PS3.18 begin with, as Orthanc and most viewers have it."""
API = "/api"
"""What the others begin with."""

Handler = Callable[["Request"], Awaitable["StreamResponse"]]
Place = Literal["path", "query", "header"]
FRAMES_PATTERN: Final = "^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a route, for the documents."""

    name: str
    summary: str
    place: Place = "query"
    schema: str = "string"
    """A type of JSON Schema: string, integer, number, boolean."""
    pattern: str = ""
    """A regular expression that a value matches; "": any."""
    is_required: bool = False
    options: tuple[str, ...] = ()
    """The values that there are; (): any."""


PATH_PARAMETERS: Final[Mapping[str, Parameter]] = {
    parameter.name: parameter
    for parameter in (
        Parameter("study", "Study Instance UID", "path", is_required=True),
        Parameter("series", "Series Instance UID", "path", is_required=True),
        Parameter("instance", "SOP Instance UID", "path", is_required=True),
        Parameter(
            "frames", "Numbers of frames from 1, with commas between", "path", pattern=FRAMES_PATTERN, is_required=True
        ),
        *(
            Parameter(name, "Tag of an element, as 7FE00010", "path", pattern="^[0-9A-Fa-f]{8}$", is_required=True)
            for name in ("tag", "tag2", "tag3")
        ),
        *(
            Parameter(name, "Number of an item from 1", "path", "integer", is_required=True)
            for name in ("item", "item2")
        ),
        Parameter("number", "Number of a correction", "path", is_required=True),
        Parameter("id", "What the list calls it", "path", is_required=True),
        Parameter("title", "AE title of a peer", "path", is_required=True),
    )
}
"""Those in the paths of more than one route; a route describes its own among its parameters."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one template."""

    method: str
    """GET answers HEAD too."""
    path: str
    handler: Handler
    summary: str
    action: Action | None
    """What access is asked for; None: anybody may, since nothing of the archive is in the answer."""
    parameters: tuple[Parameter, ...] = ()
    """But for those of the path, which `PATH_PARAMETERS` describes."""
    consumes: tuple[str, ...] = ()
    """Media types of the request's body; (): it has none."""
    produces: tuple[str, ...] = ("application/json",)
    """Media types of the answer, the default one first."""
    statuses: tuple[int, ...] = (200,)
    """Of answers that are no errors."""
    errors: tuple[int, ...] = ()
    """Of answers that are errors, beside those that any request may have (`openapi`)."""
    tag: str = "server"
    """The heading under which the documents list it."""
    schema: str = ""
    """What a JSON answer is, by its name in `schemas`; "": any JSON."""
    body: Any = None
    """What a JSON body is: a msgspec type."""
    takes_body: bool = False
    """Whether its handler reads `Request.direct_body` where there is one."""

    @property
    def name(self) -> str:
        """What metrics and log call it: no value of any parameter is in it."""
        return f"{self.method} {self.path}"

    @property
    def identifier(self) -> str:
        """What the documents call it: one word."""
        return "-".join([self.method.lower(), *(word.strip("{}") for word in self.path.split("/") if word)])

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """Those of the path, in its order, and the others."""
        own = {parameter.name: parameter for parameter in self.parameters}
        names = [segment.strip("{}") for segment in self.path.split("/") if segment.startswith("{")]
        of_path = [own.pop(name) if name in own else PATH_PARAMETERS.get(name) or _undescribed(name) for name in names]
        return (*of_path, *own.values())


def _undescribed(name: str) -> Parameter:
    return Parameter(name, name.capitalize(), "path", is_required=True)


class _Node:
    __slots__ = ("literals", "parameter", "parameter_name", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.parameter_name = ""
        self.routes: dict[str, Route] = {}


@dataclass(frozen=True, slots=True)
class Match:
    """What a path leads to."""

    routes: Mapping[str, Route]
    """By method; HEAD is there where GET is."""
    values: dict[str, str]
    """Of the parameters in the path."""


class Router:
    """A tree of segments."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in filter(None, route.path.split("/")):
                node = _child(node, segment)
            assert route.method not in node.routes, f"two routes for {route.name}"
            node.routes[route.method] = route
            if route.method == "GET":
                node.routes["HEAD"] = route

    def match(self, raw_path: str) -> Match | None:
        """The routes of a path as it came, percent-encoded and without a query; None: there are none."""
        segments = [unquote(segment) for segment in raw_path.split("/") if segment]
        values: dict[str, str] = {}
        node = _descend(self._root, segments, 0, values)
        return Match(node.routes, values) if node is not None else None


def _child(node: _Node, segment: str) -> _Node:
    if not segment.startswith("{"):
        return node.literals.setdefault(segment, _Node())
    name = segment.strip("{}")
    if node.parameter is None:
        node.parameter, node.parameter_name = _Node(), name
    assert node.parameter_name == name, f"a parameter has two names: {node.parameter_name}, {name}"
    return node.parameter


def _descend(node: _Node, segments: list[str], at: int, values: dict[str, str]) -> _Node | None:
    """The node of the path, literals before parameters; its parameters are put into `values`."""
    if at == len(segments):
        return node if node.routes else None
    literal = node.literals.get(segments[at])
    if literal is not None and (found := _descend(literal, segments, at + 1, values)) is not None:
        return found
    if node.parameter is None:
        return None
    found = _descend(node.parameter, segments, at + 1, values)
    if found is not None:
        values[node.parameter_name] = segments[at]
    return found
