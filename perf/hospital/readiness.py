"""Whether a server is ready for a simulation: each actor asks once, before patience begins.

An actor insists while the server does not answer, since a server may be restarted during a day. At its begin that would
be silence for minutes; what is missing then is mostly a table of the configuration, and the answer says which.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from pydicom.dataset import Dataset

from engine.dicom import uids
from engine.dimse import messages
from engine.errors import AssociationFailed, HL7SendFailed
from perf.hospital import assistant, day, invented, modality, network, workstation
from perf.hospital.information import Information
from perf.hospital.invented import Person
from perf.hospital.network import Refused, Server

LIMIT_S: Final = 15.0
"""Of one actor's question."""
VERIFICATION: Final = uids.Verification

_CLASSES: Final = {
    **dict.fromkeys(day.STATIONS.values(), (modality.WORKLIST, modality.PERFORMED, modality.COMMITMENT)),
    assistant.SCHEDULER: (assistant.PUSH,),
    assistant.ASSISTANT: (assistant.PULL,),
    workstation.WORKSTATION: (workstation.FIND, workstation.GET),
}
"""AE titles, and what they ask for."""


async def check(server: Server, information: Information, first: Person) -> None:
    """Registers the first patient, and lets every actor verify. Raises Refused: what is missing, and how to set it."""
    await _check_hl7(server, information, first)
    for ae_title in _CLASSES:
        await check_actor(server, ae_title)


async def _check_hl7(server: Server, information: Information, first: Person) -> None:
    where = f"{server.host}:{server.hl7_port}"
    source = (
        f"it needs an [[hl7_source]] with this machine among its hosts, and application {invented.APPLICATION}"
        f" and facility {invented.FACILITY} or neither"
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            await information.register(first, patience_s=0.0)
    except HL7SendFailed as error:
        if "cannot be reached" in str(error):
            raise Refused(
                f"nothing listens for HL7 there: {error}; the server needs an [[hl7_listener]] in its filmroom.toml"
                f" (port = {server.hl7_port}), or name its port with --hl7-port"
            ) from None
        raise Refused(f"{where} takes no HL7 from here: {error}; {source}") from None
    except TimeoutError:
        raise Refused(f"{where} does not answer an HL7 message within {LIMIT_S:g} s: is this its HL7 port?") from None
    except Refused as error:
        raise Refused(f"{error}; {source}") from None


async def check_actor(server: Server, ae_title: str) -> None:
    """Whether an actor gets an association, is answered, and may ask. Raises Refused."""
    peer = f'a [[peer]] with aet = "{ae_title}" (filmroom config explain peer)'
    try:
        async with (
            asyncio.timeout(LIMIT_S),
            await network.associate(server, ae_title, (VERIFICATION, *_CLASSES[ae_title])) as association,
        ):
            response, _ = await association.request(VERIFICATION, messages.CEchoRQ)
            network.check(response, "C-ECHO")
            if lacking := [each for each in _CLASSES[ae_title] if not association.accepts(each)]:
                raise Refused(f"it does not accept {', '.join(map(uids.name_of, lacking))}")
            if modality.WORKLIST in _CLASSES[ae_title]:
                response, _ = await association.request(
                    modality.WORKLIST, lambda number: messages.CFindRQ(number, modality.WORKLIST), _nothing(ae_title)
                )
                network.check(response, "the query of the worklist")
    except AssociationFailed as error:
        raise Refused(f"{ae_title} gets no association: {error}; the server needs {peer}") from None
    except TimeoutError:
        where = f"{server.host}:{server.port}"
        raise Refused(f"{ae_title} gets no answer from {where} within {LIMIT_S:g} s: is this its DICOM port?") from None
    except Refused as error:
        raise Refused(f"{ae_title} may not do its work: {error}; the server needs {peer}") from None


def _nothing(ae_title: str) -> Dataset:
    """A query of the worklist that finds nothing."""
    step = Dataset()
    step.ScheduledStationAETitle, step.ScheduledProcedureStepStartDate = ae_title, time.strftime("%Y%m%d")
    keys = Dataset()
    keys.AccessionNumber, keys.ScheduledProcedureStepSequence = f"{invented.ACCESSION_PREFIX}0", [step]
    return keys
