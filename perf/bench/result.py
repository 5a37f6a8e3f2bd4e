"""The result of a bench as plain data; its JSON is the stable interface (`filmroom bench schema` prints the schema)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from perf.bench.recorder import Percentiles
from perf.harness import PerfError

FORMAT: Literal["filmroom-bench-1"] = "filmroom-bench-1"

Mode = Literal["open loop", "closed loop", "ramp"]
Judgement = Literal["met", "missed", "not measured"]


class Interval(Struct, frozen=True, kw_only=True):
    """One stream in one interval."""

    at_s: float
    """Time from the start to its end."""
    warm_up: bool
    rate: float
    """Answered requests a second."""
    instances_per_s: float
    latency: Percentiles
    late_s: float
    """The longest delay of a request after its due time."""
    failure_count: int


class StreamResult(Struct, frozen=True, kw_only=True):
    """One stream without its warm-up. Latencies count from due times; unsent requests count with their age."""

    name: str
    text: str
    service: str
    """C-STORE, QIDO-RS and so on."""
    unit: str
    connections: int
    offered_rate: float
    """Due requests a second; 0 in a closed loop."""
    rate: float
    """Successfully answered requests a second."""
    instances_per_s: float
    megabytes_per_s: float
    latency: Percentiles
    distribution: list[tuple[float, float]]
    """(percentage of requests, highest latency in ms)."""
    p99_ms_max: float | None
    """The profile's limit."""
    late_s: float
    """How far the server was behind at the end: the longest wait for its turn, also of requests that were not sent."""
    unsent_count: int
    """Due requests that were not sent before the end."""
    failures: dict[str, int]
    """Reason → number."""
    intervals: list[Interval]


class Sample(Struct, frozen=True, kw_only=True):
    """Server, generator and machine in one interval. 0: not visible from here."""

    at_s: float
    warm_up: bool
    server_cores: float
    """Processor time a second."""
    server_memory_bytes: int
    server_descriptor_count: int
    generator_cores: float
    generator_memory_bytes: int
    generator_lag_p99_ms: float
    """Delays of requests that the generator is to blame for."""
    machine_cores: float
    """Busy processors of the generator's machine, everything included."""


class Step(Struct, frozen=True, kw_only=True):
    """One step of a ramp."""

    factor: float
    kept_up: bool
    why: str
    """Why it did not keep up."""
    offered_rates: dict[str, float]
    """By the name of the stream."""
    rates: dict[str, float]
    p99_ms: dict[str, float]


class Warning_(Struct, frozen=True):
    """A reason to doubt a figure."""

    kind: str
    text: str


class Verdict(Struct, frozen=True, kw_only=True):
    """One line of pass or fail."""

    text: str
    limit: str
    measured: str
    judgement: Judgement


class Run(Struct, frozen=True, kw_only=True):
    """One profile against one server."""

    profile: str
    title: str
    text: str
    mode: Mode
    factor: float
    """Rates as multiples of the profile's."""
    seconds: float
    """Measured time, without the warm-up."""
    warm_up_s: float
    interval_s: float
    seed: int
    streams: list[StreamResult]
    """Of a ramp: the last step that kept up."""
    samples: list[Sample]
    warnings: list[Warning_]
    verdicts: list[Verdict]
    left_out: dict[str, str] = {}
    """Name of a stream → why it did not run."""
    steps: list[Step] = []
    stopped: str = ""
    """Why the run ended early."""

    def stream(self, name: str) -> StreamResult | None:
        return next((stream for stream in self.streams if stream.name == name), None)


class Machine(Struct, frozen=True, kw_only=True):
    """The generator's machine."""

    cores: int
    cpu_model: str
    memory_bytes: int
    kernel: str
    python: str
    filmroom: str
    is_server: bool
    """Whether the server runs on it too."""


class Disk(Struct, frozen=True, kw_only=True):
    """The disk of the folder named with --disk, measured before the load."""

    folder: str
    device: str
    file_system: str
    free_bytes: int
    sync_p50_ms: float
    """fdatasync of 4 KiB."""
    sync_p99_ms: float
    write_mb_per_s: float
    """Appended with one fdatasync every eight instances of half a megabyte."""
    read_mb_per_s: float
    """Past the page cache; 0: not measured."""


class Synthetic(Struct, frozen=True, kw_only=True):
    """How to find what the bench has stored."""

    issuer: str
    patient_ids: str
    uid_root: str
    first_study: int
    last_study: int
    study_uids: tuple[str, str] | None
    """The first and the last Study Instance UID; none were stored: null."""


class TargetFacts(Struct, frozen=True, kw_only=True):
    """The hardware target that was judged."""

    name: str
    title: str
    text: str


class Report(Struct, frozen=True, kw_only=True):
    """One bench: one run, or the runs of a hardware target."""

    started_at: str
    server: str
    """Its addresses, as given."""
    server_product: str
    machine: Machine
    disk: Disk | None
    runs: list[Run]
    synthetic: Synthetic
    target: TargetFacts | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    """Of the target; those of a run are in the run."""
    format: Literal["filmroom-bench-1"] = FORMAT

    @property
    def all_verdicts(self) -> list[Verdict]:
        return [verdict for run in self.runs for verdict in run.verdicts] + self.verdicts

    @property
    def is_passed(self) -> bool:
        return not any(verdict.judgement == "missed" for verdict in self.all_verdicts)


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


def read(path: Path) -> Report:
    """Reads the JSON of an earlier bench. Raises PerfError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise PerfError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise PerfError(f"{path} is no result of filmroom bench: {error}") from None


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return msgspec.json.schema(Report)
