"""The reference of all settings, derived from the schema: each key with its type, default and docstring."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import msgspec
from msgspec import Struct

from engine.config import composition, kinds
from engine.config.composition import LISTS, TABLES
from engine.setting import is_fixed

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting."""

    key: str
    """Dotted: dicom_port, limits.idle_timeout_s, peer.host."""
    type: str
    """What it may be, in words, with bounds."""
    default: object
    """msgspec.UNSET: a required setting."""
    about: str
    """Unit, meaning and reason, in one paragraph."""


def entries() -> Iterator[Entry]:
    """Every key, in the order of the schema: the top, then each table."""
    lists = {field for field, _ in LISTS.values()}
    yield from _entries_of(composition.Config, "", excluded={*TABLES, *lists})
    fixed = {field.encode_name for field in msgspec.structs.fields(composition.Config) if is_fixed(field.type)}
    for table, section in TABLES.items():
        yield from _entries_of(section, f"{table}.", table_is_fixed=table in fixed)
    for table, (_, section) in LISTS.items():
        yield from _entries_of(section, f"{table}.", table_is_fixed=table in fixed)


def example() -> str:
    """A filmroom.toml with every key at its default, commented out, below its description."""
    lines = ["# filmroom.toml: every setting, its default and the reason for it. Remove the # before what you change."]
    lines.append("")
    table = ""
    for entry in entries():
        head, _, name = entry.key.rpartition(".")
        if head != table:
            table = head
            section = TABLES[head] if head in TABLES else LISTS[head][1]
            lines += ["", *_comment(inspect.cleandoc(section.__doc__ or ""))]
            lines += [f"[{head}]" if head in TABLES else f"#[[{head}]]", ""]
        lines += _comment(entry.about)
        # A key without a default shows its type instead.
        has_value = entry.default is not msgspec.UNSET and entry.default is not None
        lines += [f"#{name} = {toml_of(entry.default)}" if has_value else f"#{name} =    # {entry.type}", ""]
    return "\n".join(lines)


def _entries_of(
    section: type[Struct], prefix: str, excluded: set[str] | None = None, *, table_is_fixed: bool = False
) -> Iterator[Entry]:
    docstrings = _docstrings(section)
    for field in msgspec.structs.fields(section):
        if field.name in (excluded or ()):
            continue
        about = docstrings[field.name]
        type_ = kinds.in_words(field.type, is_bytes="bytes" in field.name)
        default: object = field.default
        if default is msgspec.NODEFAULT:
            default = msgspec.UNSET if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if table_is_fixed or is_fixed(field.type):
            about = f"{about} A change needs a restart."
        yield Entry(prefix + field.encode_name, type_, default, about)


@cache
def _docstrings(section: type[Struct]) -> dict[str, str]:
    """Field → the docstring below it."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    docstrings: dict[str, str] = {}
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            text = following.value.value if is_text else ""  # type: ignore[union-attr]
            docstrings[statement.target.id] = " ".join(str(text).split())
    return docstrings


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH)]


def toml_of(value: object) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case tuple() | list() | frozenset():
            return "[" + ", ".join(map(toml_of, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {toml_of(item)}" for key, item in value.items()) + "}"
    return msgspec.json.encode(str(value)).decode()
