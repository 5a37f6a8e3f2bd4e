"""Subscriptions and their numbered events in files: numbers without gaps, whatever breaks off."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive import subscription_events
from engine.archive.archive import Archive
from engine.archive.subscriptions import COUNT_MAX, OWN_MAX, Subscription, SubscriptionFiles
from engine.errors import JobsFull
from engine.storage.files import Files


def events_of(path: Path) -> subscription_events.SubscriptionEvents:
    return subscription_events.SubscriptionEvents(str(path), Files())


def test_an_event_keeps_its_number(tmp_path: Path) -> None:
    events = events_of(tmp_path / "events")
    assert events.last() == 0 and events.rows() == []
    events.append("a", [("ImagingStudy", "1"), ("ImagingStudy", "2")], "now")
    again = events.append("a", [("ImagingStudy", "2"), ("ImagingStudy", "3")], "later")
    assert [(row.number, row.id) for row in again] == [(1, "1"), (2, "2"), (3, "3")]
    assert events.append("b", [], "later") == []
    other = events_of(tmp_path / "events")
    assert other.rows() == events.rows() and other.last() == 3
    assert [row.number for row in other.after(1)] == [2, 3]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_that_was_cut_is_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events"
    events_of(path).append("a", [("ImagingStudy", "1")], "now")
    whole = path.stat().st_size
    events_of(path).append("b", [("ImagingStudy", "2")], "now")
    path.write_bytes(path.read_bytes()[: whole + cut])
    events = events_of(path)
    assert events.last() == 1
    events.append("b", [("ImagingStudy", "2")], "now")
    assert [(row.number, row.id) for row in events_of(path).rows()] == [(1, "1"), (2, "2")]


def test_a_damaged_line_takes_no_other_number_along(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for name in "abc":
        events_of(path).append(name, [("ImagingStudy", name)], "now")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"x" * (len(lines[1]) - 1) + b"\n" + lines[2])
    events = events_of(path)
    events.append("d", [("ImagingStudy", "d")], "now")
    assert [row.number for row in events.rows()] == [1, 3, 4]
    assert [row.number for row in events.after(1)] == [3, 4]


def test_the_oldest_events_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_events, "KEPT_MAX", 10)
    events = events_of(tmp_path / "events")
    for number in range(1, 26):
        events.append(str(number), [("ImagingStudy", "1")], "now")
        assert events.last() == number and len(events.rows()) <= 10
    assert events_of(tmp_path / "events").rows() == events.rows()


def one(identifier: str, by: str = "http:ann") -> Subscription:
    return Subscription(id=identifier, by=by, created_s=1.0, topic="t", channel="websocket", since="1.1")


def test_there_are_only_so_many(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "data", create=True) as archive:
        files: SubscriptionFiles = archive.subscription_files()
        assert files.all() == [] and files.state() is None
        for number in range(COUNT_MAX):
            files.add(one(files.new_id(), f"http:{number // OWN_MAX}"))
        with pytest.raises(JobsFull, match="there are"):
            files.add(one(files.new_id(), "http:other"))
        first = files.all()[0]
        files.events(first.id).append("a", [("ImagingStudy", "1")], "now")
        state = files.state()
        files.remove(first.id)
        assert files.load(first.id) is None and files.events(first.id).last() == 0 and files.state() != state
        for _ in range(2):  # one took the place; then its owner has as many as one may have
            try:
                files.add(one(files.new_id(), first.by))
            except JobsFull as error:
                assert "you have" in str(error) or "there are" in str(error)
        for wrong in ("", "..", "a" * 32 + "/x", "g" * 32):
            files.remove(wrong)
            assert files.load(wrong) is None


def test_events_of_a_subscription_that_is_gone_are_swept(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "data", create=True) as archive:
        files = archive.subscription_files()
        kept, gone = one(files.new_id()), one(files.new_id())
        for each in (kept, gone):
            files.add(each)
            files.events(each.id).append("a", [("ImagingStudy", "1")], "now")
        files.remove(gone.id)
        files.events(gone.id).append("b", [("ImagingStudy", "1")], "now")  # its task was not over yet
        files.sweep()
        assert files.events(gone.id).last() == 0 and files.events(kept.id).last() == 1
