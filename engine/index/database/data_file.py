"""LMDB's file, data.mdb, as bytes: reads and checks its meta pages without LMDB.

LMDB maps the file and trusts it: a file that is shorter than its meta page says causes a SIGBUS, and a page that rotted
while the archive was stopped gives wrong answers. So check the file before it is mapped (`fault_of`). A clean end
writes a checksum (`write_checksum`), which the next start compares (`matches_checksum`).

LMDB's meta pages (0.9): pages 0 and 1, of the size that LMDB chose; in each little endian

    offset  bytes  field
    16      4      magic 0xBEEFC0DE
    20      4      version 1
    40      4      page size
    80      8      root of the free pages' tree: a page, or all ones for none
    128     8      root of the main tree
    136     8      last page in use
    144     8      transaction id: the page with the higher one counts

The root of the main tree is one page, a leaf with a node for each table, as long as there are fewer than some fifty:

    10      2      flags: 2 for a leaf
    12, 14  2, 2   where the offsets of nodes end, and where the nodes begin; the offsets are from 16 on, 2 bytes each
    node           length of the value u32, flags u16: 2 for a table, length of the name u16, name, 40 bytes, root u64

INDEX/checksum, written at a clean end and valid as long as the checkpoint of that end is the newest state:

    0       8      magic "FILMSUM\\0"
    8       8      transaction id
    16      8      length of data.mdb
    24      4      crc32c of these bytes of data.mdb
    28      4      crc32c of the 28 bytes before
"""

from __future__ import annotations

import os
import struct

from engine.errors import StorageFull
from engine.storage.files import Files, replace_file
from engine.storage.record import crc32c

LMDB_MAGIC = 0xBEEFC0DE
LMDB_DATA_VERSION = 1
PAGE_BYTES_MAX = 1 << 16
"""LMDB takes the page size of the machine that creates the index."""
CHECKSUM_BYTES_MAX = 256 << 20
"""A larger file has no checksum, so that no start has to read it all; the scrub compares it with the log."""

_META_BYTES_MIN = 512
_META_MAGIC = struct.Struct("<II")
_META_MAGIC_AT = 16
_PAGE_BYTES = struct.Struct("<I")
_PAGE_BYTES_AT = 40
_ROOTS_AT = (80, 128)
_NUMBER = struct.Struct("<Q")
_LAST_PAGE_AT = 136
_TRANSACTION_AT = 144
_NO_ROOT = (1 << 64) - 1
_MAIN_ROOT_AT = _ROOTS_AT[1]
_PAGE_BOUNDS = struct.Struct("<HHH")
_PAGE_BOUNDS_AT = 10
_LEAF = 2
_OFFSETS_AT = 16
_OFFSET = struct.Struct("<H")
_NODE = struct.Struct("<IHH")
_TABLE = 2
_TABLE_BYTES = 48
_TABLE_ROOT_AT = 40

_SUM = struct.Struct("<8sQQI")
_CRC = struct.Struct("<I")
_SUM_MAGIC = b"FILMSUM\0"
_PIECE_BYTES = 4 << 20


def transaction_of(page: bytes) -> int | None:
    """The transaction id of a meta page; None if this is not a meta page."""
    if len(page) < _META_BYTES_MIN:
        return None
    if _META_MAGIC.unpack_from(page, _META_MAGIC_AT) != (LMDB_MAGIC, LMDB_DATA_VERSION):
        return None
    return int(_NUMBER.unpack_from(page, _TRANSACTION_AT)[0])


def meta_page(page: bytes, slot: int, transaction_id: int) -> bytes:
    """A copy of a meta page for another slot and transaction id, which leads to the same state."""
    copy = bytearray(page)
    _NUMBER.pack_into(copy, 0, slot)
    _NUMBER.pack_into(copy, _TRANSACTION_AT, transaction_id)
    return bytes(copy)


def newest_meta_page(data: bytes) -> bytes | None:
    """The meta page that LMDB would open. `data` is both meta pages."""
    page_bytes = len(data) // 2
    pages = [data[:page_bytes], data[page_bytes:]]
    candidates = [(number, page) for page in pages if (number := transaction_of(page)) is not None]
    return max(candidates)[1] if candidates else None


def meta_fault(page: bytes, file_bytes: int) -> str:
    """Why a file of this length contradicts a meta page; empty if it does not."""
    if transaction_of(page) is None:
        return "it has no meta page"
    (page_bytes,) = _PAGE_BYTES.unpack_from(page, _PAGE_BYTES_AT)
    (last_page,) = _NUMBER.unpack_from(page, _LAST_PAGE_AT)
    if not _META_BYTES_MIN <= page_bytes <= PAGE_BYTES_MAX or page_bytes & (page_bytes - 1):
        return f"its meta page says pages of {page_bytes} bytes"
    roots = [_NUMBER.unpack_from(page, at)[0] for at in _ROOTS_AT]
    if any(root != _NO_ROOT and not 1 < root <= last_page for root in roots):
        return "its meta page leads beyond its last page"
    if (last_page + 1) * page_bytes > file_bytes:
        return f"it has {file_bytes} bytes and should have {(last_page + 1) * page_bytes}"
    return ""


def fault_of(files: Files, fd: int) -> str:
    """Why LMDB must not map this file; empty if it may. An empty file is a new one. Raises OSError."""
    size = files.size(fd)
    if not size:
        return ""
    # The first page has the size of both; without it the second cannot be found either.
    first = files.pread(fd, PAGE_BYTES_MAX, 0)
    if transaction_of(first) is None:
        return "it does not begin with a meta page"
    (page_bytes,) = _PAGE_BYTES.unpack_from(first, _PAGE_BYTES_AT)
    fault = meta_fault(first, 1 << 63)
    if fault:
        return fault
    newest = newest_meta_page(files.pread(fd, 2 * page_bytes, 0)) or b""
    fault = meta_fault(newest, size)
    if not fault and _PAGE_BYTES.unpack_from(newest, _PAGE_BYTES_AT)[0] != page_bytes:
        fault = "its meta pages say different lengths of pages"
    (root,) = _NUMBER.unpack_from(newest, _MAIN_ROOT_AT) if newest else (_NO_ROOT,)
    if fault or root == _NO_ROOT:
        return fault
    return tables_fault(files.pread(fd, page_bytes, root * page_bytes), _NUMBER.unpack_from(newest, _LAST_PAGE_AT)[0])


def tables_fault(page: bytes, last_page: int) -> str:
    """Why LMDB must not read the root of the main tree: a node or a table outside of its bounds; empty if it may."""
    flags, offsets_end, nodes_start = _PAGE_BOUNDS.unpack_from(page, _PAGE_BOUNDS_AT)
    if not flags & _LEAF:
        return ""  # more tables than we have
    if not _OFFSETS_AT <= offsets_end <= nodes_start <= len(page):
        return "its list of tables has no bounds"
    for at in range(_OFFSETS_AT, offsets_end - 1, _OFFSET.size):
        (offset,) = _OFFSET.unpack_from(page, at)
        if not nodes_start <= offset <= len(page) - _NODE.size:
            return "a table lies outside of its list"
        value_bytes, node_flags, name_bytes = _NODE.unpack_from(page, offset)
        value_at = offset + _NODE.size + name_bytes
        if node_flags != _TABLE or value_bytes != _TABLE_BYTES or value_at + value_bytes > len(page):
            return "its list of tables has something else in it"
        (root,) = _NUMBER.unpack_from(page, value_at + _TABLE_ROOT_AT)
        if root != _NO_ROOT and not 1 < root <= last_page:
            return "a table leads beyond its last page"
    return ""


def write_checksum(directory: str, files: Files, fd: int, transaction_id: int) -> None:
    """Writes the checksum of data.mdb, open as `fd`, after a clean end. Skips a large file, and a full disk.

    Raises StorageFailed.
    """
    try:
        size = files.size(fd)
        if size > CHECKSUM_BYTES_MAX:
            return
        data = _SUM.pack(_SUM_MAGIC, transaction_id, size, _crc_of(files, fd, size))
        replace_file(files, f"{directory}/checksum", data + _CRC.pack(crc32c(data)))
    except (OSError, StorageFull):
        return


def matches_checksum(directory: str, files: Files, fd: int, transaction_id: int) -> bool:
    """Whether data.mdb is what it was at the clean end with this transaction id. True if there is no valid checksum.

    Raises OSError when the file cannot be read.
    """
    try:
        sum_fd = files.open(f"{directory}/checksum", os.O_RDONLY)
    except OSError:
        return True
    try:
        data = files.pread(sum_fd, _SUM.size + _CRC.size, 0)
    except OSError:
        return True
    finally:
        files.close(sum_fd)
    if len(data) < _SUM.size + _CRC.size or _CRC.unpack(data[_SUM.size :])[0] != crc32c(data[: _SUM.size]):
        return True
    magic, checksum_id, size, crc = _SUM.unpack(data[: _SUM.size])
    if magic != _SUM_MAGIC or checksum_id != transaction_id:
        return True
    return bool(files.size(fd) == size and _crc_of(files, fd, size) == crc)


def _crc_of(files: Files, fd: int, size: int) -> int:
    crc = 0
    for at in range(0, size, _PIECE_BYTES):
        crc = crc32c(files.pread(fd, min(_PIECE_BYTES, size - at), at), crc)
    return crc
