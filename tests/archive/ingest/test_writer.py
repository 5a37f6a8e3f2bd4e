"""The rule for an instance that is sent again, at the store: how many versions of one UID are kept aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.archive import Archive, StorageOptions
from engine.errors import InstanceRefused, Refusal
from engine.index.apply import history
from engine.index.apply.versions import UidRecord
from engine.index.format.types import Outcome
from tests.archive.kept import data_set, received, uid_of

UID = uid_of(1)


def _version(number: int) -> bytes:
    return data_set(1, StudyDescription=f"version {number}")


def _opened(data: Path, versions_max: int) -> Archive:
    archive = Archive.open(data, role="keeper", create=True)
    archive.writer("test", StorageOptions(segment_bytes=1 << 20, versions_max=versions_max))
    return archive


def _store(archive: Archive, number: int, policy: str = "keep-first") -> object:
    return archive.ingest_batch([received(_version(number))], policy=policy)[0]


@pytest.mark.parametrize("policy", ["keep-first", "keep-both-versions"])
def test_above_the_bound_another_version_is_refused_and_all_that_was_taken_is_there(
    tmp_path: Path, policy: str
) -> None:
    with _opened(tmp_path, 3) as archive:
        for number in range(4):
            assert not isinstance(_store(archive, number, policy), Exception)
        refused = _store(archive, 4, policy)
        assert isinstance(refused, InstanceRefused) and refused.refusal is Refusal.OUT_OF_RESOURCES
        assert "3 versions of this UID" in str(refused)
        kept = {archive.read(version) for version in archive.parts.index.versions(UID.encode())}
        assert kept == {_version(number) for number in range(4)}


def test_at_the_bound_what_is_there_already_is_known_and_a_replacement_is_taken(tmp_path: Path) -> None:
    with _opened(tmp_path, 2) as archive:
        for number in range(3):
            _store(archive, number)
        assert _store(archive, 2) is Outcome.KEPT_ASIDE
        assert _store(archive, 0) is Outcome.DUPLICATE
        assert _store(archive, 9, "replace") is Outcome.REPLACED
        assert len(archive.parts.index.versions(UID.encode())) == 3


def test_at_the_bound_a_large_object_is_refused_unless_it_is_there_already(tmp_path: Path) -> None:
    def stream(number: int) -> Outcome:
        return archive.ingest_stream(iter([_version(number)]), transfer_syntax_uid="1.2.840.10008.1.2.1")

    with _opened(tmp_path, 1) as archive:
        assert [stream(0), stream(1)] == [Outcome.STORED, Outcome.KEPT_ASIDE]
        with pytest.raises(InstanceRefused, match="1 versions of this UID"):
            stream(2)
        assert stream(1) is Outcome.DUPLICATE
        assert len(archive.parts.index.versions(UID.encode())) == 2


def test_a_rebuild_reads_no_version_of_a_uid_more_than_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _opened(tmp_path, 1000) as archive:
        for number in range(200):
            _store(archive, number)
        before = [version.stamp for version in archive.parts.index.versions(UID.encode())]
    read: list[bytes] = []
    unpack = history.unpack_history

    def counted(key: bytes, value: bytes) -> UidRecord:
        read.append(key)
        return unpack(key, value)

    with monkeypatch.context() as patched:
        patched.setattr(history, "unpack_history", counted)
        Archive.rebuild_index(tmp_path)
    assert len(read) <= 400
    with _opened(tmp_path, 1000) as archive:
        assert [version.stamp for version in archive.parts.index.versions(UID.encode())] == before
