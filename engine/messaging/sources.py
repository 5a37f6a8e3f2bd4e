"""Who sends: the [[hl7_source]] of a message, with its compiled profile."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.access.networks import LOOPBACK, is_in_any
from engine.errors import ConfigError, ProfileError
from engine.hl7 import Condition, Fault
from engine.hl7.settings import Hl7, Hl7Source
from engine.mapping import Options, Profile, load

if TYPE_CHECKING:
    from engine.hl7 import Message

PROCESSING_IDS = {"P": False, "": False, "T": True, "D": True}
"""MSH-11 → whether it is a test."""
UNKNOWN = Hl7Source(name="unknown")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is at the other end of a connection."""

    host: str
    certificate_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KnownSource:
    """One source as its messages need it."""

    settings: Hl7Source
    profile: Profile
    options: Options
    zone: ZoneInfo | None

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return self.settings.name

    def sends_from(self, sender: Sender) -> bool:
        """Whether a connection may be its."""
        hosts, names = self.settings.hosts, self.settings.certificates
        if hosts and not is_in_any(sender.host, hosts):
            return False
        return not names or not sender.certificate_names.isdisjoint(name.lower() for name in names)

    def sends(self, message: Message) -> bool:
        """Whether a message names it as its sender."""
        application, facility = self.settings.application, self.settings.facility
        return (not application or application == message.header.text(3)) and (
            not facility or facility == message.header.text(4)
        )

    def judge(self, message: Message) -> Fault | None:
        """Why a message of this source is not taken, whatever it says; None: it is taken."""
        is_test = PROCESSING_IDS.get(message.header.text(11).upper())
        if is_test is None or (is_test and not self.settings.testing):
            return Fault(Condition.UNSUPPORTED_PROCESSING_ID, "only production messages are taken", ("MSH", 1, 11))
        if message.version and not message.version.startswith("2"):
            return Fault(Condition.UNSUPPORTED_VERSION, "only version 2 is taken", ("MSH", 1, 12))
        if message.names.count("MSH") > 1:
            # One answer cannot tell what became of two messages, and the second one would be lost.
            text = "it has another message, which needs a block of its own"
            return Fault(Condition.SEGMENT_SEQUENCE, text, ("MSH", 2, 0))
        return None


class Sources:
    """All sources of one configuration; it does not change."""

    def __init__(self, settings: Hl7, sources: Sequence[Hl7Source]) -> None:
        """Raises ConfigError if a profile, a zone or a character set is wrong."""
        self._accept_unknown = settings.accept_unknown_sources
        self._sources = tuple(_known(source) for source in sources)
        self._unknown = _known(
            Hl7Source(name=UNKNOWN.name, profile=settings.profile),
        )

    def of_connection(self, sender: Sender) -> tuple[KnownSource, ...]:
        """Who may be at the other end; empty: nobody whose messages are taken."""
        found = tuple(source for source in self._sources if source.sends_from(sender))
        is_welcome = self._accept_unknown is True or (
            self._accept_unknown == "loopback" and is_in_any(sender.host, LOOPBACK)
        )
        return (*found, self._unknown) if is_welcome else found

    def naming(self, message: Message) -> KnownSource:
        """The first source that a message names as its sender, from wherever it comes; the unknown one if none is."""
        return next((source for source in self._sources if source.sends(message)), self._unknown)

    def named(self, name: str) -> KnownSource:
        """The source of a journal's entry; the unknown one if it is no longer configured."""
        return next((source for source in self._sources if source.name == name), self._unknown)


def _known(source: Hl7Source) -> KnownSource:
    place = f"[[hl7_source]] {source.name}"
    try:
        profile = load(source.profile)
    except ProfileError as error:
        raise ConfigError(f"{place}: {error}") from error
    try:
        zone = ZoneInfo(source.zone) if source.zone else None
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(f"{place}: there is no time zone {source.zone!r}") from error
    for name in filter(None, (source.charset, source.default_charset)):
        try:
            codecs.lookup(name)
            b"".decode(name)
        except LookupError as error:
            raise ConfigError(f"{place}: there is no character set {name!r}") from error
    return KnownSource(source, profile, Options(source.authorities, source.snapshot), zone)
