"""Role: what the [[role]] tables and the built-in ones mean, as actions and a scope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.access.question import Action
from engine.access.role_settings import BUILT_IN_ROLES
from engine.access.scope import (
    FULL,
    NOTHING,
    Alternative,
    Attribute,
    Deidentified,
    Matching,
    Recent,
    Requirement,
    Scope,
    scope_of,
)

if TYPE_CHECKING:
    from engine.access import role_settings

ME = "me"
"""In a rule: the values of the user's own attribute."""

BY_NAME = {action.title: action for action in Action}


@dataclass(frozen=True, slots=True)
class Role:
    """One role of the configuration in force."""

    name: str
    actions: frozenset[Action]
    settings: role_settings.Role

    @property
    def allows_grants(self) -> bool:
        """Whether its users see what is granted to them by name."""
        return self.settings.studies != "none"

    def scope(self, attributes: Mapping[str, tuple[str, ...]]) -> Scope:
        """The studies that its actions reach, without grants. `attributes`: what "me" stands for."""
        studies = self.settings.studies
        if isinstance(studies, str):
            return FULL if studies == "all" else NOTHING
        return scope_of(_alternative(rule, attributes) for rule in studies)


@lru_cache(maxsize=8)
def roles_of(settings: tuple[role_settings.Role, ...]) -> Mapping[str, Role]:
    """The roles in force by name: the built-in ones, and those of the configuration."""
    return {each.name: Role(each.name, _actions(each.may), each) for each in (*BUILT_IN_ROLES, *settings)}


def _actions(names: Iterable[str]) -> frozenset[Action]:
    actions = {BY_NAME[name] for name in names}
    if Action.STORE in actions:
        actions.add(Action.COMMIT)
    return frozenset({*actions, Action.ASSOCIATE})


def _alternative(rule: role_settings.StudyRule, attributes: Mapping[str, tuple[str, ...]]) -> Alternative:
    requirements: set[Requirement] = set()
    written_of = {
        Attribute.INSTITUTION: rule.institution,
        Attribute.DEPARTMENT: rule.department,
        Attribute.REFERRER: rule.referrer,
        Attribute.MODALITY: rule.modality,
        Attribute.SENDER: rule.sender,
    }
    for attribute in Attribute:
        written = written_of[attribute]
        if not written:
            continue
        texts = (written,) if isinstance(written, str) else written
        own = attributes.get(attribute.value, ()) if ME in texts else ()
        requirements.add(Matching.of(attribute, [text for text in texts if text != ME], exact=own))
    if rule.age_days is not None:
        requirements.add(Recent(rule.age_days))
    if rule.deidentified is not None:
        requirements.add(Deidentified(rule.deidentified))
    return frozenset(requirements)
