r"""A profile: which field of a message becomes which attribute. Tables of TOML, compiled and checked when read.

    extends = "ihe-2.5.1"                  what is not said here is as there

    [messages]
    "ADT^A03" = "visit discharged"         type and event → what it is (FAMILIES), and for visits the state
    "ADT^A60" = ""                         not taken

    [patient]
    PatientName = "PID-5 as name"          the first path with a value counts
    AdmittingDate = "PV1-44 as date"
    PatientSex = "PID-8 lookup sex"        a value that the table lacks is left out; "*" is for all others

    [lookup.sex]
    M = "M"

A rule without paths gives no value, so it takes away one of `extends`. `when PV1-2 = I,O` at the end of a rule is a
condition. Texts that are longer than their VR allows are cut, with a warning; identifiers never.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path as FilePath
from typing import Any, Final

from engine.dicom import tags
from engine.errors import ProfileError
from engine.mapping import path as paths
from engine.mapping.convert import CONVERTERS, Converter
from engine.mapping.path import Path
from engine.orders.values import (
    ORDER_KEYWORDS,
    PATIENT_KEYWORDS,
    PROCEDURE_KEYWORDS,
    STEP_KEYWORDS,
    VISIT_KEYWORDS,
    OrderAction,
    StepState,
    VisitState,
)

FAMILIES: Final = (
    "patient", "visit", "merge", "change-id", "move-id", "move-visit", "link", "unlink", "order", "book", "change",
    "cancel", "no-show", "report",
)  # fmt: skip

SECTIONS: Final[dict[str, frozenset[str]]] = {
    "patient": PATIENT_KEYWORDS | {"identifiers"},
    "visit": VISIT_KEYWORDS | {"identifier"},
    "order": ORDER_KEYWORDS | {"placer", "filler", "accession", "visit"},
    "procedure": PROCEDURE_KEYWORDS | {"requested_procedure_id", "study_instance_uid"},
    "step": STEP_KEYWORDS | {"scheduled_procedure_step_id", "modality", "station_aes", "start"},
    "appointment": frozenset({"placer", "filler", "accession", "start", "room", "modality", "station_aes"}),
    "report": frozenset({"placer", "filler", "accession", "study_instance_uid", "state"}),
}
"""Section → what it may set: keywords of DICOM, and fields of `orders.values` in lower case."""

LENGTHS: Final = {"LO": 64, "SH": 16, "CS": 16, "AE": 16, "ST": 1024, "LT": 10240, "PN": 64}
"""VR → characters; a longer description is cut."""

_RULE = re.compile(
    r"(?P<paths>[^()]*?)"
    r"(?:\s+as\s+(?P<as>[a-z-]+))?"
    r"(?:\s+lookup\s+(?P<lookup>[\w-]+))?"
    r"(?:\s+when\s+(?P<when>\S+)\s*=\s*(?P<is>\S+))?",
)
_TABLES = {"messages", "actions", "states", "lookup", *SECTIONS}


@dataclass(frozen=True, slots=True)
class Rule:
    """How one attribute gets its value."""

    target: str
    paths: tuple[Path, ...]
    converter: str = "text"
    lookup: Mapping[str, str] | None = None
    when: tuple[Path, frozenset[str]] | None = None
    convert: Converter = field(init=False)
    is_codes: bool = field(init=False)
    length_max: int = field(init=False)
    """Characters of a text."""
    places: tuple[tuple[str, int], ...] = field(init=False)
    """Segment and field of each path: most are empty in most messages, and nothing else is asked then."""

    def __post_init__(self) -> None:
        tag = tags.tag_of(self.target)
        length_max = LENGTHS.get(tags.vr_of(tag), sys.maxsize) if tag is not None else sys.maxsize
        object.__setattr__(self, "convert", CONVERTERS[self.converter])
        object.__setattr__(self, "is_codes", self.converter.endswith("codes"))
        object.__setattr__(self, "length_max", length_max)
        object.__setattr__(self, "places", tuple((path.segment, path.field) for path in self.paths))


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a type of message is."""

    family: str
    state: VisitState | None = None
    arrived: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """One compiled profile."""

    name: str
    messages: Mapping[str, Meaning]
    actions: Mapping[str, OrderAction]
    """ORC-1 → what it does."""
    states: Mapping[str, StepState]
    """ORC-1_ORC-5, else *_ORC-5, else ORC-1_* → the state of the steps."""
    rules: Mapping[str, Mapping[str, Rule]]
    """Section → target → rule."""
    lookups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attributes: Mapping[str, tuple[Rule, ...]] = field(init=False)
    """Section → the rules whose targets are keywords."""

    def __post_init__(self) -> None:
        attributes = {
            section: tuple(rule for target, rule in rules.items() if target[0].isupper())
            for section, rules in self.rules.items()
        }
        object.__setattr__(self, "attributes", attributes)


@cache
def base(name: str) -> Profile:
    """One of the profiles that come with the program. Raises ProfileError."""
    file = resources.files("engine.mapping") / "profiles" / f"{name}.toml"
    if not re.fullmatch(r"[a-z0-9.-]+", name) or not file.is_file():
        raise ProfileError(f"there is no profile {name!r}: {', '.join(base_names())}, or the path of a file")
    return compile_profile(file.read_text(), name)


def base_names() -> list[str]:
    """The profiles that come with the program."""
    folder = resources.files("engine.mapping") / "profiles"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str) -> Profile:
    """A profile by its name, or the path of a file that ends in .toml. Raises ProfileError."""
    if not name.endswith(".toml"):
        return base(name)
    try:
        text = FilePath(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"the profile {name} cannot be read: {error}") from error
    return compile_profile(text, name)


def compile_profile(text: str, name: str) -> Profile:
    """Checks and compiles a profile. Raises ProfileError, with the line."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{name}: {error}") from error
    return _Compiler(text, name).compile(tables)


class _Compiler:
    def __init__(self, text: str, name: str) -> None:
        self._lines = text.splitlines()
        self._name = name

    def compile(self, tables: dict[str, Any]) -> Profile:
        extends = tables.pop("extends", "")
        try:
            parent = base(extends) if extends else None
        except ProfileError as error:
            raise self._error("", "extends", str(error)) from error
        for table, content in tables.items():
            if table not in _TABLES:
                raise self._error("", table, f"there is no table [{table}]; known: {', '.join(sorted(_TABLES))}")
            if not isinstance(content, dict):
                raise self._error("", table, f"[{table}] must be a table")
        lookups = dict(parent.lookups) if parent else {}
        for lookup, table in tables.get("lookup", {}).items():
            if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
                raise self._error("lookup", lookup, f"[lookup.{lookup}] must be a table of texts")
            lookups[lookup] = table
        rules: dict[str, Mapping[str, Rule]] = {}
        for section, allowed in SECTIONS.items():
            own = {
                target: self._rule(section, target, text, allowed, lookups)
                for target, text in tables.get(section, {}).items()
            }
            rules[section] = {**(parent.rules[section] if parent else {}), **own}
        messages = {kind: self._meaning(kind, text) for kind, text in tables.get("messages", {}).items()}
        return Profile(
            name=self._name,
            messages={**(parent.messages if parent else {}), **messages},
            actions={**(parent.actions if parent else {}), **self._words(tables, "actions", OrderAction)},
            states={**(parent.states if parent else {}), **self._words(tables, "states", StepState)},
            rules=rules,
            lookups=lookups,
        )

    def _words(self, tables: dict[str, Any], table: str, kind: Any) -> dict[str, Any]:
        words = {}
        for key, text in tables.get(table, {}).items():
            try:
                words[key] = kind(text)
            except ValueError as error:
                choices = ", ".join(each.value for each in kind)
                raise self._error(table, key, f"{text!r} is not one of {choices}") from error
        return words

    def _meaning(self, kind: str, text: object) -> Meaning:
        words = text.split() if isinstance(text, str) else ["?"]
        if not words:
            return Meaning("")
        family, *more = words
        if family not in FAMILIES:
            raise self._error("messages", kind, f"{family!r} is not one of {', '.join(FAMILIES)}")
        arrived = "arrived" in more
        states = [word for word in more if word != "arrived"]
        try:
            state = VisitState(states[0]) if states else None
        except ValueError as error:
            choices = ", ".join(each.value for each in VisitState)
            raise self._error("messages", kind, f"{states[0]!r} is not one of {choices}, arrived") from error
        return Meaning(family, state, arrived)

    def _rule(
        self, section: str, target: str, text: object, allowed: frozenset[str], lookups: Mapping[str, Any]
    ) -> Rule:
        if target not in allowed:
            raise self._error(section, target, f"[{section}] cannot set {target}")
        match = _RULE.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise self._error(section, target, 'a rule is a text such as "PID-5 | PID-9 as name"')
        try:
            found = tuple(paths.parse(each) for each in match["paths"].split("|") if each.strip())
            when = (paths.parse(match["when"]), frozenset(match["is"].split(","))) if match["when"] else None
        except ProfileError as error:
            raise self._error(section, target, str(error)) from error
        converter = match["as"] or "text"
        if converter not in CONVERTERS:
            raise self._error(section, target, f"{converter!r} is not one of {', '.join(CONVERTERS)}")
        lookup = match["lookup"]
        if lookup and lookup not in lookups:
            raise self._error(section, target, f"there is no [lookup.{lookup}]")
        return Rule(target, found, converter, lookups[lookup] if lookup else None, when)

    def _error(self, table: str, key: str, reason: str) -> ProfileError:
        return ProfileError(f"{self._name}, line {self._line(table, key)}: {reason}")

    def _line(self, table: str, key: str) -> int:
        """The line of a key; of its table, if it is not found."""
        current, last = "", 1
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
            if header:
                current = header[1]
                if current in (table, f"{table}.{key}", key):
                    last = number
            elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return last
