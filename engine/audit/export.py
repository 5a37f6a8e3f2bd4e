"""Export: the records of all chains and the checkpoints as lines that another program can verify by itself.

    CHAIN HASH JSON                          HASH: SHA-256 of the hash before, as 32 bytes, and the JSON, in hex
    CHAIN HASH {"before":N}                  the hash before record N, which is the next line: where a chain begins, and
                                             behind records that are not of the time
    checkpoints SIGNATURE JSON               Ed25519 of the JSON's bytes, in base64: see `checkpoint`

There is no "before" where the records before were removed (`pruning`): a checkpoint has their last hash. The chains of
a source are LINEAGE/CHAIN, its checkpoints LINEAGE/checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.audit.chain import first_hash
from engine.audit.checkpoint import CHECKPOINTS, checkpoint_lines
from engine.audit.logs import Chain, chains, source_roots
from engine.audit.reading import forward


def export(data: Path, since: str = "", until: str = "") -> Iterator[bytes]:
    """The lines of a time, without their ends: not before `since`, before `until`; beginnings of times in UTC."""
    for label, chain in chains(data).items():
        yield from _records(label, chain, since, until)
    yield from _checkpoints("", data, since, until)
    for lineage, root in source_roots(data).items():
        yield from _checkpoints(f"{lineage}/", root, since, until)


def _records(label: str, chain: Chain, since: str, until: str) -> Iterator[bytes]:
    before: bytes | None = first_hash(chain.name)
    number, is_next = 0, False
    for head, record in forward(chain.root, chain.name, 0):
        if head.number != number + 1:
            before, is_next = None, False
        if not _is_within(record, since, until):
            is_next = False
        else:
            if not is_next and before is not None:
                yield b'%s %s {"before":%d}' % (label.encode(), before.hex().encode(), head.number)
            yield b"%s %s %s" % (label.encode(), head.hash.hex().encode(), record)
            is_next = True
        number, before = head.number, head.hash


def _checkpoints(label: str, root: Path, since: str, until: str) -> Iterator[bytes]:
    for _, _, line in checkpoint_lines(root):
        if _is_within(line.partition(b" ")[2], since, until):
            yield f"{label}{CHECKPOINTS} ".encode() + line


def _is_within(record: bytes, since: str, until: str) -> bool:
    """Whether a record is of the time. Its own time is its second member."""
    start = record.find(b",") + len(b',"t":"')
    time = record[start : start + 27].decode("ascii", "replace")
    return (not since or time >= since) and (not until or time < until)
