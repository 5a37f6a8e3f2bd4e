"""AE titles beyond ASCII: as people write them, and as they stand in the 16 bytes of a PDU or an AE element.

PS3.5 allows the default repertoire only, but many sites use the letters of their language. The engine keeps a received
title as its bytes, each a character of Latin-1, so that it can return exactly these bytes. A configured title is text:
it matches its bytes in Latin-1 and in UTF-8, and we ourselves send it in Latin-1 where it fits.

    written     on the wire                     in the engine
    RÖNTGEN     52 D6 4E 54 47 45 4E            RÖNTGEN       Latin-1
                52 C3 96 4E 54 47 45 4E         RÃ\\x96NTGEN   UTF-8
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

TITLE_BYTES_MAX: Final = 16


def wire_forms(title: str) -> tuple[str, ...]:
    """The received forms that match a written title, the form that we send first; none: it does not fit in 16 bytes."""
    if title.isascii():
        return (title,) if len(title) <= TITLE_BYTES_MAX else ()
    forms = []
    for encoding in ("latin-1", "utf-8"):
        try:
            raw = title.encode(encoding)
        except UnicodeEncodeError:
            continue
        if len(raw) <= TITLE_BYTES_MAX:
            forms.append(raw.decode("latin-1"))
    return tuple(forms)


def on_the_wire(title: str) -> str:
    """A written title in the form that we send; unchanged when it has none."""
    return next(iter(wire_forms(title)), title)


def names(written: Collection[str], title: str) -> bool:
    """Whether one of the `written` titles matches `title`, which is a received or a written title."""
    return title in written or (not title.isascii() and any(title in wire_forms(each) for each in written))


def readable(title: str) -> str:
    """A received title, for people."""
    if title.isascii():
        return title
    try:
        return title.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return title


def check_title(title: str) -> None:
    """Raises ValueError for an AE title that fits in no encoding."""
    if not wire_forms(title):
        raise ValueError(f"AE title {title!r} has more than {TITLE_BYTES_MAX} bytes in Latin-1 and in UTF-8")


def title_of(sender: str) -> str:
    """A recorded sender where only an AE title may stand; "" for `http:ADDRESS` and `cli:NAME` (`access.principal`)."""
    is_title = len(sender) <= TITLE_BYTES_MAX and not sender.startswith(("http:", "cli:"))
    return sender if is_title else ""
