"""The type of a setting in words: a number from 0; true or false; one of "keep", "complete"; a list of UIDs.

A pattern has its words in its `Meta(description=…)`, as a noun; without them the pattern itself is shown.
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

KIB = 1 << 10
_UNITS = ((KIB**4, "TiB"), (KIB**3, "GiB"), (KIB**2, "MiB"), (KIB, "KiB"))
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def in_words(annotation: Any, *, is_bytes: bool = False) -> str:
    """What a setting of this type may be; `is_bytes`: its bounds are numbers of bytes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(arguments[0], [each for each in arguments[1:] if isinstance(each, Meta)], is_bytes)
    if origin is Literal:
        return _choice([_quoted(value) for value in arguments])
    if origin in (Union, UnionType):
        kinds = [in_words(each, is_bytes=is_bytes) for each in arguments if each is not NoneType]
        return ", or ".join(kinds + ["not set"] * (NoneType in arguments))
    if origin in (tuple, list, frozenset):
        return _list_of(in_words(arguments[0], is_bytes=is_bytes))
    if origin is dict:
        return f"a table; each value is {in_words(arguments[1], is_bytes=is_bytes)}"
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        keys = [field.encode_name for field in msgspec.structs.fields(annotation)]
        return f"a table of {', '.join(keys)}"
    return _PLAIN.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _bounded(inner: Any, metas: list[Meta], is_bytes: bool) -> str:
    if words := next((meta.description for meta in metas if meta.description), ""):
        return words
    kind = in_words(inner, is_bytes=is_bytes)
    parts = [_range(meta, is_bytes) + _length(meta) for meta in metas]
    pattern = next((meta.pattern for meta in metas if meta.pattern), "")
    return kind + "".join(parts) + (f" that matches {pattern}" if pattern else "")


def _range(meta: Meta, is_bytes: bool) -> str:
    low = "" if meta.ge is None else f" from {_number(meta.ge, is_bytes)}"
    if meta.gt is not None:
        low = f" above {_number(meta.gt, is_bytes)}"
    high = "" if meta.le is None else f"{' to' if meta.ge is not None else ' up to'} {_number(meta.le, is_bytes)}"
    if meta.lt is not None:
        high = f" below {_number(meta.lt, is_bytes)}"
    return f"{low}{',' if meta.gt is not None and high else ''}{high}"


def _length(meta: Meta) -> str:
    low, high = meta.min_length, meta.max_length
    if low is not None and high is not None:
        return f" of {low} to {high} characters"
    return f" of at least {low} characters" if low is not None else f" of at most {high} characters" if high else ""


def _number(value: float, is_bytes: bool) -> str:
    if is_bytes and value:
        for size, unit in _UNITS:
            if value % size == 0:
                return f"{value} ({value // size:.0f} {unit})"
    return str(value)


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _list_of(kind: str) -> str:
    plural = {"text": "texts", "a path": "paths", "a UID": "UIDs"}.get(kind, "")
    return f"a list of {plural}" if plural else f"a list; each item is {kind}"


def _choice(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"
