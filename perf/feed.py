"""The change feed: events a second for a subscriber that catches up and for its writer, and the delay of an event.

    python -m perf.feed --events 300000

No server runs: the archive and the feed's writer are in this process. `read` is a subscriber in Python (events as
objects), `lines` one that passes the JSON on, as HTTP does. `write` is the writer's rate on an existing log.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from engine.archive.archive import Archive
from engine.archive.feed.event import Event, encode, time_text
from engine.archive.feed.journal import JournalWriter
from engine.archive.feed.writer import FeedOptions
from engine.archive.ingest.request import ReceivedInstance
from engine.storage.record import crc32c
from perf import fill as population_fill
from perf import harness, population
from perf.harness import say

BLOCK_EVENTS = 2000
STORED = 4000
"""Small instances in the log for the writer."""
UID = "1.2.826.0.1.3680043.10.1599.7"


def main(arguments: list[str] | None = None) -> int:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000, help="events to catch up with")
    parser.add_argument("--smoke", action="store_true", help="tiny parameters: shows in a second or two that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    options = parser.parse_args(arguments)
    count = 4000 if options.smoke else options.events
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder) / "archive", count)
    say(
        f"catching up: {result['read_events_per_s']:.0f} events/s as objects,"
        f" {result['lines_events_per_s']:.0f} as lines;"
        f" written from the log: {result['written_events_per_s']:.0f}/s;"
        f" delay {result['told_ms_p50']:.1f} ms; {result['memory_mb']:.0f} MB"
    )
    if options.json:
        harness.write_json(options.json, {"feed": result, "smoke": options.smoke})
    return 0


def measure(data: Path, count: int) -> dict[str, float]:
    """All figures of one archive."""
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.feed_writer(FeedOptions()).close()
        fill(archive, count)
        writer = archive.feed_writer(FeedOptions())
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lines_s = caught_up(archive, count, as_objects=False)
        read_s = caught_up(archive, count, as_objects=True)
        memory_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
        stored = min(count, STORED)
        instances = received()
        archive.ingest_batch(list(islice(instances, stored)))
        began = time.perf_counter()
        writer.follow()
        write_s = time.perf_counter() - began
        writer.start()
        delays = [delay_s(archive, next(instances)) for _ in range(20)]
        writer.close()
    return {
        "events": float(count),
        "read_events_per_s": count / read_s,
        "lines_events_per_s": count / lines_s,
        "written_events_per_s": stored / write_s,
        "told_ms_p50": statistics.median(delays) * 1000,
        "memory_mb": memory_mb,
    }


def fill(archive: Archive, count: int) -> None:
    """Writes a journal as a writer would for this many instances."""
    epoch = archive.feed().newest().epoch
    journal = JournalWriter(str(archive.parts.layout.data / "feed"), archive.parts.files, epoch)
    list(journal.recover(0))
    now_ns = time.time_ns()
    for first in range(1, count + 1, BLOCK_EVENTS):
        journal.append([encode(_event(number, now_ns)) for number in range(first, first + BLOCK_EVENTS)], {})
    journal.sync()
    journal.close()


def _event(number: int, now_ns: int) -> Event:
    study = f"{UID}.{number // 1000}"
    return Event(
        sequence=number,
        action="stored",
        time=time_text(now_ns),
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="MODALITY",
        version=str(now_ns + number),
        bytes=526_336,
    )


def caught_up(archive: Archive, count: int, *, as_objects: bool) -> float:
    """Seconds in which a subscriber reads all events."""
    feed = archive.feed()
    began = time.perf_counter()
    cursor, seen = feed.oldest(), 0
    while seen < count:
        page = feed.read(cursor)
        seen += sum(1 for _ in page.events()) if as_objects else len(page.lines)
        cursor = page.cursor
    return time.perf_counter() - began


def received() -> Iterator[ReceivedInstance]:
    """Small instances as a front end passes them."""
    for sop_class_uid, sop_instance_uid, data_set, _ in population_fill.instances(population.studies(1, 1 << 20)):
        yield ReceivedInstance(
            [data_set],
            len(data_set),
            crc32c(data_set),
            population_fill.EXPLICIT_LE,
            "PERF",
            sop_class_uid.decode(),
            sop_instance_uid.decode(),
        )


def delay_s(archive: Archive, instance: ReceivedInstance) -> float:
    """From an archive's answer to a store until a subscriber is woken."""
    feed = archive.feed()
    cursor = feed.newest()
    archive.ingest_batch([instance])
    began = time.perf_counter()
    feed.wait(cursor, 10)
    waited_s = time.perf_counter() - began
    feed.close()
    return waited_s


if __name__ == "__main__":
    raise SystemExit(main())
