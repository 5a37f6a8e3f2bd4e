"""Fills an archive with a realistic population of tiny instances, through the real write path.

    python -m perf.fill --port 11112 --studies 100000            1 million instances by C-STORE
    python -m perf.fill --peer filmroom --studies 1000 --associations 4
    python -m perf.fill --direct DATA --studies 100000 --shape long        10 million instances, without a network

Studies are those of `perf.population`, so `perf.load_find` knows the values to query. Associations take studies in
turn, and each has one context for every modality.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, harness, peers, population, wire
from perf.association import Association, Target
from perf.harness import PerfError, say
from perf.population import StudyFacts

EXPLICIT_LE = "1.2.840.10008.1.2.1"

DIRECT_BATCH = 1000
"""Instances a commit when filling directly."""


@dataclass(frozen=True, slots=True)
class FillResult:
    study_count: int
    instance_count: int
    failed_count: int
    elapsed_s: float
    instances_per_s: float


class _Progress:
    """Studies to do and counts done, shared by the threads."""

    def __init__(self, facts: Iterable[StudyFacts]) -> None:
        self._facts = iter(facts)
        self._lock = threading.Lock()
        self.instance_count = 0
        self.failed_count = 0
        self.error = ""

    def __iter__(self) -> Iterator[StudyFacts]:
        while True:
            with self._lock:
                facts = next(self._facts, None)
            if facts is None or self.error:
                return
            yield facts

    def done(self, instance_count: int, failed_count: int) -> None:
        with self._lock:
            self.instance_count += instance_count
            self.failed_count += failed_count


def run(
    target: Target,
    *,
    first_study: int = 1,
    study_count: int = 1000,
    association_count: int = 4,
    shape: str = "short",
    long_series_count: int = 0,
) -> FillResult:
    """Stores by C-STORE; the studies may be stored already (the server then answers success without storing twice)."""
    progress = _Progress(_studies(first_study, study_count, shape, long_series_count))
    threads = [threading.Thread(target=_fill, args=(target, progress), daemon=True) for _ in range(association_count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    told = 0
    while any(thread.is_alive() for thread in threads):
        threads[0].join(timeout=0.5) if threads[0].is_alive() else threads[-1].join(timeout=0.5)
        if progress.instance_count - told >= 100_000:
            told = progress.instance_count
            say(f"  {told} instances, {told / (time.perf_counter() - started):.0f}/s")
    elapsed_s = time.perf_counter() - started
    if progress.error:
        raise PerfError(progress.error)
    return FillResult(
        study_count=study_count,
        instance_count=progress.instance_count,
        failed_count=progress.failed_count,
        elapsed_s=round(elapsed_s, 3),
        instances_per_s=round(progress.instance_count / elapsed_s, 1),
    )


def _fill(target: Target, progress: _Progress) -> None:
    try:
        association = Association(target, contexts())
        messages = {
            modality: wire.StoreMessage(
                corpus.template(f"tiny-{modality.lower()}"), context_id_of(modality), association.pdu_length_max
            )
            for modality in population.MODALITIES
        }
        for facts in progress:
            message, failed = messages[facts.modality], 0
            message.set_study(facts)
            for series_index, instance_count in enumerate(facts.series_instance_counts, start=1):
                message.set_series(corpus.series_uid(facts.number, series_index), series_index)
                for instance in range(1, instance_count + 1):
                    message.set_instance(instance, instance)
                    association.sock.sendall(message.buffer)
                    failed += association.read_status() != 0
            progress.done(facts.instance_count, failed)
        association.release()
    except (OSError, PerfError) as error:
        progress.error = str(error)


def context_id_of(modality: str) -> int:
    return 1 + 2 * population.MODALITIES.index(modality)


def contexts() -> list[wire.Context]:
    return [
        wire.Context(context_id_of(modality), corpus.SOP_CLASS_OF_MODALITY[modality], (corpus.EXPLICIT_LITTLE_ENDIAN,))
        for modality in population.MODALITIES
    ]


def _studies(first_study: int, study_count: int, shape: str, long_series_count: int) -> Iterator[StudyFacts]:
    """The studies of the population, then one of a single long series if requested."""
    yield from population.studies(first_study, study_count, shape)
    if long_series_count:
        yield population.long_study(long_series_count)


def instances(studies: Iterable[StudyFacts]) -> Iterator[tuple[bytes, bytes, bytes, str]]:
    """(SOP Class UID, SOP Instance UID, data set, sender) of the same population, for a writer without a network."""
    messages = {
        modality: wire.StoreMessage(corpus.template(f"tiny-{modality.lower()}"), 1, 0)
        for modality in population.MODALITIES
    }
    for facts in studies:
        message = messages[facts.modality]
        message.set_study(facts)
        for series_index, instance_count in enumerate(facts.series_instance_counts, start=1):
            message.set_series(corpus.series_uid(facts.number, series_index), series_index)
            for instance in range(1, instance_count + 1):
                message.set_instance(instance, instance)
                uid = corpus.instance_uid(facts.number, series_index, instance)
                yield corpus.SOP_CLASS_OF_MODALITY[facts.modality], uid, message.data_set(), facts.sender


def fill_directly(
    data: Path, *, first_study: int, study_count: int, shape: str = "short", long_series_count: int = 0
) -> FillResult:
    """Stores by the archive's own ingest in this process, without a network: some five times as fast as C-STORE."""
    from engine.archive.archive import Archive
    from engine.archive.ingest.request import ReceivedInstance
    from engine.errors import EngineError
    from engine.storage.record import crc32c

    began = time.perf_counter()
    instance_count = failed_count = 0
    with Archive.open(data, role="auto", create=True) as archive:
        batch: list[ReceivedInstance] = []

        def store() -> int:
            answers = archive.ingest_batch(batch)
            batch.clear()
            return sum(isinstance(answer, EngineError) for answer in answers)

        for sop_class_uid, sop_instance_uid, data_set, sender in instances(
            _studies(first_study, study_count, shape, long_series_count)
        ):
            batch.append(
                ReceivedInstance(
                    [data_set],
                    len(data_set),
                    crc32c(data_set),
                    EXPLICIT_LE,
                    sender,
                    sop_class_uid.decode(),
                    sop_instance_uid.decode(),
                )
            )
            instance_count += 1
            if len(batch) == DIRECT_BATCH:
                failed_count += store()
        failed_count += store()
    elapsed_s = time.perf_counter() - began
    return FillResult(study_count, instance_count, failed_count, elapsed_s, instance_count / elapsed_s)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--studies", type=int, default=1000, help="number of studies")
    parser.add_argument("--shape", choices=population.SHAPES, default="short", help="10, 100 or 1 instance a study")
    parser.add_argument("--first-study", type=int, default=1)
    parser.add_argument(
        "--long-series", type=int, default=0, metavar="N", help="one more study, a series of N instances"
    )
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--direct", type=Path, metavar="DATA", help="write into this data folder, without a server")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.studies, options.associations = 20, 2
    if options.direct:
        result = fill_directly(
            options.direct,
            first_study=options.first_study,
            study_count=options.studies,
            shape=options.shape,
            long_series_count=options.long_series,
        )
        return _report(options, result)

    def measure(target: Target, server_pid: int) -> int:
        del server_pid
        return _report(
            options,
            run(
                target,
                first_study=options.first_study,
                study_count=options.studies,
                association_count=options.associations,
                shape=options.shape,
                long_series_count=options.long_series,
            ),
        )

    return peers.with_target(options, measure)


def _report(options: argparse.Namespace, result: FillResult) -> int:
    say(
        f"{result.instance_count} instances of {result.study_count} studies in {result.elapsed_s:.1f} s: "
        f"{result.instances_per_s:.0f}/s, {result.failed_count} failed"
    )
    if options.json:
        harness.write_json(options.json, {"fill": asdict(result), "smoke": options.smoke})
    return 1 if result.failed_count else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
