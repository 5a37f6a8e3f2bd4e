"""A forked process is like one that subprocess starts: end, signals, session, environment, folder, output."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from engine import __version__
from tests import template

MODULE = "tests.forked_facts"


def test_a_command_runs_to_its_end_and_its_output_and_code_are_the_callers() -> None:
    done = template.run("engine", "version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"filmroom {__version__}\n", "")
    done = template.run("engine", "find", "--nonsense")
    assert (done.returncode, done.stdout) == (2, "") and "nonsense" in done.stderr


@pytest.mark.parametrize(("word", "code", "said"), [("0", 0, "said"), ("7", 7, "said"), ("raise", 1, "a defect")])
def test_it_has_what_its_caller_gives_it(tmp_path: Path, word: str, code: int, said: str) -> None:
    done = template.run(MODULE, word, environment={**os.environ, "FACT": "here"}, folder=tmp_path)
    assert done.returncode == code
    assert done.stdout == repr(("here", str(tmp_path), [word], True, "")) + "\n"
    assert said in done.stderr


def test_none_inherits_what_another_was_given() -> None:
    assert template.run(MODULE, "0", environment={**os.environ, "FACT": "here"}).stdout.startswith("('here'")
    assert template.run(MODULE, "0", environment={"PATH": os.defpath}).stdout.startswith("(None")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(number: int) -> None:
    process = template.start(MODULE, "wait")
    with process.stdout, process.stderr:
        assert process.stdout.readline()
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        os.killpg(process.pid, number)
        assert process.wait(60) == -number
        assert process.poll() == process.returncode == -number
        process.kill()  # it has ended: no error


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        template.run(MODULE, "wait", timeout_s=0.5)
