"""Storage Service Class, SCU, for `filmroom send`: sends DICOM files from outside the archive.

`storage_scu` sends stored instances. Files are sent one after the other and read from the disk directly between the PDU
headers, so that an object of any size costs a megabyte of memory.

    files → heads (SOP class and instance UID, transfer syntax) → groups that fit 128 presentation contexts
          → one association a group: C-STORE-RQ, data set, response; the next file
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.archive.interchange import media
from engine.archive.transcoding import transcode
from engine.dicom import elements, part10, transfer_syntax
from engine.dimse import status as statuses
from engine.dimse.assembly import Frame, p_data_tf
from engine.dimse.messages import CStoreRQ, CStoreRSP
from engine.errors import AssociationFailed, DataSetError, EngineError
from engine.net.client import Address, Requestor, open_association
from engine.runtime.pools import ThreadPool
from engine.services.contexts import SendContexts, in_groups, propose
from engine.services.outgoing import Stream, stream_of
from engine.services.storage_scu import GAPS_MAX

if TYPE_CHECKING:
    from engine.config import Config, Peer
    from engine.ul.negotiation import AcceptedContext

Progress = Callable[[str, int, int], None]

HEAD_BYTES = 256 << 10
"""Enough for the file meta information and, where that lacks them, the data set's own UIDs."""

PIECE_BYTES = 1 << 20

VECTORS_MAX = 512
"""Buffers of one preadv; the system accepts 1024 (IOV_MAX)."""

DICOMDIR = "1.2.840.10008.1.3.10"
"""Media Storage Directory Storage: describes a medium, is not an instance to send."""


@dataclass(frozen=True, slots=True)
class FileHead:
    """The facts about a file that are needed to send it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    data_set_bytes: int


@dataclass(slots=True)
class SendSummary:
    """The results of sending files."""

    sent: int = 0
    bytes: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of every file that was not sent."""


async def send_files(
    peer: Peer, config: Config, paths: list[Path], progress: Progress, *, follow: bool = False
) -> SendSummary:
    """Sends files, and the files in folders; `follow`: follows links in folders.

    Raises AssociationFailed when the first association cannot be opened.
    """
    if not peer.has_address:
        raise AssociationFailed(f"files are sent by DICOM, and {peer.aet} has a url only: import them, then send them")
    summary = SendSummary()
    heads = list(_heads(paths, summary, progress, follow=follow))
    transcoder, reads = transcode.Transcoder(), ThreadPool("reads", 2)
    progress("sending", 0, len(heads))
    for group in in_groups(heads, peer.transfer_syntaxes):
        remaining = group
        while remaining:
            try:
                contexts = propose(remaining, peer.transfer_syntaxes)
                requestor = await open_association(Address.of(peer, config), contexts)
            except AssociationFailed as error:
                if not summary.sent:
                    raise
                summary.failed += [(str(head.path), str(error)) for head in remaining]
                break
            sender = _FileSender(requestor, peer, transcoder, reads)
            remaining = await _send_on(sender, remaining, summary, progress, len(heads))
    transcoder.close()
    reads.close()
    return summary


async def _send_on(
    sender: _FileSender, heads: list[FileHead], summary: SendSummary, progress: Progress, total: int
) -> list[FileHead]:
    """Sends until all are done or the association is lost; returns the files that were not tried.

    If a receiver aborts on one file, the caller sends the others on another association.
    """
    for number, head in enumerate(heads, 1):
        try:
            await sender.send(head)
            summary.sent += 1
            summary.bytes += head.data_set_bytes
        except AssociationFailed as error:
            summary.failed.append((str(head.path), str(error)))
            return heads[number:]
        except EngineError as error:
            summary.failed.append((str(head.path), str(error)))
        progress("sending", summary.sent + len(summary.failed), total)
    await sender.release()
    return []


class _FileSender:
    """Sends files on one association."""

    def __init__(self, requestor: Requestor, peer: Peer, transcoder: transcode.Transcoder, reads: ThreadPool) -> None:
        self._requestor = requestor
        self._transcoder = transcoder
        self._reads = reads
        accepted = requestor.accepted
        self._contexts = SendContexts(accepted.contexts.values() if accepted else (), peer.transfer_syntaxes)

    async def release(self) -> None:
        """Releases the association."""
        await self._requestor.release()

    async def send(self, head: FileHead) -> None:
        """Sends one file. Raises TranscodeError, DataSetError; AssociationFailed when the association has ended."""
        context, target = self._contexts.choose(head)
        message_id, response = self._requestor.responses.expect()
        try:
            command = CStoreRQ(message_id, head.sop_class_uid, head.sop_instance_uid).encode()
            prefix = p_data_tf(context.presentation_context_id, True, command, self._requestor.fragment)
            fd = os.open(head.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                self._requestor.connection.trace_command(context.presentation_context_id, command)
                if target == head.transfer_syntax_uid and head.data_set_bytes % 2 == 0:
                    await self._transmit(fd, head, context, prefix)
                else:
                    syntaxes = transfer_syntax.of(head.transfer_syntax_uid), transfer_syntax.of(target)
                    stream = await stream_of(self._transcoder, self._reads, _FileSource(fd, head), *syntaxes)
                    await self._transmit_stream(stream, context, prefix)
            finally:
                os.close(fd)
        except OSError as error:
            self._requestor.responses.forget(message_id)
            raise DataSetError(f"cannot be read: {error.strerror}") from error
        except BaseException:
            self._requestor.responses.forget(message_id)
            raise
        rsp: CStoreRSP = await self._requestor.wait(response)
        if statuses.category(rsp.status) not in (statuses.Category.SUCCESS, statuses.Category.WARNING):
            raise DataSetError(f"refused with status {rsp.status:04X}").quoting(rsp.error_comment)

    async def _transmit(self, fd: int, head: FileHead, context: AcceptedContext, prefix: bytes) -> None:
        """Sends the data set of the file piece by piece; aborts if the file became shorter meanwhile."""
        connection, fragment = self._requestor.connection, self._requestor.fragment
        piece_bytes = max(min(PIECE_BYTES // fragment, GAPS_MAX), 1) * fragment
        at = 0
        while at < head.data_set_bytes:
            length = min(piece_bytes, head.data_set_bytes - at)
            frame = Frame(Frame.room_for(len(prefix), length, fragment))
            is_last = at + length == head.data_set_bytes
            gaps = frame.layout(prefix, length, fragment, context.presentation_context_id, is_last)
            if not _read_into(fd, gaps, head.data_set_offset + at):
                connection.abort("file became shorter")
                raise AssociationFailed(f"aborted: {head.path} became shorter while it was sent")
            connection.send(frame)
            try:
                await connection.drained()
            except ConnectionError as error:
                raise AssociationFailed(str(error)) from error
            prefix, at = b"", at + length

    async def _transmit_stream(self, stream: Stream, context: AcceptedContext, prefix: bytes) -> None:
        """Sends a data set that is converted meanwhile, one piece behind, since only the end shows the last piece."""
        connection, fragment = self._requestor.connection, self._requestor.fragment
        piece_bytes = max(min(PIECE_BYTES // fragment, GAPS_MAX), 1) * fragment
        piece, following = memoryview(bytearray(piece_bytes)), memoryview(bytearray(piece_bytes))
        length = await self._reads.run(partial(stream.fill, piece))
        is_last = False
        while not is_last:
            try:
                next_length = await self._reads.run(partial(stream.fill, following))
                is_last = next_length == 0
                frame = Frame(Frame.room_for(len(prefix), length, fragment))
                at = 0
                for gap in frame.layout(prefix, length, fragment, context.presentation_context_id, is_last):
                    gap[:] = piece[at : at + len(gap)]
                    at += len(gap)
                connection.send(frame)
                await connection.drained()
            except ConnectionError as error:
                raise AssociationFailed(str(error)) from error
            except EngineError as error:
                connection.abort("the data set cannot be sent completely")
                raise AssociationFailed(f"aborted: {error}") from error
            prefix, piece, following, length = b"", following, piece, next_length


class _FileSource:
    """The data set of a file as a `dicom.sources.Source`."""

    def __init__(self, fd: int, head: FileHead) -> None:
        self._fd = fd
        self._offset = head.data_set_offset
        self.length = head.data_set_bytes

    def read(self, offset: int, count: int) -> bytes:
        """See `Source`. Raises DataSetError."""
        count = max(min(count, self.length - offset), 0)
        try:
            data = os.pread(self._fd, count, self._offset + offset)
        except OSError as error:
            raise DataSetError(f"cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise DataSetError("the file became shorter")
        return data


def _read_into(fd: int, gaps: list[memoryview], offset: int) -> bool:
    for start in range(0, len(gaps), VECTORS_MAX):
        group = gaps[start : start + VECTORS_MAX]
        length = sum(map(len, group))
        if os.preadv(fd, group, offset) != length:
            return False
        offset += length
    return True


def _heads(paths: list[Path], summary: SendSummary, progress: Progress, *, follow: bool) -> Iterator[FileHead]:
    for number, file in enumerate(media.files(paths, follow=follow), 1):
        progress("reading heads", number, 0)
        if isinstance(file, media.Refused):
            summary.failed.append((file.name, file.reason))
            continue
        try:
            head = read_head(file.path)
        except DataSetError as error:
            summary.failed.append((str(file.path), str(error)))
            continue
        if head.sop_class_uid != DICOMDIR:
            yield head


def _scan(path: Path, data_set_offset: int, size: int, syntax: transfer_syntax.TransferSyntax) -> elements.Head:
    """Scans a file's data set by its element headers."""
    try:
        with media.open_regular(path, follow=True) as file:
            fd = file.fileno()

            def read(offset: int, count: int) -> bytes:
                data = os.pread(fd, count, data_set_offset + offset)
                if len(data) != count:
                    raise DataSetError("became shorter while it was read")
                return data

            return elements.scan_at(read, max(size - data_set_offset, 0), syntax)
    except OSError as error:
        raise DataSetError(f"cannot be read: {error.strerror}") from error


def read_head(path: Path) -> FileHead:
    """The UIDs and the position of a file's data set. Raises DataSetError when it is not a DICOM file, or truncated."""
    try:
        with media.open_regular(path, follow=True) as file:
            start = file.read(HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataSetError(f"cannot be read: {error.strerror}") from error
    meta = part10.read_file_meta(start)
    # Prefer the data set's own UIDs: receivers compare them with the command, and some files' meta information differs.
    syntax = transfer_syntax.of(meta.transfer_syntax_uid)
    head = _scan(path, meta.data_set_offset, size, syntax)
    if head.cut:
        raise DataSetError(f"the data set {head.cut}")
    sop_class_uid = head.sop_class_uid.decode("ascii", "replace") or meta.media_storage_sop_class_uid
    sop_instance_uid = head.sop_instance_uid.decode("ascii", "replace") or meta.media_storage_sop_instance_uid
    if not (sop_class_uid and sop_instance_uid) or size <= meta.data_set_offset:
        raise DataSetError("no SOP class and instance UID, or no data set")
    return FileHead(
        path,
        sop_class_uid,
        sop_instance_uid,
        meta.transfer_syntax_uid,
        meta.data_set_offset,
        size - meta.data_set_offset,
    )
