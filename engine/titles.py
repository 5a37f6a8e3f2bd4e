"""AE titles beyond ASCII: as people write them, and as they lie in the 16 bytes of a PDU or an AE element.

PS3.5 allows the default repertoire only, and many use the letters of their language. Inside, a title that came is its
bytes, each a character of Latin-1, so that it goes back as it came, whatever was meant. A configured title is text: it
is meant by its bytes in Latin-1 and by those in UTF-8, and we ourselves call in Latin-1 where the title fits it.

    written     on the wire                     inside
    RÖNTGEN     52 D6 4E 54 47 45 4E            RÖNTGEN       Latin-1
                52 C3 96 4E 54 47 45 4E         RÃ\\x96NTGEN   UTF-8
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

TITLE_BYTES_MAX: Final = 16


def wire_forms(title: str) -> tuple[str, ...]:
    """What a written title may be inside, the form in which we use it first; none: it does not fit into 16 bytes."""
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
    """A written title as we use it; as it is when it has no such form."""
    return next(iter(wire_forms(title)), title)


def names(written: Collection[str], title: str) -> bool:
    """Whether one of these written titles is that one: as it came, or written itself."""
    return title in written or (not title.isascii() and any(title in wire_forms(each) for each in written))


def readable(title: str) -> str:
    """A title that came, for people."""
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
