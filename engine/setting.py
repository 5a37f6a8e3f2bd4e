"""What the settings of all rooms are made of: types with their bounds, and the mark of what a reload leaves alone.

A room owns its settings: a frozen `Struct` in its `settings` module. Each field has its unit in the name, its bounds in
the type, its default, and the reason for it in the docstring below. `config.composition` puts them together; `config
example`, `config explain`, environment variables and reload are made from there.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args, get_origin

from msgspec import Meta

FIXED: Final = Meta(extra={"fixed": True})
"""In the type of a setting, or of a whole table: it holds from start to end; a reload does not take it over."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
AETitle = Annotated[str, Meta(pattern=r"^(?! )[^\x00-\x1f\\\x7f-\x9f]{1,16}(?<! )$")]
"""One beyond ASCII is meant in Latin-1 and in UTF-8, of which at least one has 16 bytes or less: `titles`."""
UID = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)+$", max_length=64)]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def is_fixed(annotation: Any) -> bool:
    """Whether a setting of that type is one that a reload does not take over."""
    if get_origin(annotation) is not Annotated:
        return False
    return any(isinstance(each, Meta) and (each.extra or {}).get("fixed") for each in get_args(annotation)[1:])


def bare(annotation: Any) -> Any:
    """A type without what is said about it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
