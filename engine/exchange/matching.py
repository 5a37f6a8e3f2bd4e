"""Which of the studies, series or instances of some events a rule is about: its conditions, asked of the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from engine.access import FULL
from engine.archive.feed import event as actions
from engine.dicom import tags
from engine.index.format.types import Level
from engine.index.query.keywords import path_of, query_of, set_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.access import Access
    from engine.archive.archive import Archive
    from engine.archive.feed.event import Event
    from engine.config import Config
    from engine.index.query.keywords import Keys


class Kind(NamedTuple):
    """What the events of an action are about."""

    level: Level
    tag: int
    name: str
    """The attribute of an event and of an instance that has the UID."""


_STUDY: Final = Kind(Level.STUDY, tags.StudyInstanceUID, "study_instance_uid")
KINDS: Final = {
    actions.STORED: Kind(Level.IMAGE, tags.SOPInstanceUID, "sop_instance_uid"),
    actions.SERIES_QUIET: Kind(Level.SERIES, tags.SeriesInstanceUID, "series_instance_uid"),
    actions.STUDY_QUIET: _STUDY,
    actions.STUDY_COMPLETE: _STUDY,
    actions.STUDY_REOPENED: _STUDY,
}


class Place(Protocol):
    """What conditions are asked of: a server's engine, or a command's archive."""

    @property
    def archive(self) -> Archive:
        """The archive."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    @property
    def access(self) -> Access:
        """Who may see what."""


class Conditions(Protocol):
    """The conditions of a rule."""

    @property
    def after(self) -> str:
        """The action of its events."""

    @property
    def keys(self) -> Mapping[str, str]:
        """Keyword or tag and value, as in a C-FIND at the level of the events."""

    @property
    def senders(self) -> Sequence[str]:
        """AE titles of which one must have sent an instance; empty: anybody."""


def uids_of(events: Iterable[Event], after: str) -> list[str]:
    """What the events of an action are about, each once, in their order."""
    name = KINDS[after].name
    return list(dict.fromkeys(getattr(event, name) for event in events))


def matching(
    place: Place, rule: Conditions, uids: Sequence[str], aet: str, *, also_own: bool = False
) -> tuple[str, ...]:
    """Those of the UIDs that the rule is about and that a peer may see, in their order. Raises QueryError.

    Without what only the peer itself has sent, unless `also_own`.
    """
    kind = KINDS[rule.after]
    peer = place.config.peer(aet)
    # For a peer that does not exist the answer is everything: what is then done fails, so that people see it.
    scope = FULL if peer is None or not peer.is_reachable else place.access.scope_of_destination(aet)
    view = place.archive.view(scope)
    keys: Keys = {}
    for name, value in rule.keys.items():
        set_key(keys, path_of(name, view.schema), value, view.schema)
    keys[kind.tag] = "\\".join(uids)
    of_others: set[str] = set()
    of_senders: set[str] = set()
    for instance in view.matching(query_of(kind.level, keys, view.schema)):
        uid = getattr(instance, kind.name)
        if also_own or instance.calling_ae_title != aet:
            of_others.add(uid)
        if not rule.senders or instance.calling_ae_title in rule.senders:
            of_senders.add(uid)
    return tuple(uid for uid in uids if uid in of_others and uid in of_senders)
