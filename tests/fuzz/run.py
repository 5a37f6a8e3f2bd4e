"""Mutated inputs for the parsers, many of them, in a process that may die: what is needed is the standard library.

    python -m tests.fuzz.run TARGET,TARGET…|all RUNS [--seed S] [--progress FILE] [--corpus FOLDER]
    python -m tests.fuzz.run TARGET --replay SEED:INDEX         one input again, with its traceback
    python -m tests.fuzz.run TARGET --show SEED:INDEX           its bytes, in hexadecimal
    python -m tests.fuzz.run --list                             the targets

RUNS are shared among the targets. An input follows from target, seed and index alone. The inputs run in a forked child
whose address space is limited: one that kills it (a signal) is a death, one that takes more than a second of processor
time is a hang, any error but the parser's own is a finding, and so is memory that grows with the number of inputs. The
child notes where it is in shared memory, so the parent can name the input and go on behind it. One line of JSON a
target at the end; exit code 1 if there was any finding.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target

HANG_S = 1.0
"""Of processor time, so that a busy machine makes no hangs."""

ADDRESS_SPACE_BYTES = 1 << 30
"""What a child may map beyond what it has mapped when it begins: a parser that believes a length goes beyond it.

Not a limit of the whole: a test run that has opened many archives has some of their maps still."""

BATCH_COUNT = 200_000
"""Inputs of one child; then its memory is judged and a fresh one goes on."""

GROWTH_BYTES_MAX = 32 << 20
"""Resident bytes that a child may gain after its first tenth; allocators keep some, a leak is more."""

IS_SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
"""Its shadow memory needs the whole address space, and it keeps what was freed: memory says nothing then."""

_NOTES = struct.Struct("<QQ")
"""The index under way, and how many findings were written."""


@dataclass
class Tally:
    """What one target came to."""

    runs: int = 0
    seconds: float = 0.0
    deaths: int = 0
    hangs: int = 0
    leaks: int = 0
    errors: int = 0
    growth_bytes_max: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """All that is wrong."""
        return self.deaths + self.hangs + self.leaks + self.errors


class Inputs:
    """The inputs of one target and seed."""

    def __init__(self, target: Target, seed: int, corpus: Path | None = None) -> None:
        self._seeds = target.seeds()
        if corpus is not None:
            files = sorted(path for path in corpus.rglob("*") if path.is_file())
            self._seeds += [b"\1" + path.read_bytes()[:4000] for path in files]
        self._seed = seed
        self._rng = random.Random()

    def make(self, index: int) -> bytes:
        """The input of that index."""
        self._rng.seed(self._seed << 40 | index)
        return mutated(self._rng, self._seeds)


def run(
    name: str, runs: int, seed: int, *, first: int = 0, corpus: Path | None = None, progress: Path | None = None
) -> Tally:
    """So many inputs of one target, from the input with the number `first` on."""
    tally = Tally()
    inputs = Inputs(TARGETS[name], seed, corpus)
    began = time.monotonic()
    index = first
    while index < first + runs:
        last = min(index + BATCH_COUNT, first + runs)
        reached = _batch(name, inputs, seed, index, last, tally)
        tally.runs += reached - index
        tally.seconds = time.monotonic() - began
        index = reached
        if progress is not None:
            with progress.open("a") as stream:
                stream.write(f"{_line(name, seed, tally)}\n")
    return tally


def _batch(name: str, inputs: Inputs, seed: int, first: int, last: int, tally: Tally) -> int:
    """One child; the index behind the last input that it ran."""
    shared = mmap.mmap(-1, 4096)
    _NOTES.pack_into(shared, 0, first, 0)
    findings, writing = os.pipe()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(findings)
        code = 70
        try:
            _work(name, inputs, seed, first, last, shared, writing)
            code = 0
        except BaseException:
            os.write(writing, f"{name} the harness itself: {traceback.format_exc()}\0".encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(findings, "rb") as stream:
        told = stream.read().decode("utf-8", "replace").split("\0")
    _, status = os.waitpid(child, 0)
    reached = _NOTES.unpack_from(shared)[0]
    shared.close()
    for finding in filter(None, told):
        kind, _, text = finding.partition(" ")
        if kind == "growth":
            tally.growth_bytes_max = max(tally.growth_bytes_max, int(text))
            if int(text) > GROWTH_BYTES_MAX and not IS_SANITIZED:
                tally.leaks += 1
                _note(tally, f"{name} seed {seed}: inputs {first} to {last} leave {text} bytes behind")
        else:
            tally.errors += 1
            _note(tally, finding)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        is_hang = number in (signal.SIGPROF, signal.SIGXCPU)
        tally.hangs += is_hang
        tally.deaths += not is_hang
        _note(tally, f"{'hang' if is_hang else f'death by signal {number}'}: {_replay(name, seed, reached)}")
        return int(reached) + 1
    if os.WEXITSTATUS(status):
        tally.deaths += 1
        _note(tally, f"the process ended: {_replay(name, seed, reached)}")
        return int(reached) + 1
    return last


def _note(tally: Tally, text: str) -> None:
    tally.findings.append(text)
    sys.stderr.write(f"{text}\n")


def _replay(name: str, seed: int, index: int) -> str:
    return f"python -m tests.fuzz.run {name} --replay {seed}:{index}"


def _work(name: str, inputs: Inputs, seed: int, first: int, last: int, shared: mmap.mmap, findings: int) -> None:
    """In the child."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    if name == "frames":
        os.dup2(quiet, 2)  # a codec tells each of its panics at length
    if not IS_SANITIZED:
        limit = _mapped_bytes() + ADDRESS_SPACE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parse = TARGETS[name].run
    seen: set[object] = set()
    warm = first + (last - first) // 10
    resident = _resident_bytes()
    for index in range(first, last):
        _NOTES.pack_into(shared, 0, index, len(seen))
        if index == warm:
            resident = _resident_bytes()
        data = inputs.make(index)
        # Whose default is to end the process: also in the middle of C code.
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            parse(data)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            key = (type(error), place.filename, place.lineno)
            if key not in seen:
                seen.add(key)
                text = f"{error!r} at {place.filename}:{place.lineno}: {_replay(name, seed, index)}"
                os.write(findings, f"{text}\0".encode("utf-8", "replace"))
    signal.setitimer(signal.ITIMER_PROF, 0)
    os.write(findings, f"growth {max(_resident_bytes() - resident, 0)}\0".encode())


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _line(name: str, seed: int, tally: Tally) -> str:
    return json.dumps(
        {
            "fuzz": name,
            "seed": seed,
            "runs": tally.runs,
            "seconds": round(tally.seconds, 1),
            "runs_per_s": round(tally.runs / max(tally.seconds, 1e-9)),
            "deaths": tally.deaths,
            "hangs": tally.hangs,
            "leaks": tally.leaks,
            "errors": tally.errors,
            "growth_bytes_max": tally.growth_bytes_max,
        }
    )


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("target", nargs="?", default="all")
    parser.add_argument("runs", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--replay")
    parser.add_argument("--show")
    given = parser.parse_args(arguments)
    if given.list:
        sys.stdout.write("\n".join(TARGETS) + "\n")
        return 0
    names = list(TARGETS) if given.target == "all" else given.target.split(",")
    unknown = set(names) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; --list names them")
    named = given.replay or given.show
    if named:
        seed, index = map(int, named.split(":"))
        data = Inputs(TARGETS[names[0]], seed, given.corpus).make(index)
        if given.show:
            sys.stdout.write(f"{data.hex()}\n")
        else:
            TARGETS[names[0]].run(data)
            sys.stdout.write(f"{len(data)} bytes: parsed or refused\n")
        return 0
    found = 0
    for name in names:
        tally = run(name, given.runs // len(names), given.seed, corpus=given.corpus, progress=given.progress)
        sys.stdout.write(f"{_line(name, given.seed, tally)}\n")
        sys.stdout.flush()
        found += tally.count
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
