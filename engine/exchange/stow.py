"""STOW-RS client: stored instances to a DICOMweb server, as `filmroom send` and jobs send them.

A request has up to BATCH instances, streamed: each as a file in the transfer syntax in which it is stored, with
corrections and [[coercion]] rules; Implicit VR and Big Endian leave as Explicit VR Little Endian (PS3.18 8.7.3.2). Only
what the response module names as stored is taken: older Orthancs answer 200 when they have taken nothing. After a
request that failed as a whole its instances are sent one by one, so that one that a server breaks down over costs
itself. A part's type has no transfer syntax, which the file says and the same Orthancs do not read.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from engine.dicom import part10, transfer_syntax
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import AssociationFailed, CorruptRecord, EngineError, TranscodeError
from engine.exchange.dicomweb import DICOM_JSON, DicomwebPeer
from engine.services.coercion import Coercer
from engine.services.outgoing import Outgoing, outgoing
from engine.services.suboperations import SENT_WITH_FAILURE, Sent
from engine.web.multipart import Writer

if TYPE_CHECKING:
    from engine.config import Peer
    from engine.index.format.types import Instance
    from engine.services.destination import Resources, Results

BATCH: Final = 50
"""Instances of one request: some tens of megabytes, so that a lost connection costs little."""
PIECE_BYTES: Final = 1 << 20
DICOM: Final = "application/dicom"

_REFERENCED: Final = "00081199"
_FAILED: Final = "00081198"
_INSTANCE: Final = "00081155"
_WARNING_REASON: Final = "00081196"
_FAILURE_REASON: Final = "00081197"
_ANSWERED: Final = (200, 202, 409)
"""Statuses with a response module."""


class StowDestination:
    """One peer that instances are sent to (`stored_scu.Sender`)."""

    def __init__(self, resources: Resources, client: DicomwebPeer, peer: Peer, results: Results) -> None:
        self._resources = resources
        self._client = client
        self._results = results
        self._coercer = Coercer(resources.archive, resources.config, peer.aet)

    async def send(self, instances: list[Instance]) -> None:
        """Sends them all, or tells why not."""
        for start in range(0, len(instances), BATCH):
            some = instances[start : start + BATCH]
            if self._results.cancelled:
                return
            if self._results.unreachable:
                self._results.fail_all(some, self._results.unreachable)
            else:
                await self._send_some(some)

    async def _send_some(self, instances: list[Instance]) -> None:
        readable: list[Instance] = []
        for instance in instances:
            try:
                await self._resources.pools.reads.run(self._resources.archive.retrieval.open(instance).verify)
            except (CorruptRecord, TranscodeError) as error:
                self._results.note([Sent(instance, SENT_WITH_FAILURE, error)])
            else:
                readable.append(instance)
        if not readable:
            return
        try:
            sent = await self._post(readable)
        except AssociationFailed as error:
            if len(readable) == 1:
                self._results.note([Sent(readable[0], SENT_WITH_FAILURE, error)])
                return
            await self._send_one_by_one(readable)
        except Exception as error:
            self._results.crashed(readable, error)
        else:
            self._results.note(sent)

    async def _send_one_by_one(self, instances: Sequence[Instance]) -> None:
        lost = 0
        for number, instance in enumerate(instances):
            if self._results.cancelled:
                return
            try:
                self._results.note(await self._post([instance]))
                lost = 0
            except AssociationFailed as error:
                lost += 1
                self._results.note([Sent(instance, SENT_WITH_FAILURE, error)])
                if lost == 3:
                    self._results.unreachable = str(error)
                    self._results.fail_all(instances[number + 1 :], str(error))
                    return

    async def _post(self, instances: list[Instance]) -> list[Sent]:
        """One request; what became of each. Raises AssociationFailed."""
        writer = Writer(secrets.token_hex(20), DICOM)
        failure: list[EngineError] = []
        headers = {"Content-Type": writer.content_type, "Accept": DICOM_JSON}
        body = self._body(writer, instances, failure)
        try:
            async with self._client.request("POST", "/studies", headers=headers, body=body) as response:
                status = response.status
                if status not in _ANSWERED:
                    raise self._client.refused(status, "/studies")
                module = await self._client.read_json(response)
        except AssociationFailed as error:
            raise (AssociationFailed(str(failure[0])) if failure else error) from error
        finally:
            await body.aclose()
        return _results_of(instances, module if isinstance(module, dict) else {})

    async def _body(self, writer: Writer, instances: Sequence[Instance], failure: list[EngineError]) -> Any:
        reads = self._resources.pools.reads
        for number, instance in enumerate(instances):
            target = _target_of(instance)
            try:
                made = await outgoing(
                    self._resources.archive,
                    self._resources.transcoder,
                    reads,
                    instance,
                    target,
                    await reads.run(lambda instance=instance: self._coercer.changes(instance)),  # type: ignore[misc]
                )
                meta = part10.write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, target)
                yield writer.head(number, DICOM) + meta
                async for piece in self._pieces(made):
                    yield piece
            except EngineError as error:
                failure.append(error)
                raise ConnectionError("what is stored cannot be sent") from error
        yield writer.end(len(instances))

    async def _pieces(self, made: Outgoing) -> AsyncIterator[bytes]:
        if made.data is not None:
            yield made.data
            return
        stream = made.stream
        assert stream is not None
        while True:
            piece = bytearray(PIECE_BYTES)
            view = memoryview(piece)
            length = await self._resources.pools.reads.run(lambda view=view: stream.fill(view))  # type: ignore[misc]
            if length:
                yield bytes(view[:length])
            if length < PIECE_BYTES:
                return


def _target_of(instance: Instance) -> str:
    syntax = transfer_syntax.of(instance.transfer_syntax_uid)
    return EXPLICIT_VR_LITTLE_ENDIAN.uid if syntax.convertible else syntax.uid


def _results_of(instances: Sequence[Instance], module: Mapping[str, Any]) -> list[Sent]:
    """What the response module (PS3.18 Annex I.2) says of each."""
    taken, failed = _items(module, _REFERENCED, _WARNING_REASON), _items(module, _FAILED, _FAILURE_REASON)
    found = []
    for instance in instances:
        uid = instance.sop_instance_uid
        if uid in failed:
            found.append(Sent(instance, failed[uid] or SENT_WITH_FAILURE))
        elif uid in taken:
            found.append(Sent(instance, taken[uid]))
        else:
            error = AssociationFailed("the server does not say that it has taken it")
            found.append(Sent(instance, SENT_WITH_FAILURE, error))
    return found


def _items(module: Mapping[str, Any], sequence: str, reason: str) -> dict[str, int]:
    """SOP Instance UID → reason, 0 where none is said."""
    found: dict[str, int] = {}
    element = module.get(sequence)
    for item in (element.get("Value") or []) if isinstance(element, dict) else []:
        uid, why = _first(item, _INSTANCE), _first(item, reason)
        if isinstance(uid, str):
            found[uid] = why if isinstance(why, int) else 0
    return found


def _first(item: Any, tag: str) -> Any:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
