"""Examines worklists: stations that have never asked, and steps that no station's list has."""

from __future__ import annotations

from collections.abc import Iterator

from engine.archive.archive import Archive
from engine.archive.hospital import has_orders, open_orders
from engine.config import Config
from engine.doctor.finding import Finding, good, warning
from engine.orders import listing
from engine.orders.stations import Stations

_SUBJECT = "worklists"
NAMES_MAX = 8


def examine(config: Config) -> Iterator[Finding]:
    """Nothing if the archive has no orders and the configuration no [[station]]."""
    if not (config.data / "archive.json").exists():
        return
    with Archive.open(config.data) as archive:
        if archive.is_read_only or not (has_orders(archive) or config.stations):
            return
        with open_orders(archive, Stations(lambda: config)) as orders:
            gaps = listing.gaps(orders, config.worklist, config.stations)
    if gaps.silent:
        names = ", ".join(gaps.silent[:NAMES_MAX]) + (", …" if len(gaps.silent) > NAMES_MAX else "")
        advice = "enter this server as its worklist there, with exactly that AE title; then `filmroom worklist why AET`"
        yield warning(_SUBJECT, f"these stations have never asked: {names}", advice, stations=len(gaps.silent))
    if gaps.without_station:
        what = f"of {gaps.open} open steps, {gaps.without_station} have no station: no station's list has them"
        advice = 'write a [[station]] whose modality, rooms or sources fit, or set unassigned = "show" in [worklist]'
        yield warning(_SUBJECT, what, advice, steps=gaps.without_station)
    if gaps.without_date:
        what = f"of {gaps.open} open steps, {gaps.without_date} have no date: the list of a day does not have them"
        advice = "they wait for an appointment; if none comes, see the mapping of dates: `filmroom hl7 explain`"
        yield warning(_SUBJECT, what, advice, steps=gaps.without_date)
    if not (gaps.silent or gaps.without_station or gaps.without_date):
        yield good(_SUBJECT, f"{gaps.open} open steps, each with a station and a date")
