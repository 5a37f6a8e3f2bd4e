"""A hospital of random studies, roles, users, peers, grants and shares, and a slow, obvious judge of who may see what.

The judge knows the words of the documentation and nothing of the product: lists of studies, gone through one by one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, timedelta
from fnmatch import fnmatchcase
from typing import Any

from tests import samples

TODAY = date.today()
INSTITUTIONS = ("City", "CITY ", "St. Mary", "Müller-Haus", "")
DEPARTMENTS = ("Ward 3", "Ward 4", "")
REFERRERS = ("Doe^John", "Roe^Jane^^^", "Poe^Edgar")
MODALITIES = ("CT", "MR")
SENDERS = ("CT1", "MR1")
RULES: dict[str, tuple[Any, ...]] = {
    "institution": ("city", "St. *", ("müller-haus", "nowhere"), "*"),
    "department": ("ward 3", "Ward ?", "me"),
    "referrer": ("me", "doe^*", ("Roe^Jane", "x")),
    "modality": ("CT", "m*"),
    "sender": ("CT1", "me"),
    "age_days": (2, 30, 365),
}


@dataclass
class Series:
    """One series, as its images say it."""

    uid: str
    number: int
    modality: str
    institution: str
    department: str
    sender: str
    instances: list[str] = field(default_factory=list)


@dataclass
class Study:
    """One study, as its images say it."""

    number: int
    patient: str
    name: str
    referrer: str
    day: date
    series: list[Series] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return f"{samples.ROOT}.{self.number}"

    @property
    def accession(self) -> str:
        return f"ACC{self.number}X"

    @property
    def instances(self) -> list[str]:
        return [uid for series in self.series for uid in series.instances]

    def data_sets(self) -> list[tuple[str, Any]]:
        """The sender and data set of each instance."""
        return [(each.sender, self.data_set(each, int(uid.rpartition(".")[2]))) for each in self.series
                for uid in each.instances]  # fmt: skip

    def data_set(self, series: Series, number: int, **more: object) -> Any:
        """One instance."""
        return samples.instance(
            self.number, series.number, number, patient_id=self.patient, patient_name=self.name,
            modality=series.modality, study_date=f"{self.day:%Y%m%d}", SpecificCharacterSet="ISO_IR 192",
            sop_class_uid=samples.CT if series.modality == "CT" else samples.MR, AccessionNumber=self.accession,
            ReferringPhysicianName=self.referrer, InstitutionName=series.institution,
            InstitutionalDepartmentName=series.department, StudyDescription=f"Desc{self.number}X", **more,
        )  # fmt: skip


@dataclass
class Role:
    """One [[role]]."""

    name: str
    may: tuple[str, ...]
    rules: list[dict[str, Any]] | str
    """Tables, or "granted", "all", "none"."""

    def toml(self) -> str:
        def value(written: Any) -> str:
            return str(list(written)) if isinstance(written, tuple) else repr(written)

        tables = [", ".join(f"{name} = {value(text)}" for name, text in rule.items()) for rule in self.rules
                  if isinstance(rule, dict)]  # fmt: skip
        studies = (
            f'"{self.rules}"' if isinstance(self.rules, str) else "[" + ", ".join(f"{{{t}}}" for t in tables) + "]"
        )
        return f'[[role]]\nname = "{self.name}"\nmay = {list(self.may)}\nstudies = {studies}\n'


@dataclass
class Grant:
    """Studies or a patient that somebody was given by name."""

    actions: tuple[str, ...]
    studies: tuple[str, ...] = ()
    patient: str = ""


@dataclass
class Holder:
    """A user, a share or a peer."""

    name: str
    roles: list[Role]
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    """What proves it over HTTP."""


def plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip("^ ")


def meets(study: Study, rule: dict[str, Any], attributes: dict[str, tuple[str, ...]]) -> bool:
    """Whether a study meets all conditions of a table."""
    values = {
        "institution": {each.institution for each in study.series},
        "department": {each.department for each in study.series},
        "modality": {each.modality for each in study.series},
        "sender": {each.sender for each in study.series},
        "referrer": {study.referrer},
    }
    for name, written in rule.items():
        if name == "age_days":
            if (TODAY - study.day).days > written:
                return False
            continue
        has = {plain(value) for value in values[name]} - {""}
        texts = written if isinstance(written, tuple) else (written,)
        own = {plain(value) for value in attributes.get(name, ())} if "me" in texts else set()
        if not (has & own or any(fnmatchcase(value, plain(text)) for text in texts if text != "me" for value in has)):
            return False
    return True


def may_see(holder: Holder, action: str, study: Study) -> bool:
    """The answer."""
    for role in holder.roles:
        if action not in role.may:
            continue
        if role.rules == "all":
            return True
        if not isinstance(role.rules, str) and any(meets(study, rule, holder.attributes) for rule in role.rules):
            return True
    if holder.roles and all(role.rules == "none" for role in holder.roles):
        return False
    return any(
        action in grant.actions and (study.uid in grant.studies or study.patient == grant.patient)
        for grant in holder.grants
    )


def visible(holder: Holder, action: str, studies: list[Study]) -> list[Study]:
    """The studies that exist for somebody."""
    return [study for study in studies if may_see(holder, action, study)]


# at random -----------------------------------------------------------------------------------------------


def random_studies(rng: random.Random, count: int) -> list[Study]:
    made = []
    for number in range(1, count + 1):
        patient = rng.randrange(1, count // 3 + 1)
        day = TODAY - timedelta(days=rng.choice((0, 7, 20, 200, 400)))
        study = Study(number, f"PID{patient}X", f"Patient{patient}X^A", rng.choice(REFERRERS), day)
        for position in range(1, rng.randrange(2, 4)):
            series = Series(
                f"{study.uid}.{position}", position, rng.choice(MODALITIES), rng.choice(INSTITUTIONS),
                rng.choice(DEPARTMENTS), rng.choice(SENDERS),
            )  # fmt: skip
            series.instances = [f"{series.uid}.{instance}" for instance in range(1, rng.randrange(2, 4))]
            study.series.append(series)
        made.append(study)
    return made


def random_role(rng: random.Random, name: str) -> Role:
    may = rng.choice(
        (
            ("query", "retrieve", "send"),
            ("query", "retrieve", "send", "store"),
            ("query", "retrieve", "send", "observe"),
            ("query", "retrieve", "store"),
            ("query",),
        )
    )
    rules = [
        {each: rng.choice(RULES[each]) for each in rng.sample(list(RULES), rng.randrange(1, 3))}
        for _ in range(rng.randrange(1, 3))
    ]
    return Role(name, may, rng.choice((rules, rules, rules, "granted")))


def random_attributes(rng: random.Random) -> dict[str, tuple[str, ...]]:
    return {
        "referrer": (plain(rng.choice(REFERRERS)),),
        "department": (rng.choice(DEPARTMENTS[:2]),),
        "sender": (rng.choice(SENDERS),),
    }


def random_grant(rng: random.Random, studies: list[Study]) -> Grant:
    actions = rng.choice((("query", "retrieve"), ("query",)))
    if rng.random() < 0.3:
        return Grant(actions, patient=rng.choice(studies).patient)
    return Grant(actions, studies=tuple(study.uid for study in rng.sample(studies, 2)))
