"""The patient of a SMART launch: a token that opens the images of one patient, and nothing else of its user's rights.

`Principal.attributes` has it below PATIENT: Patient ID and issuer; empty if the token opens no images. Orders of the
patient count too, if the token has a scope for them (`smart`).
"""

from __future__ import annotations

from typing import Final

from engine.access.grant import Grant, Holder
from engine.access.principal import Principal
from engine.access.question import Action
from engine.access.scope import Patient

PATIENT: Final = "launch-patient"
READING: Final = frozenset({Action.QUERY, Action.RETRIEVE, Action.WORKLIST})


def grants_of_launch(principal: Principal) -> tuple[Grant, ...] | None:
    """The only grants of a principal whose token is limited to one patient; None: it is not limited so."""
    values = principal.attributes.get(PATIENT)
    if values is None:
        return None
    if not values:
        return ()
    patient = Patient(*values)
    return (Grant(principal.session, Holder.USER, principal.name, READING, patient=patient, until_s=principal.until_s),)
