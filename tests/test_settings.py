"""Every key of the configuration does something: it is read where the engine works, not only where it is described."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from engine.config import Config

ENGINE = Path(__file__).resolve().parent.parent / "engine"


def structs_of(annotation: object) -> Iterator[type[msgspec.Struct]]:
    """The structs that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for inner in get_args(annotation):
        yield from structs_of(inner)


def keys_of(
    struct: type[msgspec.Struct], path: str = "", seen: frozenset[Any] = frozenset()
) -> Iterator[tuple[str, str]]:
    """Each key by its path, and the attribute that holds it."""
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        nested = [inner for inner in structs_of(hints[field.name]) if inner not in seen]
        yield f"{path}{field.name}", field.name
        for inner in nested:
            yield from keys_of(inner, f"{path}{field.name}.", seen | {inner})


@cache
def attributes_read() -> dict[str, set[str]]:
    """Attribute → the modules that read it, but for those that treat every setting alike."""
    found: dict[str, set[str]] = {}
    for path in ENGINE.rglob("*.py"):
        module = path.relative_to(ENGINE)
        if module.parts[0] == "config" and module.name in ("reader.py", "reference.py"):
            continue  # they read and describe every setting
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.setdefault(node.attr, set()).add(str(module))
    return found


def test_every_setting_is_read_somewhere() -> None:
    keys = list(keys_of(Config))
    assert len(keys) > 100
    dead = [path for path, name in keys if name not in attributes_read()]
    assert dead == []


def test_an_unused_setting_is_reported() -> None:
    assert "verify_reads" not in attributes_read()
    assert "disk_reserve_bytes" in attributes_read()
