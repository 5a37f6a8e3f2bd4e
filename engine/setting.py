"""The parts of all settings: types with their bounds, and the mark of a setting that a reload does not change.

A room owns its settings: a frozen `Struct` in its `settings` module. Each field has its unit in the name, its bounds in
the type, its default, and the reason for it in the docstring below. `config.composition` puts them together; `config
example`, `config explain`, environment variables and reload are derived from that.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args, get_origin

from msgspec import Meta

FIXED: Final = Meta(extra={"fixed": True})
"""Marks the type of a setting, or of a whole table, that stays as it was at the start: a reload does not change it."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
AETitle = Annotated[
    str,
    Meta(
        pattern=r"^(?! )[^\x00-\x1f\\\x7f-\x9f]{1,16}(?<! )$",
        description="an AE title: 1 to 16 characters, no backslash, no space at either end",
    ),
]
"""A title beyond ASCII stands for its bytes in Latin-1 and in UTF-8; one of these must have at most 16: `titles`."""
UID = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)+$", max_length=64, description="a UID")]
Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="1 to 64 letters, digits, _ and -"),
]
Network = Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$", description="an address or a network")]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def is_fixed(annotation: Any) -> bool:
    """Whether a reload does not change settings of this type."""
    if get_origin(annotation) is not Annotated:
        return False
    return any(isinstance(each, Meta) and (each.extra or {}).get("fixed") for each in get_args(annotation)[1:])


def bare(annotation: Any) -> Any:
    """A type without its annotations."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
