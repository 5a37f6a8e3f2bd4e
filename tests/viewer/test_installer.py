"""viewer.installer: an installation is whole or not there, and nothing else in its directory is touched."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import imagecodecs
import pytest

from engine.errors import ViewerError
from engine.viewer import installation, installer, npm, package, recipe
from tests.viewer import packages


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return packages.stand_in(monkeypatch, tmp_path)


def quiet(what: str) -> None:
    pass


def current(directory: Path) -> Path:
    found = installation.find(directory)
    assert found is not None
    return found


def test_what_is_needed_is_installed_with_relative_paths(tmp_path: Path, source: Path) -> None:
    outcome = installer.install(tmp_path / "ohif", quiet, source)
    assert (outcome.is_new, "no npm" in outcome.note) == (True, True)
    manifest = installation.load(current(tmp_path / "ohif")).manifest
    assert set(manifest.files) == packages.KEPT
    assert (manifest.entry, manifest.version, manifest.is_minified) == (packages.ENTRY, package.VERSION, False)
    assert manifest.parts == ["app.part-1.js", "app.part-2.js", "app.part-3.js"]
    assert len(manifest.early) == len(recipe.EARLY_CHUNKS)
    files = current(tmp_path / "ohif") / "files"
    assert b'"/"' not in (files / packages.ENTRY).read_bytes()
    assert b"url(0123" in (files / "app.bundle.css").read_bytes()


def test_each_coding_has_the_same_content(tmp_path: Path, source: Path) -> None:
    present = installer.install(tmp_path / "ohif", quiet, source).installation
    lengths = present.manifest.files[packages.ENTRY].lengths
    assert set(lengths) == {"", "gzip", "br"}
    content = present.path_of(packages.ENTRY, "").read_bytes()
    assert gzip.decompress(present.path_of(packages.ENTRY, "gzip").read_bytes()) == content
    packed = present.path_of(packages.ENTRY, "br").read_bytes()
    assert imagecodecs.brotli_decode(packed, out=len(content)) == content
    assert set(present.manifest.files["assets/images/CT.png"].lengths) == {""}, "a picture is compressed already"


def test_a_second_run_changes_nothing(tmp_path: Path, source: Path) -> None:
    installer.install(tmp_path / "ohif", quiet, source)
    before = (current(tmp_path / "ohif") / "viewer.json").stat().st_mtime_ns
    source.unlink()
    assert not installer.install(tmp_path / "ohif", quiet, source).is_new
    assert (current(tmp_path / "ohif") / "viewer.json").stat().st_mtime_ns == before


def test_a_damaged_installation_is_replaced(tmp_path: Path, source: Path) -> None:
    installer.install(tmp_path / "ohif", quiet, source)
    (current(tmp_path / "ohif") / "files" / packages.ENTRY).write_bytes(b"")
    assert installer.install(tmp_path / "ohif", quiet, source).is_new
    assert (current(tmp_path / "ohif") / "files" / packages.ENTRY).stat().st_size


def test_another_recipe_replaces_the_installation(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = current(installer.install(tmp_path / "ohif", quiet, source).installation.folder.parent)
    monkeypatch.setattr(package, "RECIPE", package.RECIPE + 1)
    assert installer.install(tmp_path / "ohif", quiet, source).is_new
    assert current(tmp_path / "ohif") != first
    assert not first.exists()


def test_an_installation_of_an_earlier_version_is_read(tmp_path: Path, source: Path) -> None:
    """It is served until it is renewed."""
    path = current(installer.install(tmp_path / "ohif", quiet, source).installation.folder.parent) / "viewer.json"
    written = json.loads(path.read_bytes())
    del written["parts"], written["early"]
    path.write_text(json.dumps({**written, "recipe": 5}))
    manifest = installation.load(current(tmp_path / "ohif")).manifest
    assert (manifest.entry, manifest.parts, manifest.early, manifest.is_current) == (packages.ENTRY, [], [], False)


def test_a_failure_leaves_the_installation_in_use(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer.install(tmp_path / "ohif", quiet, source)
    monkeypatch.setattr(package, "RECIPE", package.RECIPE + 1)
    source.write_bytes(b"another file")
    with pytest.raises(ViewerError, match="not the expected package"):
        installer.install(tmp_path / "ohif", quiet, source)
    assert installation.load(current(tmp_path / "ohif")).manifest.files


def test_a_package_with_other_scripts_is_not_installed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {name: content.replace(b'"/"', b"'/'") for name, content in packages.FILES.items()}
    monkeypatch.setattr(package, "INTEGRITY", packages.tarball(source, changed))
    with pytest.raises(ViewerError, match="has 0 scripts, not 8"):
        installer.install(tmp_path / "ohif", quiet, source)
    assert installation.find(tmp_path / "ohif") is None


def test_a_package_in_which_a_mend_has_no_place_is_not_installed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {**packages.FILES, "package/dist/mended-0-0.js": b"another script"}
    monkeypatch.setattr(package, "INTEGRITY", packages.tarball(source, changed))
    with pytest.raises(ViewerError, match="has 0 scripts, not 1"):
        installer.install(tmp_path / "ohif", quiet, source)


def test_other_things_in_the_directory_stay(tmp_path: Path, source: Path) -> None:
    directory = tmp_path / "ohif"
    (directory / "mine").mkdir(parents=True)
    (directory / "mine" / "data").write_text("x")
    installer.install(directory, quiet, source)
    assert installer.remove(directory)
    assert not installer.remove(directory)
    assert {path.name for path in directory.iterdir()} == {"mine", ".lock"}
    assert (directory / "mine" / "data").read_text() == "x"


def test_two_cannot_install_at_once(tmp_path: Path, source: Path) -> None:
    failures: list[str] = []

    def meanwhile(what: str) -> None:
        if not failures:
            with pytest.raises(ViewerError) as failure:
                installer.install(tmp_path / "ohif", quiet, source)
            failures.append(str(failure.value))

    installer.install(tmp_path / "ohif", meanwhile, source)
    assert "another process" in failures[0]


def test_everybody_may_read_what_root_installs(tmp_path: Path, source: Path) -> None:
    (tmp_path / "ohif").mkdir(mode=0o700)
    folder = installer.install(tmp_path / "ohif", quiet, source).installation.folder
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (folder, *folder.rglob("*")))


def test_a_tarball_that_was_fetched_is_not_fetched_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run fails after it; the second one begins with it."""
    calls: list[str] = []

    class Fake(npm.Npm):
        def pack(self, name: str, version: str, folder: Path) -> Path:
            calls.append(f"{name}@{version}")
            return source.rename(folder / "fetched.tgz")

        def fetch_minifier(self, folder: Path) -> Path:
            raise ViewerError("no minifier")

    monkeypatch.setattr(npm, "find", lambda work: Fake([]))
    with monkeypatch.context() as broken:
        broken.setattr(recipe, "SCRIPTS_WITH_LOADER", -1)
        with pytest.raises(ViewerError, match="scripts"):
            installer.install(tmp_path / "ohif", quiet)
    assert installer.install(tmp_path / "ohif", quiet).is_new
    assert calls == [f"{package.NAME}@{package.VERSION}"]


def test_scripts_are_minified_and_their_licences_kept(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    esbuild = tmp_path / "esbuild"
    esbuild.write_text(
        "#!/bin/sh\nfor last; do :; done\nout=${last#--outdir=}\nmkdir -p $out\n"
        "for file in *.js; do echo 'p=self.PUBLIC_URL' >$out/$file; echo licence >$out/$file.LEGAL.txt; done\n"
    )
    esbuild.chmod(0o755)
    monkeypatch.setattr(installer, "_minifier", lambda work, tell: (esbuild, ""))
    outcome = installer.install(tmp_path / "ohif", quiet, source)
    assert (outcome.note, outcome.installation.manifest.is_minified) == ("", True)
    assert outcome.installation.path_of(packages.ENTRY, "").read_text() == "p=self.PUBLIC_URL\n"
    assert outcome.installation.manifest.files[f"{packages.ENTRY}.LEGAL.txt"].content_type == "text/plain"
    esbuild.write_text("#!/bin/sh\necho it broke >&2; exit 1\n")
    installer.remove(tmp_path / "ohif")
    outcome = installer.install(tmp_path / "ohif", quiet, source)
    assert (outcome.is_new, outcome.installation.manifest.is_minified) == (True, False)
    assert "it broke" in outcome.note


def test_the_minifier_is_pinned_without_naming_a_registry() -> None:
    lock = json.loads((npm.MINIFIER / "package-lock.json").read_text())
    wanted = json.loads((npm.MINIFIER / "package.json").read_text())["dependencies"]
    packages_of_lock = {name: entry for name, entry in lock["packages"].items() if name}
    assert {name.rpartition("node_modules/")[2] for name in packages_of_lock} >= set(wanted)
    assert all(entry["integrity"].startswith("sha512-") for entry in packages_of_lock.values())
    assert not any("resolved" in entry for entry in packages_of_lock.values())
    assert "://" not in (npm.MINIFIER / "package-lock.json").read_text()


@pytest.mark.parametrize(
    "listed", ['[{"filename": "@ohif/app-1.tgz"}]', '{"@ohif/app": {"filename": "ohif-app-1.tgz"}}']
)
def test_every_npm_says_what_it_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    monkeypatch.setattr(npm, "run", lambda *rest: listed)
    assert npm.Npm(["npm"]).pack("@ohif/app", "1", tmp_path) == tmp_path / "ohif-app-1.tgz"


def test_what_npm_says_when_it_fails_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ViewerError, match="npm failed: one; two"):
        npm.run(["sh", "-c", "echo one >&2; echo two >&2; exit 1"], tmp_path, 10, "npm")
    with pytest.raises(ViewerError, match="did not finish"):
        npm.run(["sleep", "60"], tmp_path, 0.05, "npm")
    with pytest.raises(ViewerError, match="cannot be run"):
        npm.run([str(tmp_path / "none")], tmp_path, 1, "npm")


def test_an_installation_is_found_where_root_or_the_user_has_put_it(tmp_path: Path, source: Path) -> None:
    name = f"{package.VERSION}-{package.RECIPE}-whole"
    environment = {"XDG_DATA_HOME": str(tmp_path / "home"), "XDG_DATA_DIRS": f"{tmp_path}/none:{tmp_path}/machine"}
    assert installation.find(None, environment) is None
    installer.install(tmp_path / "machine/filmroom/ohif", quiet, source)
    assert installation.find(None, environment) == tmp_path / "machine/filmroom/ohif" / name
    installer.install(tmp_path / "home/filmroom/ohif", quiet, source)
    assert installation.find(None, environment) == tmp_path / "home/filmroom/ohif" / name
    assert installation.find(tmp_path / "none") is None, "a configured directory is the only one"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"files": 1}', b"x" * (1 << 21)])
def test_a_manifest_that_is_damaged_is_an_error_of_the_viewer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "viewer.json").write_bytes(content)
    with pytest.raises(ViewerError):
        installation.load(tmp_path)
