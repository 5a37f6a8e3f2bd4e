"""What a bench makes of its counts: percentiles, trends, warnings, verdicts, and the forms of a report."""

from __future__ import annotations

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from perf import corpus
from perf.bench import clean, junit, page, profiles, result, statuses, toml, trend, verdicts, warnings
from perf.bench.recorder import Histogram, Outcome, Percentiles, Recorder, most_frequent
from perf.bench.result import Interval, Machine, Report, Run, Sample, Step, StreamResult, Synthetic, Verdict
from perf.bench.runner import Pace
from perf.harness import PerfError

MS = 1_000_000


def histogram_of(*values_ms: float) -> Histogram:
    made = Histogram()
    for value in values_ms:
        made.add(int(value * MS))
    return made


# percentiles -------------------------------------------------------------------------------------


def test_percentiles_are_right_to_one_per_cent_and_the_maximum_is_exact() -> None:
    rng = random.Random(3)
    values = sorted(rng.lognormvariate(1.0, 1.0) for _ in range(5000))
    found = histogram_of(*values).percentiles()
    assert found.p50_ms == pytest.approx(values[2499], rel=0.011)
    assert found.p99_ms == pytest.approx(values[4949], rel=0.011)
    assert found.max_ms == pytest.approx(values[-1], abs=0.001)


def test_nothing_has_no_percentiles() -> None:
    assert Histogram().percentiles() == Percentiles()


def test_a_curve_ends_where_no_request_is_left_to_be_slower() -> None:
    assert [share for share, _ in histogram_of(*range(1, 21)).curve()] == [0.0, 25.0, 50.0, 75.0, 90.0, 95.0]


def test_failures_count_in_latencies_and_not_as_successes() -> None:
    recorder = Recorder()
    recorder.note(Outcome(), 2 * MS)
    recorder.note(Outcome("no"), 4 * MS)
    counts = recorder.take()
    assert (counts.succeeded, counts.latencies.count, dict(counts.failures)) == (1, 2, {"no": 1})
    assert recorder.take().latencies.count == 0 and recorder.failures_in_a_row == 1


def test_many_reasons_become_few() -> None:
    shown = most_frequent({f"reason {number}": number for number in range(1, 31)}, 5)
    assert len(shown) == 6 and sum(shown.values()) == sum(range(1, 31))


# trends ------------------------------------------------------------------------------------------


def trend_of(values: list[float]) -> trend.Trend:
    found = trend.of([10.0 * place for place in range(len(values))], values, share_min=0.1, growth_min=5.0)
    assert found is not None
    return found


def test_a_leak_grows() -> None:
    rng = random.Random(5)
    found = trend_of([100 + place * 0.5 + rng.gauss(0, 2) for place in range(100)])
    assert found.grows and found.per_hour == pytest.approx(180, rel=0.1)


def test_a_cache_that_fills_and_a_machine_that_swings_do_not() -> None:
    rng = random.Random(5)
    assert not trend_of([200 - 100 * 0.8**place for place in range(100)]).grows
    assert not trend_of([100 + rng.gauss(0, 20) for _ in range(100)]).grows


def test_few_values_say_nothing() -> None:
    assert trend.of([1.0] * 12, [1.0] * 12, share_min=0.1, growth_min=1) is None


def test_long_runs_are_thinned_evenly() -> None:
    places = trend.thinned(5000)
    assert len(places) <= 400 and places[0] == 0 and places[-1] >= 4980


# warnings ----------------------------------------------------------------------------------------


def test_a_heap_at_40_ms_is_a_delayed_acknowledgement() -> None:
    found = warnings.delayed_acknowledgements("scans", histogram_of(*[41.0] * 60, *[1.0] * 40))
    assert found is not None and "TCP_NODELAY" in found.text


def test_latencies_around_40_ms_are_none() -> None:
    spread = [25.0 + place * 0.5 for place in range(100)]
    assert warnings.delayed_acknowledgements("scans", histogram_of(*spread)) is None


MACHINE = Machine(cores=2, cpu_model="<b>cpu</b>", memory_bytes=4 << 30, kernel="6", python="3", filmroom="0",
                  is_server=True)  # fmt: skip


def sample_of(at_s: float, **values: float) -> Sample:
    return msgspec.structs.replace(
        Sample(at_s=at_s, warm_up=False, server_cores=0.5, server_memory_bytes=100 << 20, server_descriptor_count=50,
               generator_cores=0.3, generator_memory_bytes=50 << 20, generator_lag_p99_ms=0.2, machine_cores=1.0),
        **values,
    )  # fmt: skip


def stream_of(**values: object) -> StreamResult:
    usual = Percentiles(1000, 1.0, 2.0, 3.0, 4.0, 5.0)
    intervals = [
        Interval(at_s=float(at), warm_up=at == 1, rate=20.0, instances_per_s=20.0, latency=usual, late_s=0.0,
                 failure_count=0)
        for at in range(1, 4)
    ]  # fmt: skip
    return msgspec.structs.replace(
        StreamResult(name="scans", text="<i>text</i>", service="C-STORE", unit="instances", connections=2,
                     offered_rate=20.0, rate=20.0, instances_per_s=20.0, megabytes_per_s=10.0, latency=usual,
                     distribution=[(0.0, 1.0), (50.0, 1.0), (99.0, 3.0)], p99_ms_max=10.0, late_s=0.0, unsent_count=0,
                     failures={}, intervals=intervals),
        **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"generator_cores": 0.95}, "generator"),
        ({"generator_lag_p99_ms": 20.0}, "generator"),
        ({}, "shared machine"),
        ({"machine_cores": 2.0}, "busy machine"),
    ],
)
def test_a_doubtful_measurement_says_so(values: dict[str, float], kind: str) -> None:
    found = warnings.of_run([stream_of()], [sample_of(1.0, **values)], 60.0, MACHINE)
    assert kind in [warning.kind for warning in found]


def test_a_short_run_says_so_and_a_long_one_does_not() -> None:
    kinds = [[each.kind for each in warnings.of_run([stream_of()], [sample_of(1.0)], s, MACHINE)] for s in (2.0, 60.0)]
    assert "short" in kinds[0] and "short" not in kinds[1]


# verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"failures": {"C-STORE A700: out of resources": 3}}, "3 × C-STORE A700"),
        ({"unsent_count": 40, "late_s": 2.5}, "2.5 s behind at the end, 40 requests not sent"),
        ({"latency": Percentiles(1000, 900.0, 1000.0, 1500.0, 1600.0, 1700.0)}, "p99 1500 ms, the limit is 10"),
    ],
)
def test_failures_lateness_and_latency_are_each_a_reason(values: dict[str, object], why: str) -> None:
    stream = stream_of(**values)
    assert why in verdicts.why_behind([stream])
    assert "missed" in [verdict.judgement for verdict in verdicts.of_streams([stream], Pace(60.0))]


def test_a_run_in_which_all_is_well_was_kept_up_with() -> None:
    assert verdicts.why_behind([stream_of()]) == ""
    assert {verdict.judgement for verdict in verdicts.of_streams([stream_of()], Pace(60.0))} == {"met"}


def test_a_stream_without_a_request_did_not_pass() -> None:
    assert "missed" in [v.judgement for v in verdicts.of_streams([stream_of(latency=Percentiles())], Pace(60.0))]


def test_a_leak_of_the_server_is_missed() -> None:
    samples = [sample_of(60.0 * place, server_memory_bytes=(100 + 2 * place) << 20) for place in range(30)]
    lines = {verdict.text: verdict.judgement for verdict in verdicts.of_trends([stream_of()], samples)}
    assert lines == {
        "no leak: server's memory": "missed",
        "no leak: server's open files": "met",
        "no leak: generator's memory": "met",
    }
    assert not list(verdicts.of_trends([stream_of()], samples[:8])), "eight minutes are too short to say"


def test_the_knee_is_the_last_step_that_was_kept_up_with() -> None:
    steps = [
        Step(factor=factor, kept_up=not why, why=why, offered_rates={}, rates={}, p99_ms={})
        for factor, why in ((1.0, ""), (2.0, ""), (3.0, "p99"))
    ]
    assert verdicts.of_ramp(steps).measured == "up to factor 2; at 3 not: p99"
    assert verdicts.of_ramp(steps[2:]).judgement == "missed"


# reports -----------------------------------------------------------------------------------------


def report_of(**values: object) -> Report:
    steps = [
        Step(factor=1.0, kept_up=True, why="", offered_rates={"scans": 20.0}, rates={"scans": 20.0},
             p99_ms={"scans": 3.0})
    ]  # fmt: skip
    run = Run(
        profile="ct-scanner", title="CT", text="t", mode="ramp", factor=1.0, seconds=60.0, warm_up_s=1.0,
        interval_s=1.0, seed=7, streams=[stream_of(failures={"<script>alert(1)</script>": 1})],
        samples=[sample_of(1.0), sample_of(2.0)], warnings=[], steps=steps,
        verdicts=[Verdict(text="a", limit="b", measured="c", judgement="missed"),
                  Verdict(text="d", limit="e", measured="f", judgement="not measured")],
    )  # fmt: skip
    synthetic = Synthetic(issuer="I", patient_ids="B*", uid_root="1.2", first_study=1, last_study=2, study_uids=None)
    return Report(started_at="2026-11-29", server="<b>AE</b>@host:1", server_product="P", machine=MACHINE, disk=None,
                  runs=[run], synthetic=synthetic)  # fmt: skip


def test_a_page_shows_text_as_text_and_asks_for_nothing() -> None:
    shown = page.html(report_of(), report_of()).decode()
    assert "<script" not in shown and "&lt;script&gt;" in shown and "<b>AE" not in shown and "<b>cpu" not in shown
    assert not [word for word in ("src=", "href=", "url(", "@import", "http://", "https://") if word in shown]
    assert "default-src 'none'" in shown and "Against the earlier result" in shown


def test_a_result_comes_back_from_its_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(result.encode(report_of()))
    assert result.read(path) == report_of() and not result.read(path).is_passed


def test_json_that_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"soak": []}))
    with pytest.raises(PerfError, match="is no result of filmroom bench"):
        result.read(path)


def test_junit_has_a_case_for_each_verdict() -> None:
    suite = ElementTree.fromstring(junit.xml(report_of()))[0]
    assert suite.attrib["tests"] == "2" and suite.attrib["failures"] == "1" and suite.attrib["skipped"] == "1"
    assert [[child.tag for child in case] for case in suite] == [["failure"], ["skipped"]]


# profiles, words ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", toml.names("profiles"))
def test_shipped_profiles_can_be_read_and_say_what_they_stand_for(name: str) -> None:
    profile = profiles.read(name)
    assert len(profile.text) > 80 and all(stream.text for stream in profile.stream)
    assert all(corpus.template(stream.template) for stream in profile.stream if stream.does == "store")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("title = 'x'", "missing required field"),
        ("title = 'x'\ntext = ''\nstream = []", "needs a \\[\\[stream\\]\\]"),
        (
            "title = 'x'\ntext = ''\n[[stream]]\nname = 'a'\ntext = ''\ndoes = 'find'\nrate = 1.0\nconnections = 1",
            "stock",
        ),
        ("title = 'x'\ntext = ''\n[[stream]]\nname = 'a'\ndoes = 'dance'", "dance"),
        ("[[stream", "mine.toml: "),
    ],
)
def test_a_mistake_in_a_profile_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PerfError, match=why):
        profiles.read(str(path))


def test_an_unknown_profile_names_those_that_exist() -> None:
    with pytest.raises(PerfError, match="there is no 'ct'.*ct-scanner"):
        profiles.read("ct")


def test_a_warning_status_is_stored_and_a_failure_has_words() -> None:
    assert statuses.is_stored(0xB007) and not statuses.is_stored(0xA700) and not statuses.is_stored(0xC000)
    assert "disk is full" in statuses.store_text(0xA700) and "move destination" in statuses.query_text("C-MOVE", 0xA801)


def test_only_uids_below_our_root_are_ours() -> None:
    assert clean.is_ours(corpus.study_uid(1).decode())
    assert not clean.is_ours("1.2.826.0.1.3680043.10.1599.99.1") and not clean.is_ours("1.2.3")
