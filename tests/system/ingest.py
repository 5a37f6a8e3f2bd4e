"""Senders with a ledger for the crash tests: every acknowledged instance must be there afterwards, byte for byte.

The number of an instance gives all of its content, so that the ledger keeps numbers and checksums and no bytes.

    Sender (a thread, one association) ── C-STORE ──► server
       └─ acknowledged? ─► Ledger ─► verify(): C-FIND lists it, C-GET returns the same bytes
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, STUDY_ROOT_GET, Peer

WINDOW = 4
"""Outstanding C-STORE requests of a sender."""

SIZES_BYTES = (512, 2048, 2048, 16 << 10, 64 << 10, 300 << 10)

_MARK = f"{samples.ROOT}.77777777.1.10000000"


def _template() -> bytes:
    ds = samples.instance(77777777, 1, 1)
    ds.SOPInstanceUID = _MARK
    ds.PixelData = b""
    return samples.encoded(ds)[:-4]  # without the length of the empty Pixel Data


_TEMPLATE = _template()


@dataclass(frozen=True)
class GeneratedInstance:
    """One instance to send."""

    study: int
    number: int

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        return f"{samples.ROOT}.{self.study}.1.{10000000 + self.number}"

    def data_set(self) -> bytes:
        """Its bytes: a head of fixed length, and pixels whose length and content depend on the numbers."""
        rng = random.Random(self.study * 1_000_003 + self.number)
        size = rng.choice(SIZES_BYTES)
        head = _TEMPLATE.replace(_MARK.encode(), self.uid.encode()).replace(b".77777777", f".{self.study}".encode())
        return head + size.to_bytes(4, "little") + rng.randbytes(64) * (size // 64)


def study_number(index: int) -> int:
    """A study number with as many digits as in the template."""
    return 10000000 + index


@dataclass
class Ledger:
    """The sent and the acknowledged instances."""

    sent: set[str] = field(default_factory=set)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → sha256 of the data set."""
    studies: set[int] = field(default_factory=set)
    refused: list[tuple[str, int]] = field(default_factory=list)
    deleting: set[int] = field(default_factory=set)
    """Studies with a requested deletion: their instances may be there or not."""
    deleted: set[int] = field(default_factory=set)
    """Studies with a confirmed deletion: none of their instances is there."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_sent(self, made: GeneratedInstance) -> None:
        """Call it before the first byte is sent."""
        with self._lock:
            self.sent.add(made.uid)
            self.studies.add(made.study)

    def note_answer(self, made: GeneratedInstance, status: int) -> int:
        """Records an answer; returns the number of acknowledged instances so far."""
        with self._lock:
            if status == 0:
                self.acknowledged[made.uid] = hashlib.sha256(made.data_set()).hexdigest()
            else:
                self.refused.append((made.uid, status))
            return len(self.acknowledged)

    def verify(self, port: int, *, studies: set[int] | None = None) -> None:
        """Checks that every acknowledged instance is found and comes back unchanged, and that no other is listed."""
        for study in sorted(self.studies if studies is None else studies):
            prefix = f"{samples.ROOT}.{study}."
            expected = {uid: digest for uid, digest in self.acknowledged.items() if uid.startswith(prefix)}
            listed = find_instances(port, study)
            if study in self.deleted:
                assert not listed, f"deleted, and {len(listed)} are found: {sorted(listed)[:3]}"
            if study in self.deleting:
                expected = {}
            missing = expected.keys() - listed
            assert not missing, f"{len(missing)} of {len(expected)} acknowledged are not found: {sorted(missing)[:3]}"
            assert listed <= self.sent, f"found what was never sent: {sorted(listed - self.sent)[:3]}"
            brought = get_study(port, study)
            assert brought.keys() == listed
            for uid, data_set in brought.items():
                made = GeneratedInstance(study, int(uid.rpartition(".")[2]) - 10000000)
                assert data_set == made.data_set(), f"{uid} came back with other bytes"


class Sender(threading.Thread):
    """Stores instances of one study on one association until `stop` or the end of the server."""

    def __init__(
        self, port: int, ledger: Ledger, study: int, share: range, on_answer: Callable[[int], None] | None = None
    ) -> None:
        """`share`: the numbers of its instances; `on_answer` gets the count of acknowledged instances of all."""
        super().__init__(daemon=True)
        self._port = port
        self._ledger = ledger
        self._study = study
        self._share = share
        self._on_answer = on_answer or (lambda count: None)
        self._stop_wanted = threading.Event()
        self.lost = False
        """Whether the association ended before it was released."""

    def stop(self) -> None:
        """Stops sending; the thread waits for outstanding answers and releases."""
        self._stop_wanted.set()

    def run(self) -> None:
        """Runs the association from request to release."""
        try:
            with Peer(self._port) as script:
                self._send(script)
                script.release()
        except (OSError, AssertionError):
            self.lost = True

    def _send(self, script: Peer) -> None:
        script.associate((1, CT, [EXPLICIT]), user_items=peer.asynchronous_window(WINDOW, 1))
        outstanding: dict[int, GeneratedInstance] = {}
        for count, number in enumerate(self._share):
            if self._stop_wanted.is_set():
                break
            made = GeneratedInstance(self._study, number)
            self._ledger.note_sent(made)
            message_id = count % 60_000 + 1
            outstanding[message_id] = made
            script.send(peer.message(1, peer.c_store_rq(message_id, CT, made.uid), made.data_set()))
            if len(outstanding) == WINDOW:
                self._take_answer(script, outstanding)
        while outstanding:
            self._take_answer(script, outstanding)

    def _take_answer(self, script: Peer, outstanding: dict[int, GeneratedInstance]) -> None:
        answer = script.expect_message()
        made = outstanding.pop(answer.responded_to())
        self._on_answer(self._ledger.note_answer(made, answer.status()))


def start_senders(
    port: int, ledger: Ledger, study: int, count: int, on_answer: Callable[[int], None] | None = None
) -> list[Sender]:
    """Starts `count` senders of one study, each with its own numbers."""
    senders = [
        Sender(port, ledger, study, range(which * 100_000, (which + 1) * 100_000), on_answer) for which in range(count)
    ]
    for sender in senders:
        sender.start()
    return senders


def find_instances(port: int, study: int) -> set[str]:
    """The SOP Instance UIDs that C-FIND lists in a study."""
    found = set()
    with Peer(port) as script:
        script.associate((1, STUDY_ROOT_FIND, [IMPLICIT]))
        keys = {0x00080052: "IMAGE", 0x0020000D: f"{samples.ROOT}.{study}", 0x00080018: ""}
        script.send(peer.message(1, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), peer.identifier(keys)))
        while (answer := script.expect_message()).status() in (0xFF00, 0xFF01):
            assert answer.data_set is not None
            at = answer.data_set.index(b"\x08\0\x18\0") + 4
            length = int.from_bytes(answer.data_set[at : at + 4], "little")
            found.add(answer.data_set[at + 4 : at + 4 + length].rstrip(b"\0 ").decode())
        assert answer.status() == 0
        script.release()
    return found


def get_study(port: int, study: int) -> dict[str, bytes]:
    """SOP Instance UID → data set of all instances that C-GET of a study returns."""
    brought: dict[str, bytes] = {}
    with Peer(port) as script:
        script.associate(
            *((1, CT, [EXPLICIT]), (3, STUDY_ROOT_GET, [IMPLICIT])),
            maximum_length=1 << 20,
            user_items=peer.role(CT, scu=False, scp=True),
        )
        keys = {0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.{study}"}
        script.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET), peer.identifier(keys)))
        while True:
            received = script.expect_message()
            if peer.number(received.command, peer.COMMAND_FIELD) == peer.C_STORE_RQ:
                assert received.data_set is not None
                brought[peer.text(received.command, peer.SOP_INSTANCE)] = received.data_set
                script.send(peer.message(received.context_id, peer.c_store_rsp(received.command)))
            elif received.status() != 0xFF00:
                break
        assert received.status() == 0, f"C-GET ended with {received.status():04X}"
        script.release()
    return brought
