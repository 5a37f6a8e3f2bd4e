"""SMART scopes: what a token is for, beside what its user may do (SMART App Launch 2.2, scopes and launch context).

    patient/ImagingStudy.rs    user/*.read    system/*.cruds        level / kind of resource . interactions

    v2   some of c r u d s, in this order          v1   read = rs, write = cud, * = all
    patient/   only the patient of the launch (`launch`)       user/, system/   what its user may see

    patient.ImagingStudy.rs, user.all.read     the same, of providers whose scopes have no slash and no asterisk

A scope only ever narrows: it opens nothing that roles and grants do not. A token without such scopes is not narrowed;
one with scopes that nobody can read is for nothing: with a query behind (`?category=…`), with a large first letter.
Images are of the kind ImagingStudy, whichever way they are asked for: to find them is `s`, to read them is `r`. No
scope lets anybody write: images come by DICOM, which has rules of its own. What FHIR has no resource for (`SERVICE`) is
closed to such a token: jobs, the change feed, keys and grants of its user.

`Principal.attributes` has the scopes of a token below SCOPES. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from engine.access.principal import Principal
from engine.access.question import Action, Records, Service, Target

SCOPES: Final = "smart-scopes"
READ: Final = "r"
SEARCH: Final = "s"
IMAGES: Final = "ImagingStudy"
SCOPES_MAX: Final = 200

_PREFIXES: Final = ("patient/", "user/", "system/")
_VERBS: Final = r"read|write|\*|(?=[cruds])c?r?u?d?s?"
_SCOPE: Final = re.compile(rf"(patient|user|system)/([A-Za-z]{{1,64}}|\*)\.({_VERBS})", re.ASCII)
_DOTTED: Final = re.compile(r"(patient|user|system)\.([A-Z][A-Za-z]{0,63}|all)\.(.+)", re.ASCII | re.DOTALL)
_V1: Final = {"read": "rs", "write": "cud", "*": "cruds"}
_OF_IMAGES: Final = {Action.QUERY: SEARCH, Action.RETRIEVE: READ}


def clinical(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes that narrow a token, whether they can be read or not; sorted."""
    written = map(_with_slash, scopes)
    return tuple(sorted(scope for scope in written if scope.lower().startswith(_PREFIXES)))[:SCOPES_MAX]


def _with_slash(scope: str) -> str:
    match = _DOTTED.fullmatch(scope)
    return scope if match is None else f"{match[1]}/{'*' if match[2] == 'all' else match[2]}.{match[3]}"


def is_for_one_patient(scopes: Iterable[str]) -> bool:
    """Whether a token is limited to the patient of a launch."""
    return any(scope.lower().startswith("patient/") for scope in scopes)


@lru_cache(maxsize=1024)
def interactions(scopes: tuple[str, ...], kind: str) -> frozenset[str]:
    """The interactions with resources of a kind that scopes are for: some of c r u d s."""
    parsed = [match.groups() for match in map(_SCOPE.fullmatch, scopes) if match is not None]
    # A token with a scope of one patient has no more than that patient, whatever its other scopes say.
    levels = ("patient",) if is_for_one_patient(scopes) else ("user", "system")
    return frozenset(
        letter
        for level, of, verbs in parsed
        if level in levels and of in (kind, "*")
        for letter in _V1.get(verbs, verbs)
    )


def is_narrowed(principal: Principal) -> bool:
    """Whether it shows a token with scopes."""
    return SCOPES in principal.attributes


def refusal(principal: Principal, action: Action, target: Target) -> str:
    """Why the scopes of a token do not allow an action; "": they do, or it has none."""
    scopes = principal.attributes.get(SCOPES)
    if scopes is None:
        return ""
    if isinstance(target, Service):
        return "its token is for resources of FHIR and their images alone"
    kind, needed = IMAGES, _OF_IMAGES.get(action)
    if isinstance(target, Records):
        kind, needed = target.kind, target.interaction
    if needed is not None and needed in interactions(scopes, kind):
        return ""
    return f"its token has no scope to {action.title} ({kind})"
