"""Does what was asked for: checks the server, stores the stock, sends the loads, and makes the report of it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from perf import corpus, population
from perf.bench import observer, profiles, runner, targets, verdicts, warnings
from perf.bench.endpoints import Endpoints
from perf.bench.observer import Observer
from perf.bench.profiles import Profile, Stream
from perf.bench.result import (
    Machine,
    Mode,
    Report,
    Run,
    Step,
    StreamResult,
    Synthetic,
    TargetFacts,
    Verdict,
    Warning_,
)
from perf.bench.runner import Lane, Measured, Pace
from perf.bench.studies import Studies, first_number_now
from perf.harness import PerfError

RESTART_S_MAX = 600.0
STOCK_CONNECTIONS = 2
MEASURE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What to do."""

    endpoints: Endpoints
    plans: Sequence[tuple[Profile, Pace]]
    """The loads, one after the other."""
    target: targets.Target | None = None
    """The target that the loads belong to, one for each of its runs."""
    ramp: tuple[float, ...] = ()
    """Factors of a ramp, rising; each lasts as long as the pace says."""
    data: Path | None = None
    """The server's data folder, if it is on this machine."""
    server_pid: int = 0
    restart: str = ""
    """The command that restarts the server."""


@dataclass(frozen=True, slots=True)
class Console:
    """Where progress goes."""

    say: Callable[[str], None]
    interval: runner.Shown


def run(request: Request, console: Console) -> Report:
    """Runs a bench. Raises PerfError if it cannot begin: the server cannot be reached, or refuses."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    target = request.target
    product = request.endpoints.check()
    host, port = request.endpoints.host_and_port
    machine = observer.machine(is_server=observer.is_this_machine(host, port))
    pid = request.server_pid or (observer.listening_pid(port) if machine.is_server else 0)
    disk = observer.disk_facts(request.data, MEASURE_BYTES) if request.data else None
    start_s = _restarted(request.restart, request.endpoints) if request.restart else None
    if request.restart and not request.server_pid:
        pid = observer.listening_pid(port) if machine.is_server else 0
    studies = Studies(first_number_now())
    dicom = request.endpoints.dicom
    in_pieces = warnings.answers_in_pieces(dicom) if dicom is not None else None
    trials = [
        _Trial(request, profile, pace, studies, Observer(pid), machine, console, in_pieces)
        for profile, pace in request.plans
    ]
    runs = [trial.run() for trial in trials]
    lines: list[Verdict] = []
    if target is not None:
        for described, result in zip(target.run, runs, strict=True):
            lines += verdicts.of_musts(result, described.must)
        lines += verdicts.of_target(target, machine, disk, start_s)
    return Report(
        started_at=started_at,
        server=request.endpoints.text,
        server_product=product,
        machine=machine,
        disk=disk,
        runs=runs,
        synthetic=_synthetic(studies),
        target=TargetFacts(name=target.name, title=target.title, text=target.text) if target else None,
        verdicts=lines,
    )


def plans_of(target: targets.Target, pace: Pace) -> list[tuple[Profile, Pace]]:
    """The loads of a target, as long as it says unless `pace` has a length. Raises PerfError for a missing profile."""
    return [
        (profiles.read(each.profile), replace(pace, factor=each.factor, seconds=pace.seconds or each.seconds))
        for each in target.run
    ]


def _restarted(command: str, endpoints: Endpoints) -> float:
    """Restarts the server. Returns the seconds until it answers again. Raises PerfError."""
    started = time.perf_counter()
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PerfError(f"{command!r} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    pause = threading.Event()
    while not endpoints.answers():
        if time.perf_counter() - started > RESTART_S_MAX:
            raise PerfError(f"the server does not answer {RESTART_S_MAX:.0f} s after {command!r}")
        pause.wait(0.02)
    return time.perf_counter() - started


def _synthetic(studies: Studies) -> Synthetic:
    is_used = studies.last >= studies.first
    uids = (corpus.study_uid(studies.first).decode(), corpus.study_uid(studies.last).decode()) if is_used else None
    return Synthetic(
        issuer=corpus.ISSUER.decode(),
        patient_ids=population.PATIENT_ID_PREFIX.decode() + "*",
        uid_root=corpus.UID_ROOT.decode(),
        first_study=studies.first,
        last_study=studies.last,
        study_uids=uids,
    )


class _Trial:
    """One profile against the server."""

    def __init__(
        self,
        request: Request,
        profile: Profile,
        pace: Pace,
        studies: Studies,
        watch: Observer,
        machine: Machine,
        console: Console,
        in_pieces: Warning_ | None,
    ) -> None:
        self._request, self._profile, self._pace = request, profile, pace
        self._studies, self._watch, self._machine, self._console = studies, watch, machine, console
        self._in_pieces = in_pieces
        self._left_out: dict[str, str] = {}

    def run(self) -> Run:
        self._console.say(f"{self._profile.title}: {self._request.endpoints.text}")
        self._store_stock()
        self._try_each()
        if self._request.ramp:
            return self._ramp()
        measured = self._send(self._pace)
        return self._result(measured, self._pace, "closed loop" if self._pace.closed_loop else "open loop", [])

    def _store_stock(self) -> None:
        """Stores the studies that the other streams ask for. Raises PerfError."""
        stock, endpoints = self._profile.stock, self._request.endpoints
        if stock is None:
            return
        self._console.say(f"storing {stock.studies} studies of {stock.instances} instances ({stock.template}) first")
        stream = Stream(
            name="stock", text="", does="store", rate=1.0, connections=STOCK_CONNECTIONS, template=stock.template,
            series_instances=stock.instances,
        )  # fmt: skip
        lane = endpoints.lane(stream, self._studies, [stock.template], 1.0, 0)
        assert isinstance(lane, Lane), "whatever the endpoints are, they can store"
        _store_all(lane, stock.studies, stock.instances)

    def _lanes(self, pace: Pace) -> list[Lane]:
        templates = {stream.template for stream in self._profile.stream if stream.does == "store"}
        if self._profile.stock is not None:
            templates.add(self._profile.stock.template)
        lanes = []
        for stream in self._profile.stream:
            found = self._request.endpoints.lane(stream, self._studies, sorted(templates), pace.factor, pace.seed)
            if isinstance(found, Lane):
                lanes.append(found)
            else:
                self._left_out[stream.name] = found
        if not lanes:
            raise PerfError(f"no stream of {self._profile.name} can run: {'; '.join(self._left_out.values())}")
        return lanes

    def _try_each(self) -> None:
        """Sends one request of each stream that reads: what is set up wrongly is said before the clock starts."""
        for lane in self._lanes(self._pace):
            if lane.stream.does == "store":
                continue
            sink = self._request.endpoints.sink if lane.service == "C-MOVE" else None
            before = sink.counts.instance_count if sink else 0
            operation = lane.open()
            try:
                outcome = operation.request()
            finally:
                operation.close()
            if outcome.failure:
                where = f" (the sink is {sink.aet} at port {sink.port})" if sink else ""
                raise PerfError(f"{lane.stream.name}: {outcome.failure}{where}")
            if sink and sink.counts.instance_count - before < outcome.instance_count:
                raise PerfError(f"{lane.stream.name}: the server sent a study, but not to this sink (port {sink.port})")

    def _send(self, pace: Pace) -> Measured:
        return runner.send(self._lanes(pace), pace, self._watch, self._console.interval)

    def _ramp(self) -> Run:
        """Raises the load step by step until the server falls behind."""
        steps: list[Step] = []
        best: tuple[Measured, Pace] | None = None
        for factor in self._request.ramp:
            pace = replace(self._pace, factor=factor)
            self._console.say(f"factor {factor:g}")
            measured = self._send(pace)
            why = measured.stopped or verdicts.why_behind(measured.streams)
            steps.append(_step(factor, why, measured.streams))
            if best is None or not why:
                best = measured, pace
            if why:
                self._console.say(f"fell behind at factor {factor:g}: {why}")
                break
        assert best is not None
        return self._result(*best, "ramp", steps)

    def _result(self, measured: Measured, pace: Pace, mode: Mode, steps: list[Step]) -> Run:
        streams, samples = measured.streams, measured.samples
        found = [self._in_pieces] if self._in_pieces else measured.warnings
        found = [*found, *warnings.of_run(streams, samples, measured.seconds, self._machine)]
        lines = list(verdicts.of_streams(streams, pace)) if not steps else [verdicts.of_ramp(steps)]
        return Run(
            profile=self._profile.name,
            title=self._profile.title,
            text=self._profile.text,
            mode=mode,
            factor=pace.factor,
            seconds=round(measured.seconds, 2),
            warm_up_s=pace.warm_up_s,
            interval_s=pace.interval_s,
            seed=pace.seed,
            streams=streams,
            samples=samples,
            warnings=found,
            verdicts=[*lines, *verdicts.of_trends(streams, samples)],
            left_out=self._left_out,
            steps=steps,
            stopped=measured.stopped,
        )


def _step(factor: float, why: str, streams: Sequence[StreamResult]) -> Step:
    return Step(
        factor=factor,
        kept_up=not why,
        why=why,
        offered_rates={stream.name: stream.offered_rate for stream in streams},
        rates={stream.name: stream.rate for stream in streams},
        p99_ms={stream.name: stream.latency.p99_ms for stream in streams},
    )


def _store_all(lane: Lane, study_count: int, instance_count: int) -> None:
    """Stores whole studies on a few connections. Raises PerfError with the first failure."""
    errors: list[str] = []

    def work(share: int) -> None:
        try:
            operation = lane.open()
            try:
                for _ in range(share * instance_count):
                    if errors:
                        return
                    if failure := operation.request().failure:
                        errors.append(failure)
            finally:
                operation.close()
        except (PerfError, OSError) as error:
            errors.append(str(error))

    count = min(lane.stream.connections, study_count)
    shares = [study_count // count + (place < study_count % count) for place in range(count)]
    threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise PerfError(f"storing the studies to ask for failed: {errors[0]}")
