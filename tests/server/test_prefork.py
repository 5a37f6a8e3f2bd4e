"""Forked children share what their parent imported, see its end, and are replaced by new interpreters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from engine import interpreter

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import os, signal, subprocess, sys, threading
import orjson
from engine import log
from engine.config import Config
from engine.server.prefork import ForkedProcess, Preforked

CHILD = "tests.server.waiting_child"
log.configure(Config().log)
children = Preforked()

def ask(channel):
    channel.set_blocking(True)
    channel.send("ask")
    return channel.receive()[0]

def end_of(process):
    while (code := process.poll()) is None:
        pass
    return code

def tell(**facts):
    sys.stdout.write(orjson.dumps(facts).decode())
    sys.stdout.flush()
"""


def start(script: str) -> subprocess.Popen[str]:
    """The script in an interpreter of its own: the tests' process has threads, and forks nothing."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", HEAD + script],
        env=interpreter.environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str) -> tuple[dict[str, object], str]:
    """What the script tells, and its standard error."""
    with start(script) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    facts: dict[str, object] = orjson.loads(output)
    return facts, errors


def test_forked_children_share_their_imports_and_the_next_one_is_a_new_interpreter() -> None:
    facts, errors = run("""
children.fork([CHILD, CHILD])
started = [children.spawn(CHILD) for _ in range(3)]
seen = [ask(channel) for _, channel in started]
for process, channel in started:
    channel.send("end", code=5)
tell(
    seen=seen,
    pids=[process.pid for process, _ in started],
    forked=[isinstance(process, ForkedProcess) for process, _ in started],
    codes=[end_of(process) for process, _ in started],
    parent=os.getpid(),
)
""")
    seen = facts["seen"]
    assert isinstance(seen, list)
    assert [each["pid"] for each in seen] == facts["pids"]
    assert facts["forked"] == [True, True, False]
    assert [each["imported_by"] for each in seen] == [facts["parent"], facts["parent"], seen[2]["pid"]]
    assert [each["stdin"] for each in seen] == ["/dev/null"] * 3
    assert [each["sockets"] for each in seen] == [1, 1, 1], "each has its own end of its own channel, and no other"
    assert seen[0]["name"] == "filmroom waitin"
    assert facts["codes"] == [5, 5, 5], errors


def test_a_killed_child_and_one_with_a_defect_are_told_apart() -> None:
    facts, errors = run("""
children.fork([CHILD, CHILD])
(killed, _), (defect, channel) = children.spawn(CHILD), children.spawn(CHILD)
killed.kill()
channel.send("fail")
tell(codes=[end_of(killed), end_of(defect)], again=[killed.poll(), killed.kill()])
""")
    assert facts == {"codes": [-signal.SIGKILL, 1], "again": [-signal.SIGKILL, None]}
    assert "a defect of the child" in errors


def test_a_child_that_died_while_it_waited_is_passed_over() -> None:
    facts, _ = run("""
children.fork([CHILD, CHILD])
first, second = (process for process, _ in children._all())
os.kill(first.pid, signal.SIGKILL)
os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
process, channel = children.spawn(CHILD)
tell(is_second=process is second, answers=ask(channel)["pid"] == second.pid)
channel.close()
end_of(process)
""")
    assert facts == {"is_second": True, "answers": True}


def test_children_that_were_not_needed_end_with_the_server() -> None:
    facts, _ = run("""
children.fork([CHILD, CHILD])
processes = [process for process, _ in children._all()]
children.close()
tell(ended=[process.poll() is not None for process in processes], left=len(children._all()))
""")
    assert facts == {"ended": [True, True], "left": 0}


def test_a_process_with_threads_forks_nothing() -> None:
    facts, errors = run("""
release = threading.Event()
threading.Thread(target=release.wait).start()
children.fork([CHILD])
process, channel = children.spawn(CHILD)
tell(forked=isinstance(process, ForkedProcess), answers=ask(channel)["pid"] == process.pid)
channel.close()
end_of(process)
release.set()
""")
    assert facts == {"forked": False, "answers": True}
    assert "has started a thread" in errors


def test_where_a_fork_is_not_allowed_the_child_is_started_later() -> None:
    facts, errors = run("""
fork = os.fork
def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = refuse
before = len(os.listdir("/proc/self/fd"))
children.fork([CHILD])
after = len(os.listdir("/proc/self/fd"))
os.fork = fork
process, channel = children.spawn(CHILD)
tell(leaked=after - before, forked=isinstance(process, ForkedProcess), answers=ask(channel)["pid"] == process.pid)
channel.close()
end_of(process)
""")
    assert facts == {"leaked": 0, "forked": False, "answers": True}
    assert "was not forked" in errors


@pytest.mark.parametrize("is_started", [True, False])
def test_each_child_ends_when_the_parent_is_killed(is_started: bool) -> None:
    """None holds an end of another's channel."""
    script = """
children.fork([CHILD] * 3)
pids = [process.pid for process, _ in children._all()]
if STARTED:
    started = [children.spawn(CHILD) for _ in pids]
tell(pids=pids)
signal.pause()
"""
    with start(script.replace("STARTED", repr(is_started))) as process:
        assert process.stdout is not None
        # The children have this pipe too: read what is there, not to its end.
        pids = orjson.loads(os.read(process.stdout.fileno(), 4096))["pids"]
        assert all(is_running(pid) for pid in pids)
        process.kill()
        process.wait()
        give_up_at = time.monotonic() + 60
        while any(map(is_running, pids)):
            assert time.monotonic() < give_up_at, "a child outlives its parent"
            threading.Event().wait(0.01)


def is_running(pid: int) -> bool:
    """Whether the process is there, and no zombie that its new parent has not collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
