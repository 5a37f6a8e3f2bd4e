"""keys.json: what unlocks it, what does not, rotation while another process has it open, and who may change it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import KeyStoreError
from engine.keys import key_file
from engine.keys.key_store import KeyStore
from engine.storage.files import Files

ARCHIVE_ID = b"archive-id-16-by"


def key_path(folder: Path, name: str = "key") -> str:
    path = folder / name
    if not path.exists():
        key_file.make(path)
    return str(path)


def made(folder: Path, **options: int) -> KeyStore:
    store = KeyStore(folder, ARCHIVE_ID, Files())
    store.create("first", "file", {"path": key_path(folder)}, **options)
    return store


def opened(folder: Path, archive_id: bytes = ARCHIVE_ID) -> KeyStore:
    store = KeyStore(folder, archive_id, Files())
    store.unlock()
    return store


def secrets(store: KeyStore) -> list[bytes]:
    return [key.secret for key in store.data_keys()]


def test_another_process_gets_the_same_data_keys(tmp_path: Path) -> None:
    store = made(tmp_path)
    assert secrets(opened(tmp_path)) == secrets(store)
    assert opened(tmp_path).current().secret == store.current().secret


def test_neither_the_file_nor_a_description_of_a_key_holds_a_secret(tmp_path: Path) -> None:
    store = made(tmp_path)
    text = (tmp_path / "keys.json").read_text()
    key = store.current()
    assert key.secret.hex() not in text
    assert key.secret.hex() not in repr(key)
    assert key_file.read(key_path(tmp_path)).hex() not in text


def test_a_wrong_key_file_is_refused_by_name(tmp_path: Path) -> None:
    made(tmp_path)
    os.unlink(tmp_path / "key")
    with pytest.raises(KeyStoreError, match="cannot be read"):
        opened(tmp_path)
    key_file.make(tmp_path / "key")
    with pytest.raises(KeyStoreError, match="is not the key of this archive"):
        opened(tmp_path)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    os.chmod(tmp_path / "key", 0o440)
    with pytest.raises(KeyStoreError, match="can be read by others"):
        opened(tmp_path)


def test_an_environment_variable_names_the_key_file_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path)
    os.rename(tmp_path / "key", tmp_path / "moved")
    monkeypatch.setenv("FILMROOM_KEY_FILE", str(tmp_path / "moved"))
    assert secrets(opened(tmp_path)) == secrets(store)


def test_of_two_wrappings_one_is_enough(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.add_wrapping("second", "file", {"path": key_path(tmp_path, "other")})
    os.unlink(tmp_path / "key")
    assert secrets(opened(tmp_path)) == secrets(store)
    os.unlink(tmp_path / "other")
    with pytest.raises(KeyStoreError, match=r"first: .*second: "):
        opened(tmp_path)


def test_the_last_wrapping_is_never_removed(tmp_path: Path) -> None:
    store = made(tmp_path)
    with pytest.raises(KeyStoreError, match="the last wrapping"):
        store.remove_wrapping("first")
    store.add_wrapping("second", "file", {"path": key_path(tmp_path, "other")})
    store.remove_wrapping("first")
    assert [each.name for each in store.content.wrappings] == ["second"]
    with pytest.raises(KeyStoreError, match="no wrapping"):
        store.remove_wrapping("first")


def test_a_new_data_key_reaches_a_process_that_is_running(tmp_path: Path) -> None:
    ours, theirs = made(tmp_path), opened(tmp_path)
    before = theirs.current().key_id
    key_id = ours.rotate_data_key()
    assert theirs.current().key_id.hex() == key_id
    assert [key.key_id for key in theirs.data_keys()] == [before, bytes.fromhex(key_id)]


def test_a_data_key_that_is_too_old_is_followed_by_a_new_one(tmp_path: Path) -> None:
    store = made(tmp_path, data_key_days=0)
    first = store.content.data_keys[0].id
    assert store.current().key_id.hex() != first
    assert store.content.data_keys[0].id == first


def test_a_new_master_key_keeps_the_data_keys_and_reaches_a_process_that_is_running(tmp_path: Path) -> None:
    ours, theirs = made(tmp_path), opened(tmp_path)
    before = (tmp_path / "keys.json").read_text()
    keys = secrets(ours)
    ours.rotate_master()
    after = (tmp_path / "keys.json").read_text()
    assert json.loads(before)["keys"]["data_keys"][0]["wrapped"] not in after
    assert secrets(theirs) == secrets(opened(tmp_path)) == keys


def test_a_new_master_key_that_one_provider_cannot_wrap_changes_nothing(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.add_wrapping("second", "file", {"path": key_path(tmp_path, "other")})
    os.unlink(tmp_path / "other")
    before = (tmp_path / "keys.json").read_bytes()
    with pytest.raises(KeyStoreError):
        store.rotate_master()
    assert (tmp_path / "keys.json").read_bytes() == before
    assert store.current() is not None


def change(folder: Path, **fields: object) -> None:
    path = folder / "keys.json"
    content = json.loads(path.read_bytes())
    content["keys"] |= fields
    path.write_text(json.dumps(content, separators=(",", ":")))


def test_a_file_that_was_changed_without_the_master_key_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    change(tmp_path, is_encrypting=False)
    with pytest.raises(KeyStoreError, match="without the master key"):
        opened(tmp_path)


def test_the_file_of_another_archive_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(KeyStoreError, match="not the key of this archive"):
        opened(tmp_path, b"another-archive!")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys":{},"mac":""}', b"\xff" * 100])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    made(tmp_path)
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(KeyStoreError, match=r"keys\.json"):
        opened(tmp_path)


def test_a_missing_file_says_that_a_backup_has_it(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="take it from a backup"):
        opened(tmp_path)


def test_keys_are_never_made_twice(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "keys.json").read_bytes()
    with pytest.raises(KeyStoreError, match="has keys already"):
        made(tmp_path)
    assert (tmp_path / "keys.json").read_bytes() == before


def test_a_key_file_is_made_for_its_owner_only_and_never_replaced(tmp_path: Path) -> None:
    path = Path(key_path(tmp_path))
    assert path.stat().st_mode & 0o777 == 0o400
    with pytest.raises(KeyStoreError, match="cannot be made"):
        key_file.make(path)
