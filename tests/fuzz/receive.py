"""Streams for the receiver, made and mangled from a seed, and the comparison with its slow twin.

No coverage is measured: the receiver has five stages and its streams are built so that all of them are met. A stream
goes in whole, byte by byte and cut anywhere; each time the same must come out, and no chunk may stay behind.

    python -m tests.fuzz.receive RUNS [FIRST_SEED]      many runs; prints the seed that fails
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterator

from engine.dimse import assembly
from engine.storage.record import crc32c
from tests.oracle import receive as oracle
from tests.oracle.receive import Limits

BYTE_BY_BYTE_MAX = 3000
"""Bytes; longer streams are cut at random only."""

LIMITS = (
    Limits(),
    Limits(part=4096),
    Limits(part=5000),
    Limits(p_data=3000, control=200, command=300),
    Limits(control=20_000),
    Limits(pdvs=3),
)


# Streams -----------------------------------------------------------------------------------------


def command(rng: random.Random) -> bytes:
    """A command set as far as the receiver looks into it, now and then one that says nothing or nonsense."""
    elements = [struct.pack("<HHIH", 0, 0x0100, 2, rng.randrange(1 << 16))]
    if rng.random() < 0.3:
        size = rng.choice([0, 2, 64, 300])
        elements.append(struct.pack("<HHI", 0, 0x0600, size) + b"A" * size)
    if rng.random() < 0.95:
        elements.append(struct.pack("<HHIH", 0, 0x0800, 2, rng.choice([0x0101, 1, 1, 1, 1])))
    elif rng.random() < 0.5:
        elements.append(struct.pack("<HHI", 0, 0x0800, rng.choice([0, 1, 2, 1 << 31])))
    return b"".join(elements)


def fragments(rng: random.Random, context: int, is_command: bool, content: bytes) -> list[bytes]:
    """PDV items of one command or data set; some are empty."""
    pieces, at = [], 0
    while at < len(content):
        size = rng.choice([1, 2, 13, 200, 4096, 5000, len(content)])
        pieces.append(content[at : at + size])
        at += size
    while not pieces or rng.random() < 0.15:
        pieces.insert(rng.randrange(len(pieces) + 1), b"")
    last = len(pieces) - 1
    return [
        struct.pack(">IBB", len(piece) + 2, context, is_command | (number == last) << 1) + piece
        for number, piece in enumerate(pieces)
    ]


def p_data(*items: bytes) -> bytes:
    body = b"".join(items)
    return struct.pack(">BBI", 4, 0, len(body)) + body


def stream(rng: random.Random) -> bytes:
    """Some messages whose PDV items interleave over contexts, with control PDUs between."""
    lanes: list[list[bytes]] = []
    for context in rng.sample([1, 3, 5, 127, 255], rng.choice([1, 1, 2, 3])):
        lane: list[bytes] = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            sent = command(rng)
            lane += fragments(rng, context, True, sent)
            if oracle.announces_data_set(sent):
                size = rng.choice([0, 1, 5, 12, 100, 500, 500, 1000, 4095, 4096, 4097, 9000])
                lane += fragments(rng, context, False, rng.randbytes(size))
        lanes.append(lane)
    out, items = bytearray(), []
    while any(lanes):
        items.append(rng.choice([lane for lane in lanes if lane]).pop(0))
        if rng.random() < 0.6 or not any(lanes):
            out += p_data(*items)
            items.clear()
            if rng.random() < 0.1:
                body = rng.randbytes(rng.choice([0, 4, 4, 68, 5000, 17_000]))
                out += struct.pack(">BBI", rng.choice([1, 2, 3, 5, 6, 7]), 0, len(body)) + body
            if rng.random() < 0.05:
                out += p_data()
    return bytes(out)


def mangle(rng: random.Random, data: bytearray) -> None:
    """One change, of the kinds that broken or hostile peers make."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0 if data:
            data[at % len(data)] = rng.randrange(256)
        case 1 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 2:
            length = rng.choice([0, 1, 2, 5, 6, 0x101, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
            data[at : at + 4] = struct.pack(">I", length)
        case 3:
            del data[at : at + rng.choice([1, 2, 6, 12, 300])]
        case 4:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 6, 12]))
        case 5:
            length = rng.choice([6, 12, 100, 1000])
            data[at:at] = data[at : at + length]
        case _:
            del data[at:]


def mangle_all(rng: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        mangle(rng, data)
    return bytes(data)


def mangled(rng: random.Random) -> bytes:
    return mangle_all(rng, stream(rng))


# Comparison --------------------------------------------------------------------------------------


def cuts_of(rng: random.Random) -> Iterator[int]:
    longest = rng.choice([3, 12, 100, 9000])
    while True:
        yield rng.randrange(1, longest + 1)


def fixed(size: int) -> Iterator[int]:
    while True:
        yield size


def feed(receiver: assembly.Receiver, data: bytes, cuts: Iterator[int], go_on: Callable[[], bool]) -> None:
    at = 0
    while at < len(data) and go_on():
        window = memoryview(receiver.get_buffer(-1))
        assert len(window) > 0
        count = min(len(window), len(data) - at, next(cuts))
        window[:count] = data[at : at + count]
        window.release()
        receiver.buffer_updated(count)
        at += count


class Seen:
    """What one receiver told, in the twin's words."""

    def __init__(self, limits: Limits, *, data_allowed: bool) -> None:
        self.events: list[oracle.Event] = []
        self.calls = 0
        self.stop_at = 0
        self.pool = assembly.ChunkPool(limits.chunk, 2)
        self.receiver = assembly.Receiver(
            self.pool,
            self._told,
            p_data_length_max=limits.p_data,
            control_length_max=limits.control,
            command_length_max=limits.command,
            part_bytes=limits.part,
            pdv_count_max=limits.pdvs,
        )
        self.receiver.data_allowed = data_allowed
        self._checksums: dict[int, int] = {}

    def _told(self, events: list[tuple[object, ...]]) -> None:
        assert not self.stop_at or self.calls < self.stop_at, "events after stop"
        self.calls += 1
        self.events += [self._plain(event) for event in events]
        if self.calls == self.stop_at:
            self.receiver.stop()

    def _plain(self, event: tuple[object, ...]) -> oracle.Event:
        match event:
            case (assembly.PDU, pdu_type, body):
                return oracle.PDU, pdu_type, body
            case (assembly.COMMAND, context_id, command, has_data_set):
                return oracle.COMMAND, context_id, command, has_data_set
            case (assembly.ERROR, reason, str()):
                return oracle.ERROR, reason
            case (assembly.P_DATA_EARLY,):
                return (oracle.EARLY,)
            case (kind, int(context_id), assembly.DataSet() as data_set):
                return self._data_set(kind == assembly.DATA_SET, context_id, data_set)
        raise AssertionError(f"unknown event {event!r}")

    def _data_set(self, is_last: bool, context_id: int, data_set: assembly.DataSet) -> oracle.Event:
        content = data_set.to_bytes()
        crc = crc32c(content, self._checksums.pop(context_id, 0))
        assert data_set.crc == crc
        assert data_set.length == len(content)
        assert bytes(data_set.head) == content[: len(data_set.head)]
        if not is_last:
            self._checksums[context_id] = crc
        offset = data_set.offset
        data_set.release()
        return oracle.DATA_SET if is_last else oracle.PART, context_id, content, offset


def compare(seed: int) -> int:
    """Raises AssertionError when receiver and twin differ; the length of the stream that was compared."""
    rng = random.Random(seed)
    limits = rng.choice(LIMITS)
    data_allowed = rng.random() < 0.97
    data = mangled(rng)
    expected = oracle.receive(data, limits, data_allowed=data_allowed)
    cuttings = [fixed(1 << 30), cuts_of(rng)]
    if len(data) <= BYTE_BY_BYTE_MAX:
        cuttings.append(fixed(1))
    for cuts in cuttings:
        seen = Seen(limits, data_allowed=data_allowed)
        feed(seen.receiver, data, cuts, lambda: True)
        assert seen.events == expected.events, f"seed {seed}"
        assert seen.receiver.mid_message == expected.mid_message, f"seed {seed}"
        seen.receiver.stop()
        assert seen.pool.outstanding == 0, f"seed {seed}"
    _stop_half_way(rng, seed, limits, data)
    return len(data)


def _stop_half_way(rng: random.Random, seed: int, limits: Limits, data: bytes) -> None:
    """As when an association ends: from outside, or by what its user does with an event."""
    seen = Seen(limits, data_allowed=True)
    stop_at_byte = rng.randrange(len(data) + 1)
    if rng.random() < 0.5:
        seen.stop_at = rng.randrange(1, 4)
    feed(seen.receiver, data, cuts_of(rng), lambda: seen.receiver.bytes_received < stop_at_byte)
    if rng.random() < 0.5:
        seen.receiver.get_buffer(-1)  # the loop has asked for a buffer, and then the connection is lost
    seen.receiver.stop()
    assert seen.pool.outstanding == 0, f"seed {seed}"
    calls = seen.calls
    feed(seen.receiver, data, cuts_of(rng), lambda: True)
    assert seen.calls == calls, f"seed {seed}: events after stop"
    assert seen.pool.outstanding == 0, f"seed {seed}"


def main(runs: int, first_seed: int) -> None:
    compared = 0
    for seed in range(first_seed, first_seed + runs):
        try:
            compared += compare(seed)
        except BaseException:
            sys.stderr.write(f"seed {seed}\n")
            raise
    sys.stdout.write(f"{runs} streams of {compared} bytes from seed {first_seed}: no difference\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
