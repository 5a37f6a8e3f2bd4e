"""Reads the records of chains, forward and backward, while their processes append to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.audit.chain import HASH_BYTES, TAIL_BYTES, Head, chain_files, first_number, parse_head

BLOCK_BYTES: Final = 1 << 20


def lines_of(path: Path) -> Iterator[bytes]:
    """The whole lines of a file, without their ends."""
    with path.open("rb", buffering=BLOCK_BYTES) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is being written
            yield line[:-1]


def forward(data: Path, name: str, after: int) -> Iterator[tuple[Head, bytes]]:
    """The records of a chain behind number `after`, with the JSON of each. What is no record is left out."""
    paths = chain_files(data, name)
    starts = [first_number(path) for path in paths]
    skipped = sum(start <= after + 1 for start in starts[1:])
    for path in paths[skipped:]:
        for line in lines_of(path):
            head = parse_head(line)
            if head is not None and head.number > after:
                yield head, line[HASH_BYTES + 1 :]


def backward(data: Path, name: str, before: int) -> Iterator[tuple[Head, bytes]]:
    """The records of a chain before number `before`, the last one first."""
    for path in reversed(chain_files(data, name)):
        if first_number(path) >= before:
            continue
        for line in _backward_lines(path):
            head = parse_head(line)
            if head is not None and head.number < before:
                yield head, line[HASH_BYTES + 1 :]


def _backward_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        tail, is_end = b"", True
        while end > 0:
            length = min(TAIL_BYTES, end)
            end -= length
            file.seek(end)
            head, *lines = (file.read(length) + tail).split(b"\n")
            if is_end and lines:
                lines.pop()  # nothing, or a line that is being written
                is_end = False
            yield from reversed(lines)
            tail = head
        if tail and not is_end:
            yield tail
