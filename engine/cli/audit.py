"""The command line's access to the audit log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import audit
from engine.archive import layout
from engine.cli import backend

if TYPE_CHECKING:
    from engine.audit.search import Condition
    from engine.audit.verify import Report
    from engine.config import Config

PAGE = 500
FOLLOW_S = 0.5


@contextmanager
def reading(config: Config, action: str, detail: str) -> Iterator[Path]:
    """Reads the audit log, which is itself recorded. Raises StorageError without an archive."""
    data = layout.existing(config.data).data
    with backend.recorded(config):
        audit.begin_now(
            audit.Event(kind=audit.Kind.AUDIT_READ, principal=backend.operator(), action=action, detail=detail)
        )
        yield data


def search(config: Config, condition: Condition, limit: int | None) -> Iterator[dict[str, Any]]:
    """Matching events, the newest first."""
    from engine.audit.search import search as find

    with reading(config, "filmroom audit search", condition.summary) as data:
        older, left = "", limit
        while True:
            page = find(data, condition, PAGE if left is None else min(PAGE, left), older)
            yield from page.events
            left = None if left is None else left - len(page.events)
            if page.older is None or left == 0:
                return
            older = page.older


def export(config: Config, since: str, until: str) -> Iterator[bytes]:
    """The lines of all records and checkpoints."""
    from engine.audit.export import export as lines_of

    with reading(config, "filmroom audit export", f"since={since} until={until}") as data:
        yield from lines_of(data, since, until)


def tail(config: Config, count: int, *, follow: bool) -> Iterator[dict[str, Any]]:
    """The latest events, the newest last; then those that come."""
    import orjson

    from engine.audit.chain import read_head
    from engine.audit.logs import chains
    from engine.audit.reading import forward
    from engine.audit.search import Condition
    from engine.audit.search import search as find

    with reading(config, "filmroom audit tail", "") as data:
        heads = {label: read_head(chain.root, chain.name) for label, chain in chains(data).items()}
        places = {label: head.number if head is not None else 0 for label, head in heads.items()}
        yield from reversed(find(data, Condition(), count).events)
        while follow:
            fresh: list[dict[str, Any]] = []
            for label, chain in chains(data).items():
                for head, record in forward(chain.root, chain.name, places.get(label, 0)):
                    places[label] = head.number
                    fresh.append({"chain": label, **orjson.loads(record)})
            yield from sorted(fresh, key=lambda event: str(event["t"]))
            threading.Event().wait(FOLLOW_S)


def verify(config: Config, key: Path | None, anchor: Path | None) -> Report:
    """Looks for changes. Raises ConfigError for a key that cannot be read."""
    from engine.audit.verify import verify as examine

    with reading(config, "filmroom audit verify", f"anchor={anchor}" if anchor else "") as data:
        if anchor is None:
            return examine(data, key=key)
        with anchor.open("rb") as lines:
            return examine(data, key=key, anchor=lines)
