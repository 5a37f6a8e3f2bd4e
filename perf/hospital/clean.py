"""Finds what simulations have left, and takes it away: studies are deleted, open orders and workitems canceled.

It is found by Patient ID and, where there is one, by the root of its UIDs. Orders and patients stay in the registry, as
those of real patients do: they have no more effect, and are not shown to modalities.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from perf.hospital import invented
from perf.hospital.information import Information
from perf.hospital.network import Refused, Server
from perf.hospital.web import PAGE, Web, values

CLOSED: Final = ("CANCELED", "DISCONTINUED", "COMPLETED")
REASON: Final = "simulation"
LOOK_AGAIN_S: Final = 0.1
_GONE: Final = (HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


@dataclass(slots=True)
class Left:
    """What simulations have left."""

    studies: list[str] = field(default_factory=list)
    """Study Instance UIDs."""
    orders: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Accession numbers with open steps → Patient ID and name."""
    workitems: list[str] = field(default_factory=list)
    """UIDs of those that nobody has claimed."""

    @property
    def count(self) -> int:
        return len(self.studies) + len(self.orders) + len(self.workitems)


async def found(web: Web) -> Left:
    """Raises Refused, AssociationFailed."""
    studies = [uid for uid in await web.studies(invented.PATIENT_ID_PREFIX) if invented.is_ours(uid)]
    return Left(studies, await _orders(web), await _workitems(web))


async def _orders(web: Web) -> dict[str, tuple[str, str]]:
    page = await web.read("/api/worklist", PatientID=f"{invented.PATIENT_ID_PREFIX}*", all="true", limit=PAGE)
    return {
        str(entry["AccessionNumber"]): (str(entry["PatientID"]), str(entry["PatientName"]))
        for entry in page["entries"]
        if str(entry["ScheduledProcedureStepStatus"]) not in CLOSED
        and str(entry["AccessionNumber"]).startswith(invented.ACCESSION_PREFIX)
    }


async def _workitems(web: Web) -> list[str]:
    pattern = f"{invented.PATIENT_ID_PREFIX}*"
    page: list[dict[str, Any]] | None = await web.read(
        "/dicom-web/workitems", PatientID=pattern, ProcedureStepState="SCHEDULED", limit=PAGE
    )
    uids = [str(value) for each in page or () for value in values(each, "00080018")]
    return [uid for uid in uids if invented.is_ours(uid)]


async def remove(server: Server, web: Web, left: Left, done: Callable[[], None]) -> list[str]:
    """Takes it away; returns what could not be, with the reason. `done` is called after each."""
    failed = []
    for uid in left.studies:
        status, _ = await web.request("DELETE", f"/dicom-web/studies/{uid}", {"reason": REASON})
        if status not in _GONE:
            failed.append(f"study {uid}: DELETE was answered with {status}")
        done()
    information = Information(server, invented.run_now())
    try:
        for accession, (patient_id, name) in left.orders.items():
            try:
                await information.cancel_remaining(patient_id, name, accession)
            except Refused as error:
                failed.append(f"order {accession}: {error}")
            done()
    finally:
        await information.close()
    failed += await _still_open(server, web, set(left.orders))
    for uid in left.workitems:
        status, _ = await web.request("POST", f"/dicom-web/workitems/{uid}/cancelrequest")
        if status not in (*_GONE, HTTPStatus.ACCEPTED):
            failed.append(f"workitem {uid}: the request to cancel was answered with {status}")
        done()
    return failed


async def _still_open(server: Server, web: Web, canceled: set[str]) -> list[str]:
    """What is wrong with orders that were canceled: a message is acknowledged before it is applied."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + server.patience_s
    while still := canceled & set(await _orders(web)):
        if loop.time() > deadline:
            return [f"order {accession}: is not canceled" for accession in sorted(still)]
        await asyncio.sleep(LOOK_AGAIN_S)
    return []
