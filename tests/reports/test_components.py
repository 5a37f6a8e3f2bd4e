"""The SBOM is valid CycloneDX 1.6, has every component with its licence, and names changed files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from engine.reports import components as parts
from engine.reports.components import Component, components
from engine.reports.cyclonedx import bill_of_materials
from engine.reports.library_licenses import spdx


@cache
def found() -> tuple[Component, ...]:
    return tuple(components())


@cache
def bill() -> dict[str, Any]:
    return bill_of_materials(found(), datetime.now(UTC))


@pytest.fixture(scope="module")
def problems() -> Callable[[dict[str, Any]], list[str]]:
    """What the schema of CycloneDX 1.6 says against a document."""
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    schemas = Path(pytest.importorskip("cyclonedx.schema").__file__).parent / "_res"

    def read(name: str) -> Any:
        return json.loads((schemas / f"{name}.SNAPSHOT.schema.json").read_text())

    base = "http://cyclonedx.org/schema/"
    others = [(f"{base}{name}.SNAPSHOT.schema.json", read(name)) for name in ("spdx", "jsf-0.82")]
    registry = jsonschema_rs.Registry(others)
    validator = jsonschema_rs.Draft7Validator(read("bom-1.6"), registry=registry)
    return lambda document: [error.message for error in validator.iter_errors(document)]


def test_the_schema_of_cyclonedx_accepts_it(problems: Callable[[dict[str, Any]], list[str]]) -> None:
    assert problems(bill()) == []
    assert problems({**bill(), "specVersion": 1.6, "components": [{"name": "x"}]}), "the schema is looked at"


def test_every_reference_is_one_component() -> None:
    references = [each["bom-ref"] for each in (bill()["metadata"]["component"], *bill()["components"])]
    assert len(set(references)) == len(references)
    for dependency in bill()["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= set(references)
    reached, waiting = set(), [references[0]]
    needs = {dependency["ref"]: dependency["dependsOn"] for dependency in bill()["dependencies"]}
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += needs[reference]
    assert reached == set(references), "nothing is there that nobody needs"


def test_everything_has_a_licence_and_what_the_lock_names_is_there() -> None:
    assert [component.name for component in found() if not component.license] == []
    names = {component.name for component in found()}
    assert {"filmroom", "aiohttp", "lmdb", "numpy", "cpython", "openssl", "htm", "uPlot"} <= names
    assert not {"pytest", "mypy", "cython", "pynetdicom"} & names, "a server does not need these"


def test_libraries_within_wheels_have_a_hash_and_their_wheel() -> None:
    libraries = [component for component in found() if "file" in component.properties]
    assert libraries
    for library in libraries:
        assert len(library.sha256) == 64
        assert library.within


def test_a_file_that_was_changed_after_its_installation_is_named(tmp_path: Path) -> None:
    info = tmp_path / "some-1.0.dist-info"
    info.mkdir()
    lines = []
    for name in ("same.py", "changed.py", "gone.py"):
        (tmp_path / name).write_text(name)
        digest = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(name)}")
    (info / "RECORD").write_text("\n".join(lines))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1.0\nLicense: MIT License\n")
    (tmp_path / "changed.py").write_text("other")
    (tmp_path / "gone.py").unlink()
    component = parts.of_distribution(metadata.Distribution.at(info))
    assert component.properties["files verified"] == "1"
    assert component.properties["files changed since installation"] == "changed.py, gone.py"
    assert component.license == "MIT"


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("MIT License", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("BSD-3-Clause AND (MIT OR Zlib)", "BSD-3-Clause AND (MIT OR Zlib)"),
        ("Apache Software License OR MIT License", "Apache-2.0 OR MIT"),
        ("LICENSE", ""),
        ("see the file", ""),
        ("", ""),
    ],
)
def test_licences_become_expressions_or_nothing(text: str, expression: str) -> None:
    assert spdx(text) == expression
