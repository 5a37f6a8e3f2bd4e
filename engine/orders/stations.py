"""The rules for stations: which of them a step without an AE title is for, and what is peculiar to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from engine.orders.settings import Station, Worklist
from engine.orders.work import KINDS_OF


class Rule(Protocol):
    """The part of a [[rule]] that matters here."""

    @property
    def after(self) -> str: ...


class Configuration(Protocol):
    """The part of the configuration that matters here."""

    @property
    def worklist(self) -> Worklist: ...

    @property
    def stations(self) -> tuple[Station, ...]: ...

    @property
    def rules(self) -> Sequence[Rule]: ...


class Stations:
    """The rules in force: a reload acts on the steps that come later."""

    def __init__(self, config: Callable[[], Configuration]) -> None:
        self._config = config

    @property
    def settings(self) -> Worklist:
        """The general settings."""
        return self._config().worklist

    @property
    def issuer(self) -> str:
        """The authority of identifiers that come without one; "" for none."""
        return self.settings.issuer

    @property
    def shows_unassigned(self) -> bool:
        """Whether a step without a station is on the worklist of every one."""
        return self.settings.unassigned == "show"

    @property
    def supplies_everybody(self) -> bool:
        """Whether what an order supplies to its studies becomes a correction, which everybody sees."""
        return self.settings.supply == "corrections"

    def of(self, ae_title: str) -> Station | None:
        """The [[station]] of an AE title."""
        return next((each for each in self._config().stations if each.aet == ae_title), None)

    @property
    def announced(self) -> frozenset[str]:
        """The kinds of announcements that the rules of `exchange` want."""
        return frozenset(kind for rule in self._config().rules for kind in KINDS_OF.get(rule.after, ()))

    def stations(self, modality: str, room: str, source: str) -> tuple[str, ...]:
        """The AE titles that perform such a step."""
        return tuple(
            each.aet
            for each in self._config().stations
            if each.takes_unassigned
            and (each.modality or each.rooms or each.sources)
            and _admits(each.modality, modality)
            and _admits(each.rooms, room)
            and _admits(each.sources, source)
        )


def _admits(names: Sequence[str], name: str) -> bool:
    return not names or name in names
