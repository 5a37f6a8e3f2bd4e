"""The part of `backend` for worklists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import audit
from engine.cli import backend
from engine.config import Config
from engine.dicom import part10, transfer_syntax
from engine.dicom.identifier import decode_identifier
from engine.errors import DataSetError, UpdateRefused

if TYPE_CHECKING:
    from engine.orders.registry import Orders
    from engine.orders.values import Applied, OrderUpdate, Source

FILE_BYTES_MAX = 1 << 20
"""A file with one entry has some kilobytes."""


@contextmanager
def opened(config: Config) -> Iterator[Orders]:
    """The registry of the archive."""
    from engine.archive.hospital import open_orders
    from engine.orders.stations import Stations

    with backend.opened(config) as archive, open_orders(archive, Stations(lambda: config)) as orders:
        yield orders


def _source() -> Source:
    from engine.orders.values import Source

    return Source(name=backend.operator().actor)


def add(config: Config, texts: Mapping[str, str]) -> dict[str, Any]:
    """Adds or changes one entry; returns its numbers. Raises UpdateRefused."""
    from engine.orders.entry_values import order_of

    update = order_of(texts)
    with opened(config) as orders:
        _record(update)
        applied = orders.apply(update, _source())
        return {**_numbers(orders, update.accession or update.filler or update.placer), **_facts(applied)}


def _record(update: OrderUpdate) -> None:
    """Records in the audit log whose order it is."""
    for identifier in update.patient.identifiers[:1]:
        patient = audit.Patient(
            identifier.value,
            identifier.issuer.name or identifier.issuer.universal_id,
            str(update.patient.attributes.get("PatientName", "")),
        )
        backend.record_patient(patient, accession=update.accession.value if update.accession else "")


def _numbers(orders: Orders, number: Any) -> dict[str, Any]:
    from engine.orders import ordering

    with orders.read() as reading:
        found = ordering.find(reading, accession=number, filler=number, placer=number)
        if found is None:
            return {}
        order, row = found
        steps = [step.scheduled_procedure_step_id for _, step in ordering.steps_of(reading, order)]
    return {
        "accession_number": number.value,
        "study_instance_uid": row.procedures[0].study_instance_uid,
        "scheduled_procedure_step_ids": steps,
    }


def _facts(applied: Applied) -> dict[str, Any]:
    changes = [f"{change.kind} {change.action}" for change in applied.changes]
    return {"changes": changes, "warnings": list(applied.warnings)}


def import_files(config: Config, paths: Sequence[Path]) -> Iterator[tuple[Path, str, Sequence[str]]]:
    """Adds the entry in each file; yields each file, why it was refused or "", and warnings."""
    from engine.orders.entry_values import order_of, texts_of

    with opened(config) as orders:
        for path in paths:
            try:
                update = order_of(texts_of(_read(path)))
                _record(update)
                applied = orders.apply(update, _source())
            except (DataSetError, UpdateRefused) as error:
                yield path, str(error), ()
            except OSError as error:
                yield path, error.strerror or str(error), ()
            else:
                yield path, "", applied.warnings


def _read(path: Path) -> Any:
    """The data set of a file. Raises DataSetError, OSError."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise DataSetError("too long for an entry of a worklist")
    meta = part10.read_file_meta(data)
    return decode_identifier(data[meta.data_set_offset :], transfer_syntax.of(meta.transfer_syntax_uid))


def files_below(paths: Sequence[Path]) -> list[Path]:
    """The files, and of folders those that end in .wl or .dcm."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in (".wl", ".dcm"))
        found += inside if path.is_dir() else [path]
    return found


def entries(config: Config, keys: Sequence[tuple[str, str]], *, all_states: bool, limit: int) -> list[dict[str, Any]]:
    """The entries that meet the keys, by date and time. Raises QueryError."""
    from engine.orders import listing

    with opened(config) as orders:
        return listing.entries(orders, keys, config.worklist, all_states=all_states, limit=limit)


def cancel(config: Config, accession: str, step_id: str) -> dict[str, Any]:
    """Cancels an order, or one step of it. Raises UpdateRefused."""
    from engine.orders import ordering
    from engine.orders.names import id_key, name_key
    from engine.orders.values import Identifier, OrderAction, OrderUpdate, PatientUpdate, ProcedureUpdate, StepUpdate

    with opened(config) as orders:
        with orders.read() as reading:
            tables = reading.database
            found = reading.ids(name_key("a", accession))
            order = reading.get(tables.orders, id_key(found[0])) if len(found) == 1 else None
            if order is None:
                count = f"{len(found)} orders have" if found else "no order has"
                raise UpdateRefused(f"{count} the accession number {accession}", "unknown-key")
            patient = reading.get(tables.patients, id_key(order.patient))
            steps = [row for _, row in ordering.steps_of(reading, found[0])]
        chosen = [row for row in steps if row.scheduled_procedure_step_id == step_id]
        if step_id and not chosen:
            raise UpdateRefused(f"the order has no step {step_id}", "unknown-key")
        procedures = tuple(
            ProcedureUpdate(
                requested_procedure_id=row.requested_procedure_id,
                steps=(StepUpdate(scheduled_procedure_step_id=row.scheduled_procedure_step_id),),
            )
            for row in chosen
        )
        update = OrderUpdate(
            action=OrderAction.CANCEL,
            patient=PatientUpdate(identifiers=patient.identifiers if patient is not None else ()),
            accession=order.accession or Identifier(accession),
            procedures=procedures,
        )
        _record(update)
        return _facts(orders.apply(update, _source()))


def why(config: Config, ae_title: str) -> dict[str, Any]:
    """The last query of an application entity, and what each of its keys leaves of the list."""
    from engine.access import Action, Policy
    from engine.orders import listing
    from engine.orders.stations import Stations

    scope = Policy(lambda: config).scope_of_peer(ae_title, Action.WORKLIST)
    with opened(config) as orders:
        facts = listing.why(orders, Stations(lambda: config), ae_title, scope)
    return {**facts, "refused": _refusal(config, ae_title)}


def _refusal(config: Config, ae_title: str) -> str:
    """Why an application entity may see no worklist; "" if it may, as far as its title decides."""
    from engine.access import Action, Kind, Policy, Principal

    peer = config.peer(ae_title)
    if peer is None:
        return ""
    address = peer.networks[0].partition("/")[0] if peer.networks else "127.0.0.1"
    principal = Principal(Kind.PEER, peer.aet, address, frozenset(peer.certificates))
    decision = Policy(lambda: config).allowed(principal, Action.WORKLIST)
    return "" if decision else decision.reason
