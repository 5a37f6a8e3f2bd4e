"""Patients: who has which identifier, and what becomes of them when two turn out to be one person.

    update     the patient with the first known identifier; a new one if none is known
    merge      the prior identifier and all that belongs to its patient become the survivor's
               again: nothing to do           the other way round: refused, a person has to decide
    change     an identifier is replaced by one that nobody has
    move       an identifier, and the orders that came with it, goes to another patient

Identifiers are the same if value and issuer are. An identifier without an issuer is that of nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from engine.orders import merging
from engine.orders.names import id_key, name_key
from engine.orders.rows import PatientRow
from engine.orders.transactions import Reading
from engine.orders.values import (
    PATIENT_KEYWORDS,
    ChangeKind,
    Identifier,
    Issuer,
    PatientIdentifierChange,
    PatientIdentifierMove,
    PatientLink,
    PatientMerge,
    PatientUpdate,
    RefusalReason,
)
from engine.orders.work import Work, check_identifier, is_same, merged, refuse

IDENTIFIERS_MAX = 100
"""Identifiers of one patient."""


def find(reading: Reading, identifier: Identifier) -> tuple[int, PatientRow] | None:
    """The patient with an identifier."""
    table = reading.database.patients
    for number in reading.ids(name_key("i", identifier.value)):
        row = reading.get(table, id_key(number))
        if row is not None and any(is_same(each, identifier) for each in row.identifiers):
            return number, row
    return None


def current(reading: Reading, number: int) -> tuple[int, PatientRow] | None:
    """A patient by id, after all merges."""
    for _ in range(1000):
        row = reading.get(reading.database.patients, id_key(number))
        if row is None or not row.merged_into:
            return None if row is None else (number, row)
        number = row.merged_into
    return None


def update(work: Work, value: PatientUpdate, *, only_if_new: bool = False) -> tuple[int, PatientRow]:
    """Applies what is said of a patient. `only_if_new`: a known patient keeps its attributes."""
    if not value.identifiers:
        raise refuse("the patient has no identifier", RefusalReason.INVALID)
    for identifier in value.identifiers:
        check_identifier(identifier, "a patient's identifier")
    found = next(filter(None, (find(work.writing, each) for each in value.identifiers)), None)
    if found is None:
        return _create(work, value, is_registered=not only_if_new)
    number, row = found
    identifiers, is_grown = _with_more(work, number, row, value.identifiers)
    attributes, keywords = row.attributes, list[str]()
    if only_if_new:
        _warn_of_another(work, row, value)
    else:
        attributes, keywords = merged(row.attributes, value.attributes, PATIENT_KEYWORDS, snapshot=value.snapshot)
    is_registered = row.is_registered or not only_if_new
    if is_grown or keywords or is_registered != row.is_registered:
        row = replace(
            row,
            identifiers=identifiers,
            attributes=attributes,
            is_registered=is_registered,
            updated=max(row.updated, work.said),
        )
        work.writing.put(work.tables.patients, id_key(number), row)
        if is_grown or keywords:
            work.changed(ChangeKind.PATIENT, number, "changed", keywords)
    if not only_if_new:
        _let_agree(work, row)
    return number, row


def _warn_of_another(work: Work, row: PatientRow, value: PatientUpdate) -> None:
    """An order that describes its patient otherwise may be of another patient: a mistyped identifier."""
    for keyword in ("PatientName", "PatientBirthDate"):
        known, named = (_comparable(each.attributes.get(keyword)) for each in (row, value))
        if known and named and known != named:
            work.warn(f"the patient is known with another {keyword}, which stays: is it the same patient?")


def _comparable(text: object) -> str:
    return text.rstrip("^ ").casefold() if isinstance(text, str) else ""


def _create(work: Work, value: PatientUpdate, *, is_registered: bool) -> tuple[int, PatientRow]:
    attributes, keywords = merged({}, value.attributes, PATIENT_KEYWORDS)
    number = work.writing.next_id()
    row = PatientRow(
        identifiers=_distinct(value.identifiers),
        attributes=attributes,
        is_registered=is_registered,
        updated=work.said,
    )
    work.writing.put(work.tables.patients, id_key(number), row)
    work.changed(ChangeKind.PATIENT, number, "created", keywords)
    _let_agree(work, row)
    return number, row


def _with_more(
    work: Work, number: int, row: PatientRow, identifiers: Iterable[Identifier]
) -> tuple[tuple[Identifier, ...], bool]:
    """The identifiers of a patient with those that nobody has, and whether there are more than before."""
    more: list[Identifier] = []
    for identifier in identifiers:
        owner = find(work.writing, identifier)
        if owner is None:
            more.append(identifier)
        elif owner[0] != number:
            work.warn("an identifier belongs to another patient: it stays there until a merge says otherwise")
    result = _distinct((*row.identifiers, *more))
    return result, len(result) > len(row.identifiers)


def _distinct(identifiers: Iterable[Identifier]) -> tuple[Identifier, ...]:
    result: list[Identifier] = []
    for identifier in identifiers:
        if not any(is_same(identifier, each) for each in result):
            result.append(identifier)
    if len(result) > IDENTIFIERS_MAX:
        raise refuse(f"a patient with more than {IDENTIFIERS_MAX} identifiers", RefusalReason.INVALID)
    return tuple(result)


def _let_agree(work: Work, row: PatientRow) -> None:
    """Stored studies of this patient shall show what is known now."""
    if not row.is_registered:
        return
    texts = {keyword: value for keyword, value in row.attributes.items() if isinstance(value, str)}
    work.agreements += [(each, texts) for each in row.identifiers if each not in row.absorbed]


def let_agree(work: Work, identifier: Identifier) -> None:
    """The same for a patient of whom a study has come, if the patient is known."""
    found = find(work.writing, identifier)
    if found is None and not str(identifier.issuer) and work.rules.issuer:
        found = find(work.writing, Identifier(identifier.value, Issuer(work.rules.issuer)))
    if found is not None:
        _let_agree(work, found[1])


def merge(work: Work, value: PatientMerge) -> None:
    """Two patients are one."""
    check_identifier(value.prior, "the prior identifier")
    number, row = update(work, value.survivor)
    primary = _primary(value.survivor, row)
    if is_same(value.prior, primary):
        raise refuse("a patient cannot be merged with itself", RefusalReason.INVALID)
    if merging.is_undone(work, value.prior, primary):
        work.warn("this merge was undone: only a new message makes it again")
        return
    prior = find(work.writing, value.prior)
    orders: list[int] = []
    visits: list[bytes] = []
    if prior is None:
        row = replace(row, identifiers=_distinct((*row.identifiers, value.prior)))
    elif prior[0] == number:
        if any(is_same(primary, each) for each in row.absorbed):
            raise refuse("these patients were merged the other way round", RefusalReason.DUPLICATE_KEY)
        if any(is_same(value.prior, each) for each in row.absorbed):
            work.merges.append((value.prior, primary))
            merging.note_again(work, value.prior, primary)
            return
    else:
        orders, visits = work.writing.ids(b"o" + id_key(prior[0])), _visits_of(work, prior[0])
        row = _absorb(work, number, row, *prior, visits)
    row = replace(row, absorbed=(*row.absorbed, value.prior))
    work.writing.put(work.tables.patients, id_key(number), row)
    work.changed(ChangeKind.PATIENT, number, "merged")
    work.merges.append((value.prior, primary))
    gone = prior if prior is not None and prior[0] != number else None
    merging.note(work, value.prior, primary, into=number, gone=gone, orders=orders, visits=visits)


def _primary(value: PatientUpdate, row: PatientRow) -> Identifier:
    """The identifier by which a message names the patient, as it is known."""
    named = value.identifiers[0]
    return next((each for each in row.identifiers if is_same(each, named)), named)


def _absorb(
    work: Work, number: int, row: PatientRow, prior_number: int, prior: PatientRow, visits: Sequence[bytes]
) -> PatientRow:
    """Everything of `prior` belongs to another patient now."""
    writing, tables = work.writing, work.tables
    gone = replace(prior, identifiers=(), merged_into=number)
    writing.put(tables.patients, id_key(prior_number), gone)
    for order in writing.ids(b"o" + id_key(prior_number)):
        move_order(work, order, number)
    for key in visits:
        visit = writing.get(tables.visits, key)
        if visit is not None:
            writing.put(tables.visits, key, replace(visit, patient=number))
    absorbed = tuple(each for each in prior.identifiers if not any(is_same(each, old) for old in row.absorbed))
    work.merges += [(each, row.identifiers[0]) for each in prior.identifiers[1:]]
    return replace(row, identifiers=_distinct((*row.identifiers, *prior.identifiers)), absorbed=row.absorbed + absorbed)


def _visits_of(work: Work, patient: int) -> list[bytes]:
    if not work.writing.count(work.tables.visits):
        return []
    return [key for key, visit in work.writing.rows(work.tables.visits) if visit.patient == patient]


def move_order(work: Work, order: int, patient: int) -> None:
    """An order is for another patient."""
    row = work.writing.get(work.tables.orders, id_key(order))
    if row is not None and row.patient != patient:
        work.writing.put(work.tables.orders, id_key(order), replace(row, patient=patient))
        work.changed(ChangeKind.ORDER, order, "moved")


def change_identifier(work: Work, value: PatientIdentifierChange) -> None:
    """An identifier is another one now (A47)."""
    check_identifier(value.prior, "the prior identifier")
    if not value.current.identifiers:
        raise refuse("the patient has no identifier", RefusalReason.INVALID)
    prior = find(work.writing, value.prior)
    taken = find(work.writing, value.current.identifiers[0])
    if taken is not None and (prior is None or taken[0] != prior[0]):
        raise refuse("the new identifier is known already", RefusalReason.DUPLICATE_KEY)
    if prior is not None and taken is None:
        number, row = prior
        rest = [each for each in row.identifiers if not is_same(each, value.prior)]
        identifiers = _distinct((value.current.identifiers[0], *rest, value.prior))
        absorbed = (*row.absorbed, value.prior)
        work.writing.put(work.tables.patients, id_key(number), replace(row, identifiers=identifiers, absorbed=absorbed))
        work.changed(ChangeKind.PATIENT, number, "identifier changed")
    update(work, value.current)
    work.merges.append((value.prior, value.current.identifiers[0]))


def move_identifier(work: Work, value: PatientIdentifierMove) -> None:
    """An identifier belongs to another person (A43)."""
    check_identifier(value.identifier, "the identifier")
    number, row = update(work, value.target)
    owner = find(work.writing, value.identifier)
    primary = _primary(value.target, row)
    if owner is not None and owner[0] != number:
        previous = owner[1]
        rest = tuple(each for each in previous.identifiers if not is_same(each, value.identifier))
        if not rest:
            row = _absorb(work, number, row, *owner, _visits_of(work, owner[0]))
        else:
            work.writing.put(work.tables.patients, id_key(owner[0]), replace(previous, identifiers=rest))
            work.warn("orders of the previous patient stay there: they do not say with which identifier they came")
    identifiers = _distinct((*row.identifiers, value.identifier))
    if identifiers != row.identifiers or owner is None or owner[0] != number:
        work.writing.put(work.tables.patients, id_key(number), replace(row, identifiers=identifiers))
        work.changed(ChangeKind.PATIENT, number, "identifier moved")
    if not is_same(value.identifier, primary):
        work.merges.append((value.identifier, primary))


def link(work: Work, value: PatientLink) -> None:
    """Two patients are the same person, or not; nothing moves (A24, A37)."""
    ends = [update(work, PatientUpdate(identifiers=(each,)), only_if_new=True) for each in (value.one, value.other)]
    (one, first), (other, second) = ends
    if one == other:
        return
    for number, row, peer in ((one, first, other), (other, second, one)):
        links = tuple(sorted({*row.links, peer} if value.linked else {*row.links} - {peer}))
        if links != row.links:
            work.writing.put(work.tables.patients, id_key(number), replace(row, links=links))
            work.changed(ChangeKind.PATIENT, number, "linked" if value.linked else "unlinked")
