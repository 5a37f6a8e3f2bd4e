"""Installs, replaces and removes the viewer.

    fetch       the tarball, with npm, or a file of the user; its integrity is checked      .work/*.tgz
    prepare     leave out, rewrite (`recipe`, `bundles`)                                    .work/files
    minify      with esbuild; without it the scripts stay as they are
    compress    gzip and Brotli, once, so that the server never compresses
    switch      rename the folder, point `current` at it, remove the previous one

What ends in between leaves the installation in use untouched; the next run uses the tarball again if it is whole.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import imagecodecs
import msgspec

from engine.errors import ViewerError
from engine.viewer import bundles, npm, package, recipe, tarball
from engine.viewer.installation import (
    CURRENT,
    FILES,
    FOLDER_NAME,
    MANIFEST,
    SUFFIXES,
    Installation,
    Manifest,
    ViewerFile,
    load,
)

WORK: Final = ".work"
BROTLI_LEVEL: Final = 9
"""A tenth smaller than gzip within seconds; level 11 takes minutes for one more tenth."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an installation."""

    installation: Installation
    is_new: bool
    note: str
    """Why the scripts are not minified; "": they are."""


def installed_in(directory: Path) -> Installation | None:
    """The installation in a directory; None: there is none. Raises ViewerError for one that cannot be read."""
    try:
        target = os.readlink(directory / CURRENT)
    except OSError:
        return None
    return load(directory / target)


def install(directory: Path, tell: Tell, source: Path | None = None) -> Outcome:
    """Installs the viewer, from a tarball of the user's or with npm. Raises ViewerError."""
    with _locked(directory):
        present = _readable(directory)
        if present is not None and present.manifest.is_current and present.manifest.is_minified:
            return Outcome(present, is_new=False, note="")
        work = directory / WORK
        work.mkdir(exist_ok=True)
        program, note = _minifier(work, tell)
        if present is not None and present.manifest.is_current and program is None:
            return Outcome(present, is_new=False, note=note)
        archive = _fetch(work, tell) if source is None else source
        tarball.check(archive, package.INTEGRITY)
        tell("preparing its files")
        folder = work / "new"
        _prepare(archive, folder / FILES)
        if program is not None:
            try:
                _minify(program, folder / FILES, work)
            except ViewerError as error:
                program, note = None, str(error)
        manifest = _compress(folder / FILES, is_minified=program is not None)
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        _make_readable(folder)
        return Outcome(_switch(directory, folder, manifest), is_new=True, note=note)


def remove(directory: Path) -> bool:
    """Removes the viewer; whether there was one."""
    if not directory.is_dir():
        return False
    with _locked(directory):
        was_there = (directory / CURRENT).is_symlink()
        (directory / CURRENT).unlink(missing_ok=True)
        _clear(directory, kept="")
    return was_there


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ViewerError(f"{directory} cannot be written: {error.strerror} (http.viewer_directory)") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ViewerError(f"another process is installing the viewer in {directory}") from error
    finally:
        os.close(descriptor)


def _readable(directory: Path) -> Installation | None:
    """The present installation; None also for one that is damaged, which is replaced."""
    try:
        present = installed_in(directory)
    except ViewerError:
        return None
    if present is None:
        return None
    for name, file in present.manifest.files.items():
        for coding, length in file.lengths.items():
            path = present.path_of(name, coding)
            if not path.is_file() or path.stat().st_size != length:
                return None
    return present


def _minifier(work: Path, tell: Tell) -> tuple[Path | None, str]:
    """esbuild, or why there is none: the viewer works without it."""
    tell("fetching the minifier")
    try:
        return npm.find(work).fetch_minifier(work / "minifier"), ""
    except ViewerError as error:
        return None, str(error)


def _fetch(work: Path, tell: Tell) -> Path:
    kept = work / f"{package.VERSION}.tgz"
    if kept.exists():
        try:
            tarball.check(kept, package.INTEGRITY)
        except ViewerError:
            kept.unlink()
        else:
            return kept
    tell(f"fetching {package.NAME} {package.VERSION} (50 MB)")
    os.replace(npm.find(work).pack(package.NAME, package.VERSION, work), kept)
    return kept


def _prepare(archive: Path, files: Path) -> None:
    """Writes the files that are kept, rewritten. Raises ViewerError."""
    shutil.rmtree(files.parent, ignore_errors=True)
    files.mkdir(parents=True)
    for member, content in tarball.members(archive):
        path = recipe.place_of(member)
        if path is None:
            continue
        content = recipe.rewritten(path, content)
        if recipe.is_entry(path):
            content, parts = bundles.parts(content, recipe.PARTS)
            for number, part in enumerate(parts, start=1):
                (files / recipe.part_of(number)).write_bytes(bundles.compiled_ahead(part))
        if path.endswith(".js"):
            content = bundles.compiled_ahead(content)
        (files / path).parent.mkdir(parents=True, exist_ok=True)
        (files / path).write_bytes(content)
    recipe.check(path.read_bytes() for path in files.rglob("*.js"))


def _minify(program: Path, files: Path, work: Path) -> None:
    results = work / "minified"
    shutil.rmtree(results, ignore_errors=True)
    npm.minify(program, files, results)
    for path in sorted(results.rglob("*")):
        if path.is_file():
            os.replace(path, files / path.relative_to(results))


def _compress(files: Path, *, is_minified: bool) -> Manifest:
    """Writes the compressed form of each file for which that pays; the manifest of all. Raises ViewerError."""
    entries: dict[str, ViewerFile] = {}
    for path in sorted(path for path in files.rglob("*") if path.is_file()):
        name = path.relative_to(files).as_posix()
        content = path.read_bytes()
        lengths = {"": len(content)}
        if recipe.is_compressible(name):
            packed = {
                "br": imagecodecs.brotli_encode(content, level=BROTLI_LEVEL),
                "gzip": gzip.compress(content, 9, mtime=0),
            }
            for coding, packed_content in packed.items():
                if len(packed_content) < len(content):
                    path.with_name(path.name + SUFFIXES[coding]).write_bytes(packed_content)
                    lengths[coding] = len(packed_content)
        digest = hashlib.sha256(content).hexdigest()[:20]
        entries[name] = ViewerFile(recipe.content_type_of(name), digest, lengths)
    return Manifest(
        package.VERSION, package.RECIPE, is_minified, recipe.entry_of(entries), entries,
        parts=recipe.parts_of(entries), early=recipe.early_of(entries),
    )  # fmt: skip


def _make_readable(folder: Path) -> None:
    """For every user, whatever the umask: root may install what another user serves."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _switch(directory: Path, folder: Path, manifest: Manifest) -> Installation:
    name = manifest.name
    if (directory / name).exists():
        # Damaged, or removed half: nobody may find it under a name that is reused.
        os.rename(directory / name, directory / WORK / "replaced")
    os.rename(folder, directory / name)
    link = directory / WORK / CURRENT
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    os.replace(link, directory / CURRENT)
    _clear(directory, kept=name)
    return Installation(directory / name, manifest)


def _clear(directory: Path, kept: str) -> None:
    """Removes the other installations, and what is left of unfinished ones."""
    for path in directory.iterdir():
        if path.name == WORK or (FOLDER_NAME.fullmatch(path.name) and path.name != kept):
            shutil.rmtree(path, ignore_errors=True)
