"""archive.lifecycle.retention: which studies a rule names, as a whole or not at all, and that a hold is stronger."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.lifecycle import retention, retention_clock
from engine.archive.lifecycle.retention import DAY_NS, DueStudy
from engine.config import Retention
from engine.errors import RetentionRefused
from engine.index.format.types import Outcome
from tests.actors import actor
from tests.archive.filled import all_instances, findings, opened, payload_of, store, uid

NOW_NS = time.time_ns()


def day(days_ago: int) -> str:
    """A Study Date."""
    return (datetime.now() - timedelta(days=days_ago)).strftime("%Y%m%d")


def due(archive: Archive, *rules: Retention, in_days: float = 0) -> list[DueStudy]:
    return list(retention.due(archive, rules, NOW_NS + round(in_days * DAY_NS)))


def named(archive: Archive, rule: Retention, in_days: float = 0) -> set[str]:
    return {found.study_instance_uid for found in due(archive, rule, in_days=in_days)}


def rule(name: str = "rule", older_than_days: float = 100, **more: object) -> Retention:
    return Retention(name=name, older_than_days=older_than_days, **more)  # type: ignore[arg-type]


def test_age_counts_from_the_day_the_last_instance_was_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1), payload_of(2, 1, 1))
        later_ns = time.time_ns() + 30 * DAY_NS
        monkeypatch.setattr(time, "time_ns", lambda: later_ns)
        store(archive, payload_of(1, 1, 2))
        monkeypatch.undo()
        assert named(archive, rule(), in_days=99) == set()
        assert named(archive, rule(), in_days=101) == {uid(2)}
        assert named(archive, rule(), in_days=129) == {uid(2)}
        assert named(archive, rule(), in_days=131) == {uid(1), uid(2)}


def test_age_counts_from_the_study_date_where_the_rule_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        dates = {1: day(200), 2: day(99), 3: "", 4: day(-10), 5: day(101)}
        store(archive, *(payload_of(study, 1, 1, study_date=date) for study, date in dates.items()))
        by_date = rule(age_by="study-date")
        assert named(archive, by_date) == {uid(1), uid(5)}
        assert named(archive, by_date, in_days=10) == {uid(1), uid(2), uid(5)}
        assert named(archive, rule(older_than_days=1000, age_by="study-date")) == set()


@pytest.mark.parametrize(
    ("more", "studies"),
    [
        ({}, {1, 2, 3, 4}),
        ({"modalities": ("CT",)}, {1}),
        ({"modalities": ("CT", "MR")}, {1, 2, 3}),
        ({"aets": ("CT1",)}, {1}),
        ({"aets": ("CT1", "MR1")}, {1, 2, 3}),
        ({"aets": ("CT1", "MR1"), "modalities": ("MR",)}, {2}),
        ({"aets": ("NOBODY",)}, set()),
    ],
)
def test_a_study_goes_only_when_all_of_it_meets_the_conditions(
    tmp_path: Path, more: dict[str, object], studies: set[int]
) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1), payload_of(1, 2, 1), payload_of(3, 1, 1), aet="CT1")
        store(archive, payload_of(2, 1, 1, modality="MR"), payload_of(3, 2, 1, modality="MR"), aet="MR1")
        store(archive, payload_of(4, 1, 1, modality="DX"), aet="DX1")
        assert named(archive, rule(**more), in_days=101) == {uid(study) for study in studies}


def test_a_version_that_came_later_keeps_its_study(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1), aet="CT1")
        assert named(archive, rule(aets=("CT1",)), in_days=101) == {uid(1)}
        assert store(archive, payload_of(1, 1, 1, pixels=bytes(64)), aet="MR1") == [Outcome.KEPT_ASIDE]
        assert named(archive, rule(aets=("CT1",)), in_days=101) == set()


def test_a_dry_run_counts_for_each_rule_and_each_study_once(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        payloads = [payload_of(1, 1, 1), payload_of(1, 1, 2), payload_of(2, 1, 1, modality="MR")]
        store(archive, *payloads)
        archive.set_holds([uid(2)], actor=actor(""), reason="")
        first, second = due(archive, rule("ct", modalities=("CT",)), rule("all"), in_days=101)
        assert (first.rule, first.study_instance_uid, first.instances) == ("ct", uid(1), 2)
        assert first.bytes == len(payloads[0]) + len(payloads[1])
        assert (first.modalities, first.study_date, first.is_held) == (("CT",), "20260102", False)
        assert (second.rule, second.study_instance_uid, second.is_held) == ("all", uid(2), True)
        assert len(all_instances(archive)) == 3


def test_applying_a_rule_deletes_what_it_names_and_nothing_that_is_held(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, *(payload_of(study, 1, number) for study in (1, 2, 3) for number in (1, 2)))
        archive.set_holds([uid(2)], actor=actor("court"), reason="")
        deleted: list[str] = []
        applied = retention.apply(
            archive,
            rule(),
            NOW_NS + 101 * DAY_NS,
            actor=actor(),
            on_study=lambda found: deleted.append(found.study_instance_uid),
            is_confirmed=True,
        )
        assert (applied.studies, applied.instances, applied.held) == (2, 4, 1)
        assert sorted(deleted) == [uid(1), uid(3)]
        assert {one.study_instance_uid for one in all_instances(archive)} == {uid(2)}
        assert retention.apply(archive, rule(), NOW_NS + 101 * DAY_NS, actor=actor(), is_confirmed=True).studies == 0
        assert findings(archive) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert {one.study_instance_uid for one in all_instances(archive)} == {uid(2)}


def test_a_hold_that_is_set_while_a_rule_is_applied_holds(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1), payload_of(2, 1, 1))

        def hold_the_other(found: DueStudy) -> None:
            other = {uid(1): uid(2), uid(2): uid(1)}[found.study_instance_uid]
            archive.set_holds([other], actor=actor("court"), reason="")

        applied = retention.apply(
            archive, rule(), NOW_NS + 101 * DAY_NS, actor=actor(), on_study=hold_the_other, is_confirmed=True
        )
        assert (applied.studies, applied.held) == (1, 1)
        assert len(all_instances(archive)) == 1


def test_who_is_told_to_stop_stops_between_two_studies(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1), payload_of(2, 1, 1))
        seen: list[DueStudy] = []
        retention.apply(
            archive,
            rule(),
            NOW_NS + 101 * DAY_NS,
            actor=actor(),
            is_stopping=lambda: bool(seen),
            on_study=seen.append,
            is_confirmed=True,
        )
        assert len(seen) == len(all_instances(archive)) == 1


# What is not believed ------------------------------------------------------------------------------


def studies(archive: Archive) -> int:
    return archive.stats()["studies"]


def test_a_clock_that_is_years_ahead_deletes_nothing_until_somebody_confirms_it(tmp_path: Path) -> None:
    ten_years, ahead_ns = rule(older_than_days=3650), NOW_NS + round(11 * 365 * DAY_NS)
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
        with pytest.raises(RetentionRefused, match="gap_days_max"):
            retention.apply(archive, ten_years, ahead_ns, actor=actor())
        assert studies(archive) == 1
        # What the wrong clock stamps makes it no more right.
        assert retention.apply(archive, ten_years, time.time_ns(), actor=actor()).studies == 0
        store(archive, payload_of(2, 1, 1))
        with pytest.raises(RetentionRefused, match="set forward"):
            retention.apply(archive, ten_years, ahead_ns, actor=actor())
        assert studies(archive) == 2
        assert retention.apply(archive, ten_years, ahead_ns, actor=actor(), is_confirmed=True).studies == 2


def test_a_clock_that_is_set_forward_while_the_machine_runs_is_found_out_within_the_gap(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
        retention.apply(archive, rule(older_than_days=7), time.time_ns(), actor=actor())
        with pytest.raises(RetentionRefused, match="set forward by 8 days"):
            retention.apply(archive, rule(older_than_days=7), time.time_ns() + 8 * DAY_NS, actor=actor())


def test_after_a_restart_of_the_machine_the_gap_counts_from_the_last_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = iter(["one", "two", "two", "three"])
    monkeypatch.setattr(retention_clock, "boot_id", lambda: next(boots))
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
        weekly = rule(older_than_days=7)
        assert retention.apply(archive, weekly, time.time_ns(), actor=actor()).studies == 0
        # In another boot, a month's journey is one; and nothing that happened meanwhile says otherwise.
        later_ns = time.time_ns() + 29 * DAY_NS
        assert retention.apply(archive, weekly, later_ns, actor=actor()).studies == 1
        with pytest.raises(RetentionRefused, match="31 days ago"):
            retention.apply(archive, weekly, later_ns + 31 * DAY_NS, actor=actor())


def test_a_clock_that_is_behind_is_believed_and_what_was_known_stays_known(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
        now_ns = time.time_ns()
        retention.apply(archive, rule(older_than_days=7), now_ns, actor=actor())
        before = (tmp_path / "retention.json").read_bytes()
        assert retention.apply(archive, rule(older_than_days=7), now_ns - 3650 * DAY_NS, actor=actor()).studies == 0
        assert (tmp_path / "retention.json").read_bytes() == before
        # NTP brings it back.
        assert retention.apply(archive, rule(older_than_days=7), now_ns + DAY_NS // 100, actor=actor()).studies == 0
        (tmp_path / "retention.json").write_bytes(b"{half of")
        assert retention.apply(archive, rule(older_than_days=7), now_ns, actor=actor()).studies == 0


def test_a_rule_that_would_delete_a_large_part_is_refused_as_a_whole(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        store(archive, *(payload_of(study, 1, 1) for study in range(1, 31)))
        now_ns = time.time_ns()
        with pytest.raises(RetentionRefused, match="30 of 30 studies"):
            retention.apply(archive, rule(older_than_days=0), now_ns, actor=actor())
        assert studies(archive) == 30
        archive.set_holds([uid(study) for study in range(1, 11)], actor=actor(), reason="")
        # Twenty may always go.
        assert retention.apply(archive, rule(older_than_days=0), now_ns, actor=actor()).studies == 20
        store(archive, *(payload_of(study, 1, 1) for study in range(41, 71)))
        now_ns = time.time_ns()
        assert retention.apply(archive, rule(older_than_days=0, share_max=1.0), now_ns, actor=actor()).studies == 30
