"""A command whose process id is taken in another PID namespace goes on as a child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KEEPER = """
import sys
from pathlib import Path
from engine.archive.archive import Archive
from tests.archive.kept import data_set, received

archive = Archive.open(Path(sys.argv[1]), role="keeper", create=True)
archive.ingest_batch([received(data_set(1))])
print("ready", flush=True)
sys.stdin.readline()
"""

SCRIPT = """
import os, sys
from engine.cli import namespaces
from engine.errors import ProcessIdTaken

first = os.getpid()
print("once")

def work():
    if {tries} and os.getpid() == first:
        raise ProcessIdTaken("taken")
    print("here", os.getpid() != first)
    return {code}

sys.exit(namespaces.under_a_free_id(work))
"""


@pytest.mark.parametrize(("tries", "code"), [(0, 0), (1, 0), (1, 3)])
def test_the_child_does_the_work_and_the_command_ends_as_it_does(tries: int, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(tries=tries, code=code)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (code, f"once\nhere {tries > 0}\n")


def test_find_works_as_the_first_process_of_another_namespace(tmp_path: Path) -> None:
    in_namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*in_namespace, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no PID namespace can be made here")
    data = tmp_path / "data"
    command = [sys.executable, "-m", "engine", "find", "--data", str(data)]
    # Both namespaces' first process has the index open: the keeper holds on to it.
    with subprocess.Popen(
        [*in_namespace, sys.executable, "-c", KEEPER, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        found = subprocess.run([*in_namespace, *command], capture_output=True, text=True, timeout=120)
        process.stdin.write("\n")
        process.stdin.close()
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()
