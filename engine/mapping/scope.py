"""Where a path looks for its segment: in a group of segments, then in what surrounds it."""

from __future__ import annotations

from collections.abc import Iterable

from engine.hl7.message import Segment


class Scope:
    """Some segments of a message, and the scope around them."""

    def __init__(self, segments: Iterable[Segment], around: Scope | None = None) -> None:
        self._segments: dict[str, list[Segment]] = {}
        for segment in segments:
            self._segments.setdefault(segment.name, []).append(segment)
        self._around = around

    def first(self, name: str) -> Segment | None:
        """The first segment of that name."""
        own = self._segments.get(name)
        if own:
            return own[0]
        return self._around.first(name) if self._around is not None else None

    def all(self, name: str) -> list[Segment]:
        """The segments of that name in the innermost scope that has one."""
        own = self._segments.get(name)
        if own:
            return own
        return self._around.all(name) if self._around is not None else []
