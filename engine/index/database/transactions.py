"""The types of LMDB's transactions, cursors and tables, since the package `lmdb` has none.

The objects are LMDB's own. Reads return bytes that stay valid after the transaction. The environment opens the tables;
their handles are valid in every transaction of its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NewType, Protocol, TypeAlias, overload

from engine.errors import IndexDamaged

Table = NewType("Table", object)
"""The handle of a table."""

Bytes: TypeAlias = bytes | bytearray
Row: TypeAlias = tuple[bytes, bytes]
"""Key and value."""


def present(row: bytes | None) -> bytes:
    """A row that must exist, since another row refers to it. Raises IndexDamaged if it is missing."""
    if row is None:
        raise IndexDamaged("a row is missing: the index is damaged; run `filmroom rebuild-index`")
    return row


class Cursor(Protocol):
    """A place in a table, in the order of keys; ends with its transaction."""

    def __enter__(self) -> Cursor: ...
    def __exit__(self, *error: object) -> None: ...
    def __iter__(self) -> Iterator[Row]:
        """The rows from here on, or from the first row."""

    @overload
    def iternext(self) -> Iterator[Row]: ...
    @overload
    def iternext(self, keys: bool, values: bool) -> Iterator[bytes]:
        """The same, but only the key or only the value of each row."""

    def iterprev(self) -> Iterator[Row]:
        """The rows from here back."""

    def iternext_nodup(self, keys: bool = True, values: bool = True) -> Iterator[bytes]:
        """The same, each key once."""

    def iternext_dup(self, keys: bool = False, values: bool = True) -> Iterator[bytes]:
        """The values of this key, from here on."""

    def iterprev_dup(self, keys: bool = False, values: bool = True) -> Iterator[bytes]:
        """The values of this key, from here back."""

    def first(self) -> bool: ...
    def last(self) -> bool: ...
    def next(self) -> bool: ...
    def prev(self) -> bool: ...
    def prev_dup(self) -> bool: ...
    def last_dup(self) -> bool: ...
    def next_nodup(self) -> bool: ...
    def prev_nodup(self) -> bool: ...
    def set_key(self, key: Bytes) -> bool: ...
    def set_range(self, key: Bytes) -> bool: ...
    def set_range_dup(self, key: Bytes, value: Bytes) -> bool:
        """Goes to the first value of this key that is not less than `value`."""

    def key(self) -> bytes: ...
    def value(self) -> bytes: ...
    def item(self) -> Row: ...
    def count(self) -> int: ...
    @overload
    def getmulti(self, keys: Iterable[Bytes], dupdata: bool = False) -> Iterable[Row]: ...
    @overload
    def getmulti(
        self, keys: Iterable[Bytes], dupdata: bool, dupfixed_bytes: int, keyfixed: Literal[True]
    ) -> memoryview:
        """Keys and values of these lengths, end to end."""


class WriteCursor(Cursor, Protocol):
    """A cursor of a write transaction."""

    def __enter__(self) -> WriteCursor: ...
    def delete(self, dupdata: bool = False) -> bool: ...
    def put(
        self, key: Bytes, value: Bytes, dupdata: bool = True, overwrite: bool = True, append: bool = False
    ) -> bool: ...
    def putmulti(
        self, items: Iterable[tuple[Bytes, Bytes]], dupdata: bool = True, overwrite: bool = True, append: bool = False
    ) -> tuple[int, int]: ...


class ReadTxn(Protocol):
    """A snapshot of the last commit."""

    def get(self, key: Bytes, default: bytes | None = None, db: Table = ...) -> bytes | None: ...
    def cursor(self, db: Table) -> Cursor: ...
    def stat(self, db: Table) -> Mapping[str, int]: ...
    def id(self) -> int: ...
    def abort(self) -> None: ...


class WriteTxn(ReadTxn, Protocol):
    """A transaction that changes tables; invisible to others until it is committed."""

    def cursor(self, db: Table) -> WriteCursor: ...
    def put(
        self,
        key: Bytes,
        value: Bytes,
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
        db: Table = ...,
    ) -> bool: ...
    def delete(self, key: Bytes, value: Bytes = b"", db: Table = ...) -> bool: ...
    def pop(self, key: Bytes, db: Table = ...) -> bytes | None: ...
    def drop(self, db: Table, delete: bool = True) -> None:
        """Removes all rows, and with `delete` the table."""

    def commit(self) -> None: ...
