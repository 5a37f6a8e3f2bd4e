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
        own = {name: found[0] for name, found in self._segments.items()}
        self.firsts: dict[str, Segment] = own if around is None else {**around.firsts, **own}
        """Name → the first segment of that name, of the innermost scope that has one."""
        fields = {name: segment.fields for name, segment in own.items()}
        self.fields: dict[str, list[str]] = fields if around is None else {**around.fields, **fields}
        """Name → the fields of that segment (`Segment.fields`)."""

    def first(self, name: str) -> Segment | None:
        """The first segment of that name."""
        return self.firsts.get(name)

    def all(self, name: str) -> list[Segment]:
        """The segments of that name in the innermost scope that has one."""
        own = self._segments.get(name)
        if own:
            return own
        return self._around.all(name) if self._around is not None else []
