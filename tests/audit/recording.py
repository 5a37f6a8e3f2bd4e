"""What the tests of the audit log share: a folder with a recorder, and a log with known records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from engine import audit
from engine.access.principal import Kind as PrincipalKind
from engine.access.principal import Principal
from engine.audit.chain import HASH_BYTES, chain_files, chain_names
from engine.audit.checkpoint import Notary
from engine.audit.event import Event, Kind, Patient
from engine.audit.reading import forward

WAIT_S = 60.0
CT1 = Principal(PrincipalKind.PEER, "CT1", "10.0.0.7")


def wait_until(holds: Callable[[], object]) -> None:
    """Waits for a condition."""
    event = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if holds():
            return
        event.wait(0.02)
    raise AssertionError("it never held")


def stored(study: str = "1.2.3", count: int = 1, **fields: Any) -> Event:
    """An event as a modality makes it."""
    return Event(
        kind=Kind.RECEIVED,
        principal=CT1,
        action="C-STORE",
        patient=Patient("P1", "", "DOE^JANE"),
        study=study,
        classes={"1.2.840.10008.5.1.4.1.1.2": count},
        count=count,
        **fields,
    )


@contextmanager
def recording(data: Path, **options: Any) -> Iterator[audit.Recorder]:
    """Records in this process, as a server does."""
    recorder = audit.Recorder(data, **options)
    before = audit.use(recorder)
    try:
        yield recorder
    finally:
        audit.use(before)
        recorder.close()


def make_log(data: Path, counts: tuple[int, ...] = (5, 4), *, signed: bool = True) -> None:
    """A log with a chain for each count, signed in its middle and at its end."""
    data.mkdir(exist_ok=True)
    recorders = [audit.Recorder(data) for _ in counts]
    for index, recorder in enumerate(recorders):
        recorder.begin_now(stored(f"1.2.{index}.0"))
    if signed:
        Notary(data).sign()
    for index, (recorder, count) in enumerate(zip(recorders, counts, strict=True)):
        for number in range(1, count):
            recorder.begin_now(stored(f"1.2.{index}.{number}"))
    for recorder in recorders:
        recorder.close()
    if signed:
        Notary(data).sign()


def events(data: Path) -> list[dict[str, Any]]:
    """All events of all chains, by time."""
    found = [orjson.loads(record) for name in chain_names(data) for _, record in forward(data, name, 0)]
    return sorted(found, key=lambda event: event["t"])


def rewrite(data: Path, name: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Changes the lines of a chain's only file."""
    (path,) = chain_files(data, name)
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().split(b"\n")[:-1])))


def record_of(line: bytes) -> bytes:
    """The JSON of a line."""
    return line[HASH_BYTES + 1 :]
