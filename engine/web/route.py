"""Routes, and how a path is matched to them.

    Route       method, path template, handler, required access, and documentation
    Router      path → the routes of its template by method, and the values of its parameters

    "/dicom-web/studies/{study}/series"     literal segments and parameters; a parameter is a whole segment

A path is split into segments, which are percent-decoded and matched one by one. Empty segments are ignored: `//` is
the same as `/`, and so is a slash at the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

from engine.access import SERVICE

if TYPE_CHECKING:
    from aiohttp.web import StreamResponse

    from engine.access import Action, Target
    from engine.web.request import Request

DICOMWEB = "/dicom-web"
"""The beginning of PS3.18 paths, as Orthanc and most viewers have it."""
FHIR = "/fhir"
"""The beginning of the paths of FHIR."""
API = "/api"
"""The beginning of all other paths."""

Handler = Callable[["Request"], Awaitable["StreamResponse"]]
Place = Literal["path", "query", "header"]
FRAMES_PATTERN: Final = "^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a route, for the documentation."""

    name: str
    summary: str
    place: Place = "query"
    schema: str = "string"
    """A type of JSON Schema: string, integer, number, boolean."""
    pattern: str = ""
    """A regular expression for values; "": any."""
    is_required: bool = False
    options: tuple[str, ...] = ()
    """The possible values; (): any."""


PATH_PARAMETERS: Final[Mapping[str, Parameter]] = {
    parameter.name: parameter
    for parameter in (
        Parameter("study", "Study Instance UID", "path", is_required=True),
        Parameter("series", "Series Instance UID", "path", is_required=True),
        Parameter("instance", "SOP Instance UID", "path", is_required=True),
        Parameter(
            "frames", "Numbers of frames from 1, separated by commas", "path", pattern=FRAMES_PATTERN, is_required=True
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
        Parameter("id", "Identifier from the list", "path", is_required=True),
        Parameter("title", "AE title of a peer", "path", is_required=True),
        Parameter("name", "Name of a user", "path", is_required=True),
        Parameter("step", "Number of a scheduled step", "path", is_required=True),
        Parameter("token", "Token of a share", "path", is_required=True),
    )
}
"""Path parameters of more than one route; a route describes others among its own parameters."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path template."""

    method: str
    """GET includes HEAD."""
    path: str
    handler: Handler
    summary: str
    action: Action | None
    """The action that the client must be allowed; None: anybody may, since the answer has nothing of the archive."""
    parameters: tuple[Parameter, ...] = ()
    """All but the path parameters, which `PATH_PARAMETERS` describes."""
    consumes: tuple[str, ...] = ()
    """Media types of the request's body; (): it has none."""
    produces: tuple[str, ...] = ("application/json",)
    """Media types of the answer, the default one first."""
    statuses: tuple[int, ...] = (200,)
    """Status codes of successful answers."""
    errors: tuple[int, ...] = ()
    """Status codes of errors, in addition to those of any request (`openapi`)."""
    error_form: str = "Problem"
    """The form of errors: one of `openapi.ERROR_FORMS`."""
    tag: str = "server"
    """The heading in the documentation."""
    schema: str = ""
    """The name of a JSON answer's schema in `schemas`; "": any JSON."""
    body: Any = None
    """The msgspec type of a JSON body."""
    needs_login: bool = False
    """Whether a route without an action needs somebody who has logged in, if a login is needed at all."""
    gives_files: bool = False
    """Whether the answer has whole instances, which a share may be forbidden to take away."""
    takes_body: bool = False
    """Whether its handler reads `Request.direct_body` if there is one."""
    target: Target = SERVICE
    """What it is about: SERVICE, unless it gives images, which are of the ARCHIVE, or resources of FHIR. A token that
    SMART scopes narrow opens nothing else."""

    @property
    def name(self) -> str:
        """The route's name in metrics and log, without values of parameters."""
        return f"{self.method} {self.path}"

    @property
    def identifier(self) -> str:
        """The route's name in the documentation: one word."""
        return "-".join([self.method.lower(), *(word.strip("{}") for word in self.path.split("/") if word)])

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """The path parameters in the order of the path, and the others."""
        others = {parameter.name: parameter for parameter in self.parameters}
        names = [segment.strip("{}") for segment in self.path.split("/") if segment.startswith("{")]
        in_path = [
            others.pop(name) if name in others else PATH_PARAMETERS.get(name) or _undescribed(name) for name in names
        ]
        return (*in_path, *others.values())


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
    """The routes of a path."""

    routes: Mapping[str, Route]
    """By method; with HEAD if there is GET."""
    values: dict[str, str]
    """The parameters in the path."""


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
        """The routes of a path, percent-encoded and without a query; None: there are none."""
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
    """The node of the path, literals before parameters; adds its parameters to `values`."""
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
