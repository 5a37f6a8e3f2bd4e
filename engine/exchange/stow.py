"""STOW-RS client: sends stored instances to a DICOMweb server, for `filmroom send` and jobs.

A request has up to BATCH instances, streamed: each as a file in its stored transfer syntax, with corrections and
[[coercion]] rules; Implicit VR and Big Endian are sent as Explicit VR Little Endian (PS3.18 8.7.3.2). Only instances
that the response module lists count as sent: older Orthancs answer 200 when they have stored nothing. After a request
that failed as a whole its instances are sent one by one, so that an instance that breaks the server fails alone. A
part's type has no transfer syntax parameter: the file has it, and the same Orthancs reject the parameter.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from engine.dicom import part10, transfer_syntax
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import AssociationFailed, CorruptRecord, EngineError, TranscodeError
from engine.exchange.dicomweb import DICOM_JSON, DicomwebPeer, connected
from engine.services import outgoing
from engine.services.coercion import Coercer
from engine.services.outgoing import OutgoingDataSet
from engine.services.suboperations import SENT_WITH_FAILURE, SendResult
from engine.web.multipart import Writer

if TYPE_CHECKING:
    from types import AsyncGeneratorType

    from engine.config import Peer
    from engine.index.format.types import Instance
    from engine.services.destination import Resources, Results

BATCH: Final = 50
BATCH_BYTES: Final = 32 << 20
"""Instances in one request, and their bytes if there are several: a lost connection costs little, and the requester of
a C-MOVE gets a pending response after each request."""
PIECE_BYTES: Final = 1 << 20
ENDING_S: Final = 0.01
"""How often to look whether a cancelled sender has left a body."""
DICOM: Final = "application/dicom"

_REFERENCED: Final = "00081199"
_FAILED: Final = "00081198"
_INSTANCE: Final = "00081155"
_WARNING_REASON: Final = "00081196"
_FAILURE_REASON: Final = "00081197"
_ANSWERED: Final = (200, 202, 409)
"""Statuses with a response module."""


class StowDestination:
    """Sends instances to one peer (`stored_scu.Sender`)."""

    def __init__(self, resources: Resources, client: DicomwebPeer, coercer: Coercer, results: Results) -> None:
        self._resources = resources
        self._client = client
        self._results = results
        self._coercer = coercer

    async def send(self, instances: list[Instance]) -> None:
        """Sends all instances, and reports a result for each."""
        for batch in _batches(instances):
            if self._results.cancelled:
                return
            if self._results.unreachable:
                self._results.fail_all(batch, self._results.unreachable)
            else:
                await self._send_batch(batch)

    async def _send_batch(self, instances: list[Instance]) -> None:
        readable: list[Instance] = []
        for instance in instances:
            try:
                await self._resources.pools.reads.run(self._resources.archive.retrieval.open(instance).verify)
            except (CorruptRecord, TranscodeError) as error:
                self._results.note([SendResult(instance, SENT_WITH_FAILURE, error)])
            else:
                readable.append(instance)
        if not readable:
            return
        await self._results.cleared()
        try:
            results = await self._post(readable)
        except AssociationFailed as error:
            if len(readable) == 1:
                self._results.note([SendResult(readable[0], SENT_WITH_FAILURE, error)])
                return
            await self._send_one_by_one(readable)
        except Exception as error:
            self._results.crashed(readable, error)
        else:
            self._results.note(results)

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
                self._results.note([SendResult(instance, SENT_WITH_FAILURE, error)])
                if lost == 3:
                    self._results.unreachable = str(error)
                    self._results.fail_all(instances[number + 1 :], str(error))
                    return

    async def _post(self, instances: list[Instance]) -> list[SendResult]:
        """Sends one request; returns the result of each instance. Raises AssociationFailed."""
        writer = Writer(secrets.token_hex(20), DICOM)
        failure: list[EngineError] = []
        headers = {"Content-Type": writer.content_type, "Accept": DICOM_JSON}
        body = self._body(writer, instances, failure)
        try:
            async with self._client.request("POST", "/studies", headers=headers, body=body) as response:
                status = response.status
                if status not in _ANSWERED:
                    raise self._client.refusal(status, "/studies")
                module = await self._client.read_json(response)
        except AssociationFailed as error:
            raise (AssociationFailed(str(failure[0])) if failure else error) from error
        finally:
            await end_body(body)
        return _results_of(instances, module if isinstance(module, dict) else {})

    async def _body(self, writer: Writer, instances: Sequence[Instance], failure: list[EngineError]) -> Any:
        reads = self._resources.pools.reads
        for number, instance in enumerate(instances):
            target = _target_of(instance)
            try:
                data_set = await outgoing.convert(
                    self._resources.archive,
                    self._resources.transcoder,
                    reads,
                    instance,
                    target,
                    await reads.run(lambda instance=instance: self._coercer.changes(instance)),  # type: ignore[misc]
                )
                meta = part10.write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, target)
                yield writer.head(number, DICOM) + meta
                async for piece in self._pieces(data_set):
                    yield piece
            except EngineError as error:
                failure.append(error)
                raise ConnectionError("an instance cannot be sent") from error
        yield writer.end(len(instances))

    async def _pieces(self, data_set: OutgoingDataSet) -> AsyncIterator[bytes]:
        if data_set.data is not None:
            yield data_set.data
            return
        stream = data_set.stream
        assert stream is not None
        while True:
            piece = bytearray(PIECE_BYTES)
            view = memoryview(piece)
            length = await self._resources.pools.reads.run(lambda view=view: stream.fill(view))  # type: ignore[misc]
            if length:
                yield bytes(view[:length])
            if length < PIECE_BYTES:
                return


async def end_body(body: AsyncGeneratorType[bytes, None]) -> None:
    """Ends the body of a request that is over.

    The client's task that sends it is cancelled then, but may be inside it for some turns of the loop.
    """
    while body.ag_running:
        await asyncio.sleep(ENDING_S)
    await body.aclose()


@asynccontextmanager
async def stow_destination(resources: Resources, peer: Peer, results: Results) -> AsyncIterator[StowDestination]:
    """A peer, connected within the context. Raises ConfigError for credentials that cannot be read."""
    async with connected(peer, resources.config) as client:
        coercer = Coercer(resources.archive, resources.config, peer.aet, await resources.supplies(peer.aet))
        yield StowDestination(resources, client, coercer, results)


def _batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    batch: list[Instance] = []
    length = 0
    for instance in instances:
        length += instance.position.payload_length
        if batch and (len(batch) == BATCH or length > BATCH_BYTES):
            yield batch
            batch, length = [], instance.position.payload_length
        batch.append(instance)
    if batch:
        yield batch


def _target_of(instance: Instance) -> str:
    syntax = transfer_syntax.of(instance.transfer_syntax_uid)
    return EXPLICIT_VR_LITTLE_ENDIAN.uid if syntax.convertible else syntax.uid


def _results_of(instances: Sequence[Instance], module: Mapping[str, Any]) -> list[SendResult]:
    """The result of each instance in the response module (PS3.18 Annex I.2)."""
    warnings, failures = _items(module, _REFERENCED, _WARNING_REASON), _items(module, _FAILED, _FAILURE_REASON)
    results = []
    for instance in instances:
        uid = instance.sop_instance_uid
        if uid in failures:
            results.append(SendResult(instance, failures[uid] or SENT_WITH_FAILURE))
        elif uid in warnings:
            results.append(SendResult(instance, warnings[uid]))
        else:
            error = AssociationFailed("the server does not list it as stored")
            results.append(SendResult(instance, SENT_WITH_FAILURE, error))
    return results


def _items(module: Mapping[str, Any], sequence: str, reason: str) -> dict[str, int]:
    """SOP Instance UID → reason, 0 without one."""
    reasons: dict[str, int] = {}
    element = module.get(sequence)
    for item in (element.get("Value") or []) if isinstance(element, dict) else []:
        uid, why = _first(item, _INSTANCE), _first(item, reason)
        if isinstance(uid, str):
            reasons[uid] = why if isinstance(why, int) else 0
    return reasons


def _first(item: Any, tag: str) -> Any:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
