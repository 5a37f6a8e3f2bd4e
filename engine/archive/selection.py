"""The instances that a retrieval names, in their order, in bounded memory: one batch, and the rest in a file.

`index.query.search` chooses them; this module does not read them. A study fits into the first batch, which stays in
memory. Later batches go into a file without a name:

    length u32 | zlib(msgpack of the instances) | length u32 | …
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import msgspec

from engine.errors import StorageFull
from engine.index.format.types import Instance

BATCH = 10_000
"""Instances in memory: some 6 MB."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Instance]).decode


class Selection:
    """The instances of one retrieval. A context manager, whose exit removes the file."""

    def __init__(self, instances: Iterable[Instance], folder: Path, batch: int = 0, *, at_once: bool = True) -> None:
        """`folder`: for the file. `batch`: 0 for BATCH. Without `at_once` it is empty until you call `gather`.

        Raises StorageFull when there is no room for the file.
        """
        self._source = iter(instances)
        self._folder = folder
        self._batch = batch or BATCH
        self._first: list[Instance] = []
        self._file: IO[bytes] | None = None
        self._count = 0
        self.segment_ids: set[int] = set()
        """The segments of all instances."""
        while at_once and self.gather():
            pass

    def gather(self) -> bool:
        """Reads one more batch. Returns whether there may be another. Raises StorageFull, and the source's errors."""
        try:
            batch = list(islice(self._source, self._batch))
            if batch:
                self._add(batch)
        except OSError as error:
            self.close()
            raise StorageFull(f"no room for the list of a retrieval: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        return len(batch) == self._batch

    def __len__(self) -> int:
        return self._count

    @property
    def is_one_batch(self) -> bool:
        """Whether all instances are in the first batch. Ask when `gather` has returned False."""
        return self._file is None

    @property
    def first(self) -> Sequence[Instance]:
        """The first batch, until `batches` has yielded it."""
        return self._first

    def __enter__(self) -> Selection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def batches(self) -> Iterator[list[Instance]]:
        """All instances, a batch at a time. Iterate once."""
        first, self._first = self._first, []
        if first:
            yield first
        if self._file is None:
            return
        self._file.seek(0)
        while length := int.from_bytes(self._file.read(4), "little"):
            yield _decode(zlib.decompress(self._file.read(length)))

    def close(self) -> None:
        """Removes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, batch: list[Instance]) -> None:
        self._count += len(batch)
        self.segment_ids.update(instance.position.segment_id for instance in batch)
        if not self._first:
            self._first = batch
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        data = zlib.compress(_encode(batch), 1)
        self._file.write(len(data).to_bytes(4, "little"))
        self._file.write(data)
