"""The registry under kill -9: what was answered is there, whole, also without the database."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from engine.orders import ordering
from engine.orders.registry import Orders, Place
from engine.orders.values import Identifier
from engine.storage.files import Files

WRITER = """
import sys
from pathlib import Path
from engine.orders.registry import Orders, Place
from engine.orders.values import *
from engine.storage.files import Files

orders = Orders(Place(Path(sys.argv[1]), bytes(16), Files()))
for number in range(int(sys.argv[2]), 10**9, 2):
    patient = PatientUpdate(identifiers=(Identifier(f"P{number % 7}"),), attributes={"PatientName": str(number)})
    step = StepUpdate(modality="CT", station_aes=("CT1",), start_date="20261201")
    accession = Identifier(f"A{number}")
    procedure = ProcedureUpdate(steps=(step,))
    orders.apply(OrderUpdate(action=OrderAction.NEW, patient=patient, accession=accession, procedures=(procedure,)),
                 Source(name="writer"))
    sys.stdout.write(f"A{number}\\n")
    sys.stdout.flush()
"""


def _answered(data: Path, first: int) -> list[str]:
    """The orders that two processes were told of as applied, before both were killed."""
    arguments = [sys.executable, "-c", WRITER, str(data)]
    processes = [
        subprocess.Popen([*arguments, str(number)], stdout=subprocess.PIPE, text=True) for number in (first, first + 1)
    ]
    answered: list[str] = []
    for process in processes:
        assert process.stdout is not None
        answered += [process.stdout.readline().strip() for _ in range(10)]
    for process in processes:
        process.kill()
    for process in processes:
        rest, _ = process.communicate()
        answered += [line for line in rest.split("\n")[:-1] if line]
    return answered


def _missing(data: Path, answered: list[str]) -> list[str]:
    with Orders(Place(data, bytes(16), Files())) as orders, orders.read() as reading:
        missing = []
        for accession in answered:
            found = ordering.find(reading, accession=Identifier(accession))
            if found is None or len(ordering.steps_of(reading, found[0])) != 1:
                missing.append(accession)
        return missing


def test_nothing_that_was_answered_is_lost_by_kill_9_of_two_writers(tmp_path: Path) -> None:
    answered: list[str] = []
    for number in range(2):
        answered += _answered(tmp_path, 1_000_000 * (number + 1))
        assert len(set(answered)) == len(answered)
        assert _missing(tmp_path, answered) == []
        shutil.rmtree(tmp_path / "hospital" / "index")
        assert _missing(tmp_path, answered) == [], "a database made anew from the log"
