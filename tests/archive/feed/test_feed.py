"""archive.feed: events of every kind, in order, through restarts, rebuilds, compactions and kill -9; cursors; quiet."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.restore import restore
from engine.archive.feed import journal
from engine.archive.feed.cursor import Cursor
from engine.archive.feed.layout import directory_of
from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.state import read_state, write_state
from engine.archive.feed.subscription import Feed, Watch, cursor_of_now
from engine.archive.feed.writer import FeedWriter, switch_off
from engine.archive.lifecycle import correction, trash
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.dicom import tags
from engine.errors import ArchiveInUse, CursorRefused, FeedMissing, StorageFull
from engine.index.upkeep import liveness
from tests import effort
from tests.actors import actor
from tests.archive.feed.followed import OtherWriter, Picture, actions, told, writer_of
from tests.archive.filled import (
    contents,
    instance_query,
    opened,
    payload_of,
    series_query,
    store,
    study_query,
    uid,
)
from tests.cli.commands import run
from tests.faulty_files import FaultyFiles

SEEDS = effort.amount("FEED", 3, 40)
WHO = {"actor": actor(), "reason": "a reason"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def archive(data: Path) -> Iterator[Archive]:
    with opened(data) as found:
        yield found


@pytest.fixture
def writer(archive: Archive) -> Iterator[FeedWriter]:
    found = writer_of(archive)
    yield found
    found.close()


@pytest.fixture
def feed(archive: Archive, writer: FeedWriter) -> Feed:
    return Feed(archive.parts.layout)


def compact(archive: Archive) -> int:
    return Compactor(archive, Compaction(), segment_bytes=1 << 20, everything=True).run().segments_removed


def test_an_instance_is_told_with_what_subscribers_need(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    payload = payload_of(1, 2, 3)
    store(archive, payload, aet="CT1")
    writer.follow()
    (event,) = told(feed)
    assert event.action == "stored"
    assert (event.study_instance_uid, event.series_instance_uid) == (uid(1), uid(1, 2))
    assert (event.sop_instance_uid, event.sop_class_uid) == (uid(1, 2, 3), "1.2.840.10008.5.1.4.1.1.2")
    assert (event.transfer_syntax_uid, event.calling_ae_title) == ("1.2.840.10008.1.2.1", "CT1")
    assert (event.bytes, event.sequence) == (len(payload), 1)
    assert event.time.endswith("Z")


def test_the_same_bytes_again_are_not_told(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    store(archive, payload_of(1, 1, 1), payload_of(1, 1, 1))
    writer.follow()
    store(archive, payload_of(1, 1, 1))
    writer.follow()
    assert actions(told(feed)) == ["stored"]


def test_what_is_kept_aside_is_told_as_that_and_what_replaces_as_stored(
    archive: Archive, writer: FeedWriter, feed: Feed
) -> None:
    store(archive, payload_of(1, 1, 1))
    store(archive, payload_of(1, 1, 1, patient_name="Other^A"))
    store(archive, payload_of(1, 1, 1, patient_name="Other^B"), policy="replace")
    writer.follow()
    assert actions(told(feed)) == ["stored", "kept_aside", "stored"]


def test_deletions_say_what_is_gone_and_at_which_level(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    store(archive, *[payload_of(study, 1, number) for study in (1, 2, 3) for number in (1, 2)])
    archive.delete(study_query(1), **WHO)
    archive.delete(series_query(2, 1), **WHO)
    archive.delete(instance_query(3, 1, 1), **WHO)
    writer.follow()
    of_study, of_series, of_instance = told(feed)[6:]
    assert (of_study.level, of_study.study_instance_uid) == ("study", uid(1))
    assert set(of_study.sop_instance_uids) == {uid(1, 1, 1), uid(1, 1, 2)}
    assert (of_series.level, of_series.series_instance_uid) == ("series", uid(2, 1))
    assert (of_instance.level, of_instance.sop_instance_uids) == ("instance", (uid(3, 1, 1),))
    assert (of_instance.by, of_instance.reason) == ("test", "a reason")


def test_what_goes_into_the_trash_is_deleted_and_comes_back_as_restored(
    archive: Archive, writer: FeedWriter, feed: Feed
) -> None:
    store(archive, payload_of(1, 1, 1), payload_of(1, 1, 2))
    before = {one.sop_instance_uid: one.stamp for one in archive.instances(study_query(1))}
    (number,) = archive.delete(series_query(1, 1), **WHO, into_trash=True).trash
    trash.restore(archive.parts, number, **WHO)
    (number_2,) = archive.delete(study_query(1), **WHO, into_trash=True).trash
    trash.empty(archive.parts, [number_2], **WHO)
    writer.follow()
    gone, back, gone_again = told(feed)[2:]
    assert (gone.action, gone.level, gone.trash, gone.study_instance_uid) == ("deleted", "series", number, uid(1))
    assert (back.action, back.trash, back.by, back.reason) == ("restored", number, "test", "a reason")
    assert set(gone.sop_instance_uids) == set(back.sop_instance_uids) == set(before)
    assert set(back.current_versions) <= {"", *map(str, before.values())}
    assert (gone_again.action, gone_again.trash) == ("deleted", number_2)


def test_corrections_holds_and_an_undo_name_the_study(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    store(archive, payload_of(1, 1, 1))
    made = correction.correct_study(archive, uid(1), {tags.AccessionNumber: "A77"}, **WHO)
    correction.undo(archive, made.number, **WHO)
    archive.set_holds([uid(1)], **WHO)
    archive.release_holds([uid(1)], **WHO)
    writer.follow()
    _, corrected, undone, *holds = told(feed)
    assert (corrected.operation, corrected.level, corrected.study_instance_uid) == ("correct", "study", uid(1))
    assert (undone.operation, undone.study_instance_uid, undone.undoes) == ("undo", uid(1), corrected.version)
    assert [(event.action, event.study_instance_uid) for event in holds] == [("held", uid(1)), ("released", uid(1))]


def test_a_deletion_never_comes_before_what_it_deletes_whichever_segment_is_read_first(
    archive: Archive, writer: FeedWriter, feed: Feed
) -> None:
    # The ledger's segment is made first, and read first.
    archive.set_holds([uid(9)], **WHO)
    store(archive, payload_of(1, 1, 1))
    archive.delete(study_query(1), **WHO)
    store(archive, payload_of(1, 1, 1))
    writer.follow()
    assert actions(told(feed)) == ["held", "stored", "deleted", "stored"]


def test_what_several_writers_store_is_told_in_the_order_of_its_stamps(
    archive: Archive, writer: FeedWriter, feed: Feed
) -> None:
    others = [OtherWriter(archive, f"worker-{number}") for number in range(3)]
    for number in range(30):
        others[number % 3].append(payload_of(1, 1, number))
    for other in others:
        other.show()
    writer.follow()
    events = told(feed)
    assert [event.sop_instance_uid for event in events] == [uid(1, 1, number) for number in range(30)]
    for other in others:
        other.close()


def test_what_is_appended_and_not_visible_is_not_told(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    other = OtherWriter(archive, "worker")
    other.append(payload_of(1, 1, 1))
    writer.follow()
    assert told(feed) == []
    other.close()
    writer.follow()
    assert actions(told(feed)) == ["stored"]


# cursors -------------------------------------------------------------------------------------------


def test_a_named_cursor_survives_and_one_that_is_none_is_refused(archive: Archive, feed: Feed) -> None:
    assert feed.cursors.load("router") is None
    feed.cursors.save("router", feed.newest())
    assert Feed(archive.parts.layout).cursors.load("router") == feed.newest()
    assert feed.cursors.names() == ["router"]
    feed.cursors.remove("router")
    assert feed.cursors.names() == []
    for name in ("../evil", "", ".hidden", "a" * 65):
        with pytest.raises(CursorRefused):
            feed.cursors.save(name, feed.newest())
    for text in ("", "12", "zzzzzzzz-1", "00000000-" + "f" * 17, "5f3a9c01-1b2e\n"):
        with pytest.raises(CursorRefused):
            Cursor.parse(text)


def test_a_cursor_of_another_feed_is_refused_in_words(feed: Feed) -> None:
    with pytest.raises(CursorRefused, match="of another feed"):
        feed.read(Cursor(0x12345678, 0))


def test_without_a_feed_the_error_says_so(archive: Archive) -> None:
    with pytest.raises(FeedMissing, match="no change feed"):
        Feed(archive.parts.layout).newest()


def test_who_starts_before_the_feed_misses_none_of_its_events(archive: Archive) -> None:
    feed, writers = archive.feed(), ExitStack()

    async def look(place: Callable[[], Cursor]) -> Cursor:
        try:
            return place()
        except FeedMissing:  # before the next look there is a feed, and more
            writer = writer_of(archive)
            writers.callback(writer.close)
            store(archive, payload_of(1, 1, 1))
            writer.follow()
            raise

    with writers:
        cursor = asyncio.run(cursor_of_now(feed, look, 0.0))
    assert actions(told(feed, str(cursor))) == ["stored"]
    assert asyncio.run(cursor_of_now(feed, look, 0.0)) == feed.newest() != cursor


def test_an_archive_that_is_full_already_is_told_of_from_now_on(archive: Archive) -> None:
    store(archive, payload_of(1, 1, 1))
    writer = writer_of(archive)
    store(archive, payload_of(1, 1, 2))
    writer.follow()
    found = told(Feed(archive.parts.layout))
    assert [event.action for event in found] == ["study_reopened", "stored"]
    assert found[1].sop_instance_uid == uid(1, 1, 2)
    writer.close()


def test_what_is_kept_no_longer_is_refused_as_too_old(
    archive: Archive, writer: FeedWriter, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FILE_BYTES", 1)
    start = feed.oldest()
    for number in range(3):
        store(archive, payload_of(1, 1, number))
        writer.follow()
    first, *_ = journal.list_files(str(archive.parts.layout.data / "feed"), archive.parts.files)
    old = time.time() - 31 * 86_400
    os.utime(journal.path_of(str(archive.parts.layout.data / "feed"), first), (old, old))
    writer.save()
    with pytest.raises(CursorRefused, match="too old"):
        feed.read(start)
    assert actions(told(Feed(archive.parts.layout))) == ["stored", "stored"]


def test_a_feed_goes_on_over_many_files(
    archive: Archive, writer: FeedWriter, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FILE_BYTES", 1000)
    for number in range(20):
        store(archive, payload_of(1, 1, number))
        writer.follow()
    assert len(journal.list_files(str(archive.parts.layout.data / "feed"), archive.parts.files)) > 3
    assert [event.sequence for event in told(feed)] == list(range(1, 21))
    assert [event.sequence for event in told(feed, str(feed.oldest()))] == list(range(1, 21))


def test_a_restored_archive_refuses_the_cursors_of_the_one_it_was_made_of(tmp_path: Path, data: Path) -> None:
    with opened(data) as archive:
        writer = writer_of(archive)
        store(archive, payload_of(1, 1, 1))
        writer.close()
        cursor = Feed(archive.parts.layout).newest()
    back_up(layouts.existing(data), tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")
    with opened(tmp_path / "restored") as restored:
        writer = writer_of(restored)
        with pytest.raises(CursorRefused, match="of another feed"):
            Feed(restored.parts.layout).read(cursor)
        writer.close()


def test_a_feed_that_was_put_back_refuses_cursors_from_after(tmp_path: Path, data: Path) -> None:
    """A copy of the folder, as a snapshot of a virtual machine is."""
    with opened(data) as archive:
        writer_of(archive).close()
    shutil.copytree(data, tmp_path / "copy")
    with opened(data) as archive:
        writer = writer_of(archive)
        store(archive, payload_of(1, 1, 1))
        writer.close()
        cursor = Feed(archive.parts.layout).newest()
    with opened(tmp_path / "copy") as archive:
        writer = writer_of(archive)
        with pytest.raises(CursorRefused):
            Feed(archive.parts.layout).read(cursor)
        writer.close()


def test_one_process_writes_a_feed(archive: Archive, writer: FeedWriter) -> None:
    with pytest.raises(ArchiveInUse):
        writer_of(archive)


# restarts ------------------------------------------------------------------------------------------


def test_a_writer_that_was_killed_goes_on_where_its_journal_ends(archive: Archive) -> None:
    killed = writer_of(archive)
    store(archive, payload_of(1, 1, 1))
    killed.follow()
    feed = Feed(archive.parts.layout)
    seen = feed.read(feed.oldest())
    archive.parts.files.close(killed._lock_fd)  # dead: its state is from before, its journal is whole
    store(archive, payload_of(1, 1, 2))
    again = writer_of(archive)
    again.follow()
    assert [event.sop_instance_uid for event in feed.read(seen.cursor).events()] == [uid(1, 1, 2)]
    assert [event.sequence for event in told(feed)] == [1, 2]
    again.close()


def test_what_a_power_cut_took_from_the_journal_is_told_again(archive: Archive) -> None:
    writer = writer_of(archive)
    store(archive, payload_of(1, 1, 1))
    writer.follow()
    writer.save()
    store(archive, payload_of(1, 1, 2), payload_of(1, 1, 3))
    writer.follow()
    feed = Feed(archive.parts.layout)
    seen = feed.newest()
    archive.parts.files.close(writer._lock_fd)
    directory = str(archive.parts.layout.data / "feed")
    path = journal.path_of(directory, journal.list_files(directory, archive.parts.files)[-1])
    os.truncate(path, os.path.getsize(path) - 5)
    store(archive, payload_of(1, 1, 4))
    again = writer_of(archive)
    again.follow()
    again_told = [event.sop_instance_uid for event in Feed(archive.parts.layout).read(seen).events()]
    assert again_told == [uid(1, 1, 2), uid(1, 1, 3), uid(1, 1, 4)]
    again.close()


@pytest.mark.parametrize("spoil", ["state", "journal", "epochs"])
def test_a_feed_whose_files_are_spoilt_begins_anew_and_refuses_old_cursors(archive: Archive, spoil: str) -> None:
    writer = writer_of(archive)
    store(archive, payload_of(1, 1, 1))
    writer.close()
    cursor = Feed(archive.parts.layout).newest()
    folder = archive.parts.layout.data / "feed"
    victim = next(folder.glob("*.events")) if spoil == "journal" else folder / spoil
    victim.write_bytes(b"\xff" * 100)
    again = writer_of(archive)
    feed = Feed(archive.parts.layout)
    with pytest.raises(CursorRefused):
        feed.read(cursor)
    store(archive, payload_of(1, 1, 2))
    again.follow()
    found = told(feed)
    assert [event.sop_instance_uid for event in found if event.action == "stored"] == [uid(1, 1, 2)]
    again.close()


def test_a_full_disk_delays_events_and_loses_none(data: Path) -> None:
    files = FaultyFiles()
    with opened(data, files=files) as archive:
        writer = writer_of(archive)
        feed = Feed(archive.parts.layout)
        store(archive, payload_of(1, 1, 1))
        real = writer._journal.append

        def full(*args: object) -> None:
            writer._journal.append = real  # type: ignore[method-assign]
            raise StorageFull("no room")

        writer._journal.append = full  # type: ignore[method-assign,assignment]
        assert not writer._tried()
        assert writer.stats()["error"]
        assert writer._tried()
        assert writer.stats()["error"] == ""
        assert actions(told(feed)) == ["stored"]
        writer.close()


# compaction and rebuild ----------------------------------------------------------------------------


def test_compaction_waits_for_the_feed_and_its_copies_are_not_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "TOMBSTONE_KEEP_S", 0)
    with opened(data) as archive:
        writer_of(archive).close()
        store(archive, *[payload_of(1, 1, number) for number in range(4)])
        archive.delete(instance_query(1, 1, 0), **WHO)
    with opened(data) as archive:
        store(archive, payload_of(2, 1, 1))
    with opened(data) as archive:
        before = contents(archive)
        assert compact(archive) == 0
        writer = writer_of(archive)
        writer.follow()
        writer.save()
        assert compact(archive) > 0
        writer.follow()
        feed = Feed(archive.parts.layout)
        assert actions(told(feed)) == ["stored"] * 4 + ["deleted", "stored"]
        store(archive, payload_of(2, 1, 2))
        writer.follow()
        assert len(told(feed)) == 7
        assert contents(archive).keys() - before.keys() == {uid(2, 1, 2)}
        writer.close()


def test_compaction_goes_by_the_journal_before_the_state_is_saved(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It syncs the journal: on a full disk a state cannot be saved until compaction has made room."""
    monkeypatch.setattr(liveness, "TOMBSTONE_KEEP_S", 0)
    with opened(data) as archive:
        writer_of(archive).close()
        store(archive, *[payload_of(1, 1, number) for number in range(4)])
        archive.delete(instance_query(1, 1, 0), **WHO)
    with opened(data) as archive:
        store(archive, payload_of(2, 1, 1))
    files = FaultyFiles()
    with opened(data, files=files) as archive:
        killed = writer_of(archive)
        killed.follow()
        assert compact(archive) > 0
        archive.parts.files.close(killed._lock_fd)
        writer = writer_of(archive)
        writer.follow()
        assert actions(told(Feed(archive.parts.layout))) == ["stored"] * 4 + ["deleted", "stored"]
        writer.close()


def test_a_segment_of_another_salt_is_not_taken_for_one_that_was_read(data: Path) -> None:
    """After a power cut a number may be given to another segment before the feed has looked."""
    with opened(data) as archive:
        writer_of(archive).close()
        store(archive, payload_of(1, 1, 1))
        archive.delete(instance_query(1, 1, 1), **WHO)
    with opened(data) as archive:
        store(archive, payload_of(2, 1, 1))
        directory = str(archive.parts.layout.data / "feed")
        state = read_state(directory, archive.parts.files)
        assert state is not None
        for segment_id in archive.parts.index.segment_marks():
            state.progress.move(segment_id, 12345, 1 << 40)
        write_state(directory, archive.parts.files, state)
        assert compact(archive) == 0


def test_a_feed_that_is_switched_off_holds_no_compaction_back(data: Path) -> None:
    with opened(data) as archive:
        writer_of(archive).close()
        store(archive, *[payload_of(1, 1, number) for number in range(4)])
        archive.delete(instance_query(1, 1, 0), **WHO)
    with opened(data) as archive:
        store(archive, payload_of(2, 1, 1))
    with opened(data) as archive:
        switch_off(archive.parts.layout, archive.parts.files)
        assert compact(archive) > 0


def test_a_rebuilt_index_changes_nothing_for_subscribers(data: Path) -> None:
    with opened(data) as archive:
        writer = writer_of(archive)
        store(archive, *[payload_of(1, 1, number) for number in range(4)])
        writer.close()
        cursor = Feed(archive.parts.layout).newest()
        store(archive, payload_of(1, 1, 9))
    Archive.rebuild_index(data)
    with opened(data) as archive:
        writer = writer_of(archive)
        writer.follow()
        assert [event.sop_instance_uid for event in told(Feed(archive.parts.layout), str(cursor))] == [uid(1, 1, 9)]
        writer.close()


# quiet ---------------------------------------------------------------------------------------------

SOON = QuietTimes(0.05, 0.1, 0.2)


def test_series_and_study_are_quiet_then_complete_after_their_last_instance(archive: Archive) -> None:
    writer = writer_of(archive, SOON)
    writer.start()
    feed = Feed(archive.parts.layout)
    store(archive, payload_of(1, 1, 1), payload_of(1, 2, 1), payload_of(1, 2, 2))
    events = []
    deadline = time.monotonic() + 60
    while len(events) < 7 and time.monotonic() < deadline:
        cursor = feed.newest()
        events = told(feed)
        feed.wait(cursor, 0.2)
    writer.close()
    assert actions(events) == ["stored"] * 3 + ["series_quiet"] * 2 + ["study_quiet", "study_complete"]
    assert feed.read(feed.oldest()).events_of("series_quiet") == events[3:5]
    assert {(event.series_instance_uid, event.instances) for event in events[3:5]} == {(uid(1, 1), 1), (uid(1, 2), 2)}
    assert [event.instances for event in events[5:]] == [3, 3]


def test_a_study_that_became_quiet_while_nothing_ran_is_told_at_the_start(data: Path) -> None:
    with opened(data) as archive:
        writer_of(archive, SOON).close()
        store(archive, payload_of(1, 1, 1))
    threading.Event().wait(0.25)
    with opened(data) as archive:
        writer = writer_of(archive, SOON)
        writer.follow()
        writer.follow()
        feed = Feed(archive.parts.layout)
        assert actions(told(feed)) == ["stored", "series_quiet", "study_quiet", "study_complete"]
        writer.close()
        again = writer_of(archive, SOON)
        again.follow()
        assert len(told(feed)) == 4
        again.close()


def test_a_further_instance_makes_a_study_grow_again(archive: Archive) -> None:
    writer = writer_of(archive, SOON)
    for number in (1, 2):
        store(archive, payload_of(1, 1, number))
        writer.follow()
        threading.Event().wait(0.12)
        writer.follow()
    found = [event for event in told(Feed(archive.parts.layout)) if event.action == "study_quiet"]
    assert [event.instances for event in found] == [1, 2]
    writer.close()


def test_what_has_been_deleted_is_not_said_to_be_quiet(archive: Archive) -> None:
    writer = writer_of(archive, SOON)
    store(archive, payload_of(1, 1, 1))
    archive.delete(study_query(1), **WHO)
    threading.Event().wait(0.12)
    writer.follow()
    assert actions(told(Feed(archive.parts.layout))) == ["stored", "deleted"]
    assert writer.stats()["growing"] == 0
    writer.close()


# the command ---------------------------------------------------------------------------------------


def test_the_command_lists_events_and_goes_on_behind_a_cursor(
    archive: Archive, writer: FeedWriter, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(archive, payload_of(1, 1, 1), payload_of(1, 1, 2))
    writer.follow()
    exit_code, out, _ = run(capsys, "changes", "--json", "--data", str(data))
    first, second = map(json.loads, out.splitlines())
    assert (exit_code, first["sop_instance_uid"], second["sequence"]) == (0, uid(1, 1, 1), 2)
    _, out, _ = run(capsys, "changes", "--json", "--data", str(data), "--since", first["cursor"])
    assert json.loads(out) == second
    exit_code, _, err = run(capsys, "changes", "--json", "--data", str(data), "--since", "00000000-1")
    assert exit_code and "of another feed" in json.loads(err)["error"]


# waiting -------------------------------------------------------------------------------------------


def test_a_subscriber_is_woken_by_a_store(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    writer.start()
    cursor = feed.newest()
    assert not feed.wait(cursor, 0.01)
    thread = threading.Timer(0.05, store, (archive, payload_of(1, 1, 1)))
    thread.start()
    assert feed.wait(cursor, 30)
    thread.join()
    feed.close()


def test_tasks_are_woken_by_a_store(archive: Archive, writer: FeedWriter, feed: Feed) -> None:
    writer.start()

    async def follow() -> list[str]:
        loop = asyncio.get_running_loop()
        watch = Watch(directory_of(archive.parts.layout), loop)
        cursor = feed.newest()
        storing = loop.run_in_executor(None, store, archive, payload_of(1, 1, 1))
        while True:
            changed = watch.changed()
            page = feed.read(cursor)
            if page.lines:
                break
            await asyncio.wait_for(asyncio.shield(changed), 60)
        await storing
        watch.close()
        return actions(page.events())

    assert asyncio.run(follow()) == ["stored"]


# all of it together --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(effort.seed("FEED") % 1000, effort.seed("FEED") % 1000 + SEEDS))
def test_whoever_resumes_anywhere_sees_all_that_comes_later_and_believes_what_is_so(
    seed: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random interleavings of writers, deletions, holds, corrections, compaction, restarts, kills and rebuilds."""
    monkeypatch.setattr(liveness, "TOMBSTONE_KEEP_S", 0)
    monkeypatch.setattr(journal, "FILE_BYTES", 3000)
    rng = random.Random(seed)
    cursors: list[Cursor] = []
    numbers = 0
    archive = opened(data)
    writer = writer_of(archive)
    others = [OtherWriter(archive, f"worker-{number}", 1 << 13) for number in range(2)]

    def restart(*, rebuild: bool, kill: bool) -> None:
        nonlocal archive, writer, others
        for other in others:
            other.close()
        if kill:
            archive.parts.files.close(writer._lock_fd)
        else:
            writer.close()
        archive.close()
        if rebuild:
            Archive.rebuild_index(data)
        archive = opened(data)
        writer = writer_of(archive)
        others = [OtherWriter(archive, f"worker-{number}", 1 << 13) for number in range(2)]

    for _ in range(120):
        step = rng.random()
        study, number = rng.randrange(4), rng.randrange(5)
        if step < 0.45:
            numbers += 1
            name = rng.choice(("Doe^Jane", f"Doe^{numbers}"))
            policy = rng.choice(("keep-first", "replace", "keep-both-versions"))
            rng.choice(others).append(payload_of(study, 1, number, patient_name=name), policy)
        elif step < 0.6:
            rng.choice(others).show()
        elif step < 0.68:
            query = rng.choice((study_query(study), instance_query(study, 1, number)))
            if not archive.parts.index.is_held(uid(study).encode()):
                archive.delete(query, **WHO)
        elif step < 0.71:
            query = rng.choice((study_query(study), instance_query(study, 1, number)))
            if not archive.parts.index.is_held(uid(study).encode()):
                archive.delete(query, **WHO, into_trash=True)
        elif step < 0.74:
            entries = [str(entry.stamp) for entry in trash.entries(archive.parts)]
            if entries and rng.random() < 0.7:
                trash.restore(archive.parts, rng.choice(entries), **WHO)
            elif entries:
                trash.empty(archive.parts, None, **WHO)
        elif step < 0.76:
            rng.choice((archive.set_holds, archive.release_holds))([uid(study)], **WHO)
        elif step < 0.78 and archive.parts.index.locate(uid(study, 1, number).encode()):
            correction.correct_study(archive, uid(study), {tags.AccessionNumber: f"A{numbers}"}, **WHO)
        elif step < 0.80:
            compact(archive)
        elif step < 0.82:
            restart(rebuild=rng.random() < 0.3, kill=rng.random() < 0.5)
        elif step < 0.9:
            writer.save()
        else:
            writer.follow()
            cursors.append(Feed(archive.parts.layout).newest())
    restart(rebuild=False, kill=False)
    writer.follow()
    feed = Feed(archive.parts.layout)
    everything = told(feed)
    assert [event.sequence for event in everything] == list(range(1, len(everything) + 1)), f"seed {seed}"
    picture = Picture()
    for event in everything:
        picture.see(event)
    assert not picture.differences(archive), f"seed {seed}"
    for cursor in cursors:
        later = told(feed, str(cursor))
        assert later == everything[len(everything) - len(later) :], f"seed {seed}, cursor {cursor}"
        assert len(later) >= len(everything) - cursor.sequence, f"seed {seed}, cursor {cursor}"
    for other in others:
        other.close()
    writer.close()
    archive.close()
