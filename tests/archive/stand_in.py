"""A small archive in memory with the face that import and export need, so that faults can be put into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.archive.ingest.entry import make_entry, scan
from engine.archive.ingest.request import ReceivedInstance
from engine.dicom.schema import STANDARD
from engine.errors import CorruptRecord, EngineError, InstanceRefused
from engine.index.format.types import Instance, Outcome, Query
from engine.storage.record import Position, crc32c


class ArchiveInMemory:
    """SOP Instance UID → instance and payload; keep-first."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}
        self.found: dict[str, Instance] = {}
        self.batches: list[int] = []
        self.streamed: list[list[int]] = []
        self.order: list[str] = []
        self.corrupt: set[str] = set()
        self.piece_bytes = 1000
        self.failure: EngineError | None = None

    def ingest_batch(
        self, items: Sequence[ReceivedInstance], *, policy: str = "keep-first"
    ) -> list[Outcome | EngineError]:
        if self.failure:
            raise self.failure
        self.batches.append(len(items))
        return [self._ingest(item) for item in items]

    def _ingest(self, item: ReceivedInstance) -> Outcome | EngineError:
        payload = b"".join(item.payload)
        assert len(payload) == item.payload_length
        assert crc32c(payload) == item.payload_crc
        try:
            return self.keep(payload, item.transfer_syntax_uid)
        except InstanceRefused as error:
            return error

    def ingest_stream(self, chunks: Iterator[Any], *, transfer_syntax_uid: str, policy: str = "keep-first") -> Outcome:
        if self.failure:
            raise self.failure
        parts = [bytes(chunk) for chunk in chunks]
        self.streamed.append([len(part) for part in parts])
        return self.keep(b"".join(parts), transfer_syntax_uid)

    def keep(self, payload: bytes, transfer_syntax_uid: str) -> Outcome:
        entry = make_entry(
            scan([payload], transfer_syntax_uid, STANDARD),
            STANDARD,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title="",
            sop_class_uid=None,
            sop_instance_uid=None,
        )
        uid = entry.sop_instance_uid.decode()
        self.order.append(uid)
        if uid in self.payloads:
            return Outcome.DUPLICATE if self.payloads[uid] == payload else Outcome.KEPT_ASIDE
        self.payloads[uid] = payload
        self.found[uid] = Instance(
            position=Position(1, 0, 0, 0, len(payload), crc32c(payload)),
            stamp=0,
            sop_class_uid=entry.sop_class_uid.decode(),
            sop_instance_uid=uid,
            transfer_syntax_uid=transfer_syntax_uid,
            study_instance_uid=entry.study_instance_uid.decode() if hasattr(entry, "study_instance_uid") else "1.2",
            series_instance_uid="1.2.3",
            pixel_data_offset=entry.pixel_data_offset,
            calling_ae_title="",
            received_ns=entry.received_ns,
            attributes=entry.instance,
            character_set=entry.character_set,
        )
        return Outcome.STORED

    def instances(self, query: Query) -> list[Instance]:
        (uid,) = query.keys.values()
        assert isinstance(uid, bytes)
        instance = self.found.get(uid.decode())
        return [instance] if instance else []

    def pieces(self, instance: Instance) -> Iterator[memoryview]:
        payload = self.payloads[instance.sop_instance_uid]
        buffer = bytearray(self.piece_bytes)
        for at in range(0, max(len(payload), 1), self.piece_bytes):
            piece = payload[at : at + self.piece_bytes]
            if at + self.piece_bytes >= len(payload) and instance.sop_instance_uid in self.corrupt:
                raise CorruptRecord("payload: checksum 00000000, expected 11111111", 1, 0)
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
