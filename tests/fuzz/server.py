"""Mutated PDUs, commands, identifiers and data sets over loopback against a running server that must not mind.

    python -m tests.fuzz.server INPUTS [--seed S] [--first CONNECTION] [--progress FILE] [--workers N]

A connection carries up to a dozen inputs and follows from the seed and its number alone. Two kinds: one whose framing
is right, where a C-ECHO behind the inputs must be answered or the association ended, for else something hangs; and one
whose bytes are mutated as they lie, which is sent, read a little and cut, as a broken or hostile peer would.

Looked at in between: the same processes live; a fresh association answers C-ECHO; descriptors, threads and private
memory of each process do not grow; what was stored at first comes back bit by bit. At the end the server stops in
order, and `filmroom check --payloads` finds nothing. A failure prints the line that sends the same connections again.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import peer, samples
from tests.fuzz import receive
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION, Peer
from tests.system.server import ROOT, Server

CONFIG = """
durability = "write-behind"
[limits]
artim_timeout_s = 2
dimse_timeout_s = 2
query_results_max = 20
disk_reserve_bytes = 0
stream_threshold_bytes = 65536
[storage]
segment_bytes = 4194304
[log]
level = "error"
"""
"""Short timers, since some connections would else cost half a minute; small segments, since a writer keeps the heads of
its segment's records in memory, which would look like a leak."""

BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
CONTEXTS: tuple[peer.Context, ...] = (
    (1, CT, [EXPLICIT]),
    (3, STUDY_ROOT_FIND, [IMPLICIT]),
    (5, VERIFICATION, [IMPLICIT]),
    (7, STUDY_ROOT_GET, [EXPLICIT]),
    (9, STUDY_ROOT_MOVE, [IMPLICIT]),
    (11, CT, [IMPLICIT]),
    (13, CT, [BIG]),
    (15, CT, [DEFLATED]),
)
STORE_CONTEXTS = {1: 1, 0: 11, 2: 13, 3: 15}
"""First byte of a data set of tests.fuzz.targets → the context of its transfer syntax."""

ECHO_CONTEXT = 5
ECHO_ID = 0xEC40
ANSWER_S = 10.0
"""For the C-ECHO behind the inputs; some milliseconds unless something hangs."""

INPUTS_MAX = 12
CHECK_EVERY = 250
"""Connections between two looks at the processes."""
COMPARE_EVERY = 2000
"""Connections between two retrievals of what was stored at first."""
WARM = 2000
"""Connections after which growth counts."""

DESCRIPTORS_MORE_MAX = 24
"""Beside one for each segment, which readers keep open."""
THREADS_MORE_MAX = 8
PRIVATE_MORE_BYTES_MAX = 96 << 20

STORED_COUNT = 8

MADE_UID = "1.2.3.4.5"
"""SOP Instance UID of the data sets to start from."""
MADE_STUDY_UID = "1.2.3.4"
STUDY_INPUTS = 500
"""Studies stay small: a retrieval lists its instances in memory, and one study of all would look like a leak."""


class Found(AssertionError):
    """Something is wrong with the server."""


@dataclass
class Vital:
    """One process."""

    descriptors: int
    threads: int
    private_bytes: int

    @classmethod
    def of(cls, pid: int) -> Vital:
        """As /proc says."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return cls(
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            int(status["Threads"]),
            int(status["RssAnon"].split()[0]) << 10,
        )


@dataclass
class Run:
    """What a run has come to."""

    seed: int
    connections: int = 0
    inputs: int = 0
    checks: int = 0
    answered: int = 0
    """Connections whose last C-ECHO was answered; the others were ended by the server, or cut."""
    seconds: float = 0.0
    private_more_bytes: int = 0
    descriptors_more: int = 0
    first: dict[int, Vital] = field(default_factory=dict)

    def line(self, outcome: str) -> str:
        """One line of JSON."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "first"}
        facts |= {"fuzz": "server", "outcome": outcome, "seconds": round(self.seconds, 1)}
        return json.dumps(facts | {"inputs_per_s": round(self.inputs / max(self.seconds, 1e-9))})


class Inputs:
    """The connections of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._data_sets = [data for data in TARGETS["extract"].seeds() if samples.ROOT.encode() not in data]
        self._identifiers = [data[1:] for data in TARGETS["identifier"].seeds()[:2]]
        self._associate = [
            peer.associate_rq(CONTEXTS, user_items=peer.role(CT, scu=True, scp=True)),
            peer.associate_rq(CONTEXTS[:1], user_items=peer.asynchronous_window(8, 8)),
            *(data[:1] + b"\0" + struct.pack(">I", len(data) - 1) + data[1:] for data in TARGETS["pdu"].seeds()),
        ]

    def random(self, number: int) -> random.Random:
        """What a connection follows from."""
        return random.Random(self._seed << 40 | number)

    def messages(self, rng: random.Random, number: int) -> list[bytes]:
        """Messages whose PDU and PDV framing is right."""
        kinds = (self._store, self._store, self._store, self._find, self._move, self._get)
        first = number * INPUTS_MAX
        found = [rng.choice(kinds)(rng, first + n) for n in range(rng.randint(1, INPUTS_MAX))]
        if rng.random() < 0.3:
            # At the end, for after most of them the association is over.
            found[-1] = self._command(rng, first + len(found))
        return found

    def raw(self, rng: random.Random, number: int) -> tuple[list[bytes], bool]:
        """Bytes as they come, and whether they are sent on an association."""
        if rng.random() < 0.3:
            return [mutated(rng, self._associate)], False
        if rng.random() < 0.5:
            return [receive.mangle_all(rng, b"".join(self.messages(rng, number)))], True
        return [receive.mangled(rng)], True

    def _store(self, rng: random.Random, number: int) -> bytes:
        data = mutated(rng, self._data_sets) if rng.random() < 0.9 else rng.choice(self._data_sets)
        choice, data = data[0] if data else 1, data[1:]
        # Most have a UID of their own, so that no UID comes to thousands of versions; some are not what they are said.
        uid = MADE_UID if rng.random() < 0.01 else f"9{number % 10**8:08d}"
        data = data.replace(MADE_UID.encode(), uid.encode()).replace(MADE_STUDY_UID.encode(), _study_uid(number))
        class_uid = samples.CT if rng.random() < 0.95 else "1.2.3"
        command = peer.c_store_rq(number & 0xFFFF, class_uid, uid if rng.random() < 0.95 else "1.2.3")
        return peer.message(STORE_CONTEXTS.get(choice % 4, 1), command, data, fragment=rng.choice((16378, 16378, 500)))

    def _find(self, rng: random.Random, number: int) -> bytes:
        command = peer.query_rq(peer.C_FIND_RQ, number & 0xFFFF, STUDY_ROOT_FIND)
        return peer.message(3, command, mutated(rng, self._identifiers))

    def _move(self, rng: random.Random, number: int) -> bytes:
        command = peer.query_rq(peer.C_MOVE_RQ, number & 0xFFFF, STUDY_ROOT_MOVE, rng.choice(("NOWHERE", "A\\B", "")))
        return peer.message(9, command, mutated(rng, self._identifiers))

    def _get(self, rng: random.Random, number: int) -> bytes:
        command = peer.query_rq(peer.C_GET_RQ, number & 0xFFFF, STUDY_ROOT_GET)
        keys = {0x00080052: "STUDY", 0x0020000D: _study_uid(number)}
        data = peer.identifier(keys, explicit=True)
        return peer.message(7, command, mutated(rng, [data]) if rng.random() < 0.8 else data)

    def _command(self, rng: random.Random, number: int) -> bytes:
        good = [
            peer.c_echo_rq(number & 0xFFFF),
            peer.c_store_rq(number & 0xFFFF, CT, "1.2.3"),
            peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND),
            peer.c_cancel_rq(number & 0xFFFF),
            *TARGETS["message"].seeds(),
        ]
        context = rng.choice((1, 3, 7, 9, 11))
        return peer.message(context, mutated(rng, good), b"" if rng.random() < 0.2 else None)


def _study_uid(number: int) -> bytes:
    """Of the same length as the one that it replaces."""
    return b"8%06d" % (number // STUDY_INPUTS % 10**6)


def fuzz(
    server: Server, inputs_count: int, seed: int, first: int, told: Callable[[Run], None] = lambda run: None
) -> Run:
    """Sends so many inputs. Raises Found."""
    run = Run(seed)
    inputs = Inputs(seed)
    began = time.monotonic()
    stored = store_some(server)
    pids = [server.process.pid, *server.worker_pids()]
    number = first
    while run.inputs < inputs_count:
        try:
            _connection(server, inputs, number, run)
        except (ConnectionError, AssertionError, struct.error) as error:
            if isinstance(error, Found):
                raise
            # Cut by the server in the middle of something, which is its right; whether it lives is seen below.
        run.connections += 1
        number += 1
        run.seconds = time.monotonic() - began
        if run.connections % CHECK_EVERY == 0:
            check(server, pids, run)
            told(run)
        if run.connections % COMPARE_EVERY == 0:
            compare(server, stored)
    check(server, pids, run)
    compare(server, stored)
    return run


def _connection(server: Server, inputs: Inputs, number: int, run: Run) -> None:
    rng = inputs.random(number)
    with _connected(server) as script:
        if rng.random() < 0.3:
            parts, associated = inputs.raw(rng, number)
            if associated:
                script.associate(*CONTEXTS, user_items=peer.role(CT, scu=True, scp=True))
            run.inputs += len(parts)
            script.send_until_closed(b"".join(parts))
            script.socket.settimeout(0.002)
            try:
                script.receive()
            except TimeoutError:
                pass  # it may wait for more
            script.cut()
            return
        script.associate(*CONTEXTS, user_items=peer.role(CT, scu=True, scp=True))
        parts = inputs.messages(rng, number)
        run.inputs += len(parts)
        script.send_until_closed(b"".join(parts) + peer.message(ECHO_CONTEXT, peer.c_echo_rq(ECHO_ID)))
        run.answered += _is_answered(script, number)
        if rng.random() < 0.5:
            script.cut()


def _connected(server: Server) -> Peer:
    return Peer(server.port, timeout_s=ANSWER_S)


def _is_answered(script: Peer, number: int) -> bool:
    """True: the C-ECHO was; False: the association was ended."""
    answer = struct.pack("<HHIH", 0, peer.RESPONDED_TO, 2, ECHO_ID)
    try:
        while True:
            received = script.receive()
            if received is None or received[0] in (peer.ABORT, peer.RELEASE_RP):
                return False
            if received[0] == peer.P_DATA and answer in received[1]:
                return True
    except TimeoutError:
        raise Found(f"connection {number}: neither an answer nor an end within {ANSWER_S:g} s") from None


def store_some(server: Server) -> dict[str, bytes]:
    """Instances that must still be there at the end; UID → data set."""
    stored: dict[str, bytes] = {}
    with _connected(server) as script:
        script.associate(CONTEXTS[0])
        for number in range(1, STORED_COUNT + 1):
            ds = samples.instance(77, 1, number, pixels=bytes([number]) * 3000)
            uid, data = str(ds.SOPInstanceUID), samples.encoded(ds)
            script.send(peer.message(1, peer.c_store_rq(number, CT, uid), data))
            if script.expect_message().status() != 0:
                raise Found(f"a good instance was refused: {uid}")
            stored[uid] = data
        script.release()
    return stored


def compare(server: Server, stored: dict[str, bytes]) -> None:
    """What was stored comes back as it was."""
    came: dict[str, bytes] = {}
    with _connected(server) as script:
        script.associate(CONTEXTS[0], CONTEXTS[3], user_items=peer.role(CT, scu=True, scp=True))
        keys = {0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.77"}
        rq = peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET)
        script.send(peer.message(7, rq, peer.identifier(keys, explicit=True)))
        while True:
            message = script.expect_message()
            if peer.number(message.command, peer.COMMAND_FIELD) != peer.C_STORE_RQ:
                if message.status() != 0xFF00:
                    break
                continue
            came[peer.text(message.command, peer.SOP_INSTANCE)] = message.data_set or b""
            script.send(peer.message(message.context_id, peer.c_store_rsp(message.command)))
        script.release()
    if came != stored:
        raise Found(f"of {len(stored)} instances stored at first {len(came)} came back, not all as they were")


def check(server: Server, pids: Sequence[int], run: Run) -> None:
    """The processes are the same, answer, and have not grown."""
    if server.process.poll() is not None:
        raise Found(f"the server has ended with code {server.process.returncode}:\n" + "".join(server.log[-40:]))
    try:
        alive = [server.process.pid, *server.worker_pids()]
        if alive != list(pids):
            raise Found(f"a worker died: {pids} have become {alive}\n" + "".join(server.log[-40:]))
        with _connected(server) as script:
            script.associate(CONTEXTS[2])
            script.echo(ECHO_CONTEXT)
            script.release()
    except (OSError, AssertionError) as error:
        if isinstance(error, Found):
            raise
        raise Found(f"no fresh C-ECHO: {error!r}") from error
    run.checks += 1
    segments_count = len(list((server.data / "segments").iterdir()))
    for pid in pids:
        now = Vital.of(pid)
        if pid not in run.first or run.connections <= WARM:
            run.first[pid] = now
            continue
        before = run.first[pid]
        more = now.private_bytes - before.private_bytes
        run.private_more_bytes = max(run.private_more_bytes, more)
        run.descriptors_more = max(run.descriptors_more, now.descriptors - before.descriptors)
        if (
            now.descriptors - before.descriptors > DESCRIPTORS_MORE_MAX + segments_count
            or now.threads - before.threads > THREADS_MORE_MAX
            or more > PRIVATE_MORE_BYTES_MAX
        ):
            raise Found(f"process {pid} has grown from {before} to {now}")


def check_archive(data: Path) -> None:
    """The archive of a server that has stopped."""
    command = [sys.executable, "-m", "engine", "check", "--payloads", "--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Found(f"check --payloads ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.server")
    parser.add_argument("inputs", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--progress", type=Path)
    given = parser.parse_args(arguments)
    last = Run(given.seed)

    def told(run: Run) -> None:
        nonlocal last
        last = run
        if given.progress is not None and run.connections % (8 * CHECK_EVERY) == 0:
            with given.progress.open("a") as stream:
                stream.write(f"{run.line('so far')}\n")

    with tempfile.TemporaryDirectory(prefix="filmroom-fuzz-") as folder:
        server = Server(Path(folder) / "data", config=CONFIG, workers=given.workers)
        try:
            last = fuzz(server, given.inputs, given.seed, given.first, told)
            if server.stop() != 0:
                raise Found(f"the server ended with code {server.process.returncode}")
            check_archive(server.data)
        except (TimeoutError, Found) as error:
            start = max(given.first + last.connections - CHECK_EVERY, given.first)
            again = f"python -m tests.fuzz.server {2 * CHECK_EVERY * INPUTS_MAX} --seed {given.seed} --first {start}"
            sys.stdout.write(f"{last.line('failed')}\n{error}\n{again}\n")
            return 1
        finally:
            server.close()
    sys.stdout.write(f"{last.line('well')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
