"""Every parser on mutated inputs, and on those that once did harm; FILMROOM_FUZZ_RUNS makes it a long run.

The same inputs as `python -m tests.fuzz.run TARGET RUNS --seed SEED`, which is what to use for more than a million.
They run in a process of their own, so that a death or a hang is a failure with the line that replays it.
"""

from __future__ import annotations

import mmap
import os
import signal
from pathlib import Path

import pytest

from tests import effort
from tests.fuzz import run
from tests.fuzz.targets import TARGETS

RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "1500" if effort.ALL else "500"))
FIRST = 0 if effort.ALL or "FILMROOM_FUZZ_RUNS" in os.environ else effort.seed("EFFORT") % 3 * RUNS
"""One of three thirds, another with each commit."""
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))
REGRESSIONS = Path(__file__).parent / "regressions"


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_are_parsed_or_refused(name: str) -> None:
    tally = run.run(name, RUNS, SEED, first=FIRST)
    assert not tally.count, "\n".join(tally.findings)
    assert tally.runs == RUNS


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_to_start_from_are_parsed(name: str) -> None:
    seeds = TARGETS[name].seeds()
    assert seeds
    for data in seeds:
        TARGETS[name].run(data)


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.hex")), ids=lambda path: path.stem)
def test_what_once_did_harm_does_none(path: Path) -> None:
    """`<target>-<what it did>.hex`; lines that begin with # say what."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    name = max((name for name in TARGETS if path.stem.startswith(f"{name}-")), key=len)
    TARGETS[name].run(bytes.fromhex("".join(lines)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config", b"aet = " + b"[" * 5000),
        ("config", b"workers = " + b"9" * 5000),
        *((name, b"") for name in TARGETS),
        *((name, b"\x01") for name in TARGETS),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}-bytes",
)
def test_what_is_easily_forgotten_does_no_harm(name: str, data: bytes) -> None:
    """Brackets in which the TOML reader recurses, a number too long for int(); nothing at all."""
    TARGETS[name].run(data)


@pytest.mark.skipif(run.IS_SANITIZED, reason="under the address sanitizer memory says nothing")
def test_the_harness_sees_a_death_a_hang_an_error_and_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[mmap.mmap] = []

    def harmful(data: bytes) -> None:
        if harm == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        elif harm == "hang":
            while True:
                pass
        elif harm == "leak":
            # Pages of its own: what a long test run has freed could be used again, and nothing would grow.
            kept.append(mmap.mmap(-1, 1 << 20))
            kept[-1].write(b"x" * (1 << 20))
        elif harm == "memory":
            bytearray(1 << 40)
        else:
            raise ValueError("not the parser's own")

    monkeypatch.setitem(TARGETS, "harmful", run.Target(harmful, lambda: [b"seed"]))
    found = {}
    for harm in ("death", "hang", "error", "memory", "leak"):
        tally = run.run("harmful", 60 if harm == "leak" else 1, 9)
        found[harm] = (tally.deaths, tally.hangs, tally.errors, tally.leaks)
        if harm in ("death", "hang", "error"):
            assert "python -m tests.fuzz.run harmful --replay 9:0" in tally.findings[0]
    assert found == {
        "death": (1, 0, 0, 0),
        "hang": (0, 1, 0, 0),
        "error": (0, 0, 1, 0),
        "memory": (0, 0, 1, 0),
        "leak": (0, 0, 0, 1),
    }


def test_an_input_is_named_by_its_seed_and_index() -> None:
    for name in ("pdu", "extract"):
        there, here = (run.Inputs(TARGETS[name], 5) for _ in range(2))
        for index in (7, 3, 7):
            assert there.make(index) == here.make(index)
        assert there.make(1) != there.make(2)
