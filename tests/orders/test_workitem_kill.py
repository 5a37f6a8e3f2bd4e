"""Workitems under kill -9 of their performers: what was answered is there with its events, also in a new database."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from engine.dicom import tags
from engine.orders.attributes import decoded
from engine.orders.registry import Orders, Place
from engine.orders.workitems.facts import text_of
from engine.orders.workitems.store import Workitems
from engine.storage.files import Files

PERFORMER = """
import sys
from pathlib import Path
from engine.orders.registry import Orders, Place
from engine.orders.workitems.store import Subscriber, Workitems
from engine.orders.workitems.subscriptions import GLOBAL
from engine.storage.files import Files
from tests.orders.workitem_sets import performed, scheduled

workitems = Workitems(Orders(Place(Path(sys.argv[1]), bytes(16), Files())))
who = "1.2." + sys.argv[2]

def say(what, uid):
    sys.stdout.write(what + " " + uid + chr(10))
    sys.stdout.flush()

workitems.subscribe(GLOBAL, Subscriber("WATCH"), has_lock=False)
for number in range(10**9):
    uid, lock = f"{who}.{number}", f"{who}.{number}.9"
    workitems.create(uid, scheduled(), "AI")
    say("SCHEDULED", uid)
    workitems.change_state(uid, "IN PROGRESS", lock, "AI")
    say("IN PROGRESS", uid)
    workitems.update(uid, performed(lock), "AI")
    workitems.change_state(uid, "COMPLETED", lock, "AI")
    say("COMPLETED", uid)
"""
ORDER = ("", "SCHEDULED", "IN PROGRESS", "COMPLETED")


def _answered(data: Path, first: int) -> dict[str, str]:
    """The last state of each workitem that two processes were told of, before both were killed."""
    arguments = [sys.executable, "-c", PERFORMER, str(data)]
    processes = [
        subprocess.Popen([*arguments, str(number)], stdout=subprocess.PIPE, text=True) for number in (first, first + 1)
    ]
    lines: list[str] = []
    for process in processes:
        assert process.stdout is not None
        lines += [process.stdout.readline().strip() for _ in range(8)]
    for process in processes:
        process.kill()
    for process in processes:
        rest, _ = process.communicate()
        lines += [line for line in rest.split("\n")[:-1] if line]
    return {uid: state for state, _, uid in (line.rpartition(" ") for line in lines)}


def _check(data: Path, answered: dict[str, str]) -> None:
    with Orders(Place(data, bytes(16), Files())) as orders:
        workitems = Workitems(orders)
        told: dict[str, str] = {}
        for _, row in workitems.waiting("WATCH", 0, 100_000):
            state = decoded(row.data_set, element_count_max=100).text(tags.ProcedureStepState)
            told[row.uid] = max(state, told.get(row.uid, ""), key=ORDER.index)
        for uid, state in answered.items():
            items = workitems.get(uid)
            stored = text_of(items, tags.ProcedureStepState)
            assert ORDER.index(stored) >= ORDER.index(state), f"{uid}: {state} was answered, {stored} is stored"
            assert told[uid] == stored, "a change has its events, and an event its change"
            assert stored != "COMPLETED" or items[tags.UnifiedProcedureStepPerformedProcedureSequence]


def test_no_answered_claim_or_completion_is_lost_by_kill_9_of_two_performers(tmp_path: Path) -> None:
    answered: dict[str, str] = {}
    for number in range(2):
        answered.update(_answered(tmp_path, 10 * (number + 1)))
        _check(tmp_path, answered)
        shutil.rmtree(tmp_path / "hospital" / "index")
        _check(tmp_path, answered)
    assert "COMPLETED" in answered.values()
