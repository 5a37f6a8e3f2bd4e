"""An installation of the viewer on disk, and where it is.

    <directory>/current            a symbolic link to the installation in use; replaced in one step
    <directory>/3.13.2-1/          one installation: version and recipe; "-whole": not minified
        viewer.json                its manifest: `Manifest`
        files/app.bundle.….js      the files, each also as FILE.gz and FILE.br if that is smaller
    <directory>/.work/             an unfinished installation; removed at the end of the next one
    <directory>/.lock              held by whoever installs or removes

Anything else in the directory stays as it is. Readers follow `current` once, and then use one installation only. A name
in a request is looked up in the manifest and never used as a path.

The directory is `http.viewer_directory`, else the first of the user's and the machine's data directories that has an
installation (XDG base directories): ~/.local/share/filmroom/ohif, /usr/local/share/filmroom/ohif,
/usr/share/filmroom/ohif. root installs for the machine, others for themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from engine.errors import ViewerError
from engine.viewer import package

MANIFEST: Final = "viewer.json"
FILES: Final = "files"
CURRENT: Final = "current"
SUFFIXES: Final[Mapping[str, str]] = {"br": ".br", "gzip": ".gz"}
"""Content coding → suffix of the compressed file, the smaller one first."""

FOLDER_NAME: Final = re.compile(r"[0-9]+(\.[0-9]+)*-[0-9]+(-whole)?")
"""The folders that installing and removing may delete."""

_MANIFEST_BYTES_MAX: Final = 1 << 20


class ViewerFile(Struct, frozen=True):
    """One file of an installation."""

    content_type: str
    digest: str
    """Of its content, for the entity tag."""
    lengths: dict[str, int]
    """Content coding → bytes; "": as it is."""


class Manifest(Struct, frozen=True):
    """What an installation consists of."""

    version: str
    recipe: int
    is_minified: bool
    entry: str
    """The script with which the application begins."""
    files: dict[str, ViewerFile]
    """By path."""
    parts: list[str] = []
    """The scripts that run before it, in their order; none in an installation of recipe 5 and before."""
    early: list[str] = []
    """The scripts that it loads in any case before it shows an image; as above."""

    @property
    def name(self) -> str:
        """The name of the installation's folder, and a part of the URLs of its files: what they are never changes."""
        return f"{self.version}-{self.recipe}{'' if self.is_minified else '-whole'}"

    @property
    def is_current(self) -> bool:
        """Whether this version of Filmroom would install the same."""
        return (self.version, self.recipe) == (package.VERSION, package.RECIPE)


class Installation:
    """One complete installation; it stays readable while a file of it is open, also when it is replaced."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def path_of(self, name: str, coding: str) -> Path:
        """The file of a name of the manifest, in one of its codings."""
        return self.folder / FILES / (name + SUFFIXES.get(coding, ""))


def write_directory(configured: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The directory for a new installation."""
    if configured is not None:
        return configured
    if os.geteuid() == 0:
        return Path("/usr/local/share/filmroom/ohif")
    return _home(environment) / "filmroom/ohif"


def find(configured: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The installation in use; None: there is none. Reads one symbolic link for each directory."""
    for directory in _directories(configured, environment):
        try:
            return directory / os.readlink(directory / CURRENT)
        except OSError:
            continue
    return None


def load(folder: Path) -> Installation:
    """Reads the manifest of an installation. Raises ViewerError."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            content = file.read(_MANIFEST_BYTES_MAX + 1)
        if len(content) > _MANIFEST_BYTES_MAX:
            raise ViewerError(f"{folder / MANIFEST} is too long")
        return Installation(folder, msgspec.json.decode(content, type=Manifest))
    except (OSError, msgspec.DecodeError) as error:
        raise ViewerError(f"the installation of the viewer in {folder} cannot be read: {error}") from error


def _directories(configured: Path | None, environment: Mapping[str, str]) -> list[Path]:
    if configured is not None:
        return [configured]
    shared = [Path(place) for place in environment.get("XDG_DATA_DIRS", "").split(":") if place]
    return [
        place / "filmroom/ohif"
        for place in (_home(environment), *(shared or (Path("/usr/local/share"), Path("/usr/share"))))
    ]


def _home(environment: Mapping[str, str]) -> Path:
    given = environment.get("XDG_DATA_HOME", "")
    return Path(given) if given.startswith("/") else Path(os.path.expanduser("~")) / ".local/share"
