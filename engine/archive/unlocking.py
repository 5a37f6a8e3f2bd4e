"""Unlocks an encrypted archive: its data keys go to the keyring of this process, and new records are encrypted.

Whoever reads records of the log calls `unlock` first: opening an archive, rebuilding, restoring, promoting. Backups and
replication copy ciphertext and need no key.
"""

from __future__ import annotations

from dataclasses import replace

from engine.archive.layout import ARCHIVE, Layout
from engine.errors import KeyStoreError
from engine.keys import process
from engine.keys.key_store import KeyStore
from engine.keys.study_keys import StudyKeys
from engine.storage.files import Files
from engine.storage.keyring import KEYRING


def unlock(layout: Layout, files: Files) -> Layout:
    """The layout with the key of new records, if the archive encrypts them. Raises KeyStoreError if no key fits."""
    if not layout.is_encrypted:
        return layout
    process.protect()
    store = KeyStore(layout.data, layout.archive_id, files)
    store.unlock()
    KEYRING.add(store.data_keys())
    KEYRING.add_source(layout.archive_id, store.data_keys)
    layout = replace(layout, study_keys=_study_keys(layout, store, files))
    return replace(layout, data_key=store.current) if store.content.is_encrypting else layout


def _study_keys(layout: Layout, store: KeyStore, files: Files) -> StudyKeys | None:
    """The keys of studies, if the archive has any."""
    wrapping_key = store.study_key()
    if wrapping_key is None:
        return None
    keys = StudyKeys(layout.data, layout.archive_id, files, wrapping_key)
    KEYRING.add_finder(keys.path, keys.find)
    return keys


def let_go(layout: Layout) -> None:
    """Lets go of the keys of studies."""
    if layout.study_keys is not None:
        KEYRING.remove_finder(layout.study_keys.path)
        layout.study_keys.close()


def use_study_keys(layout: Layout, files: Files, is_in_use: bool) -> Layout:
    """Sets whether each study that comes gets a key of its own, and makes the file of these keys if there is none.

    Raises KeyStoreError if the archive does not encrypt new records.
    """
    if layout.study_keys is None and is_in_use:
        if layout.data_key is None:
            advice = "`filmroom encryption init` makes its keys"
            raise KeyStoreError(f"encryption.study_keys is set, but {layout.data} is not encrypted: {advice}")
        store = KeyStore(layout.data, layout.archive_id, files)
        store.unlock()
        # The file first: an archive that names it must have it.
        StudyKeys.create(layout.data, layout.archive_id, files)
        store.study_key(create=True)
        layout = replace(layout, study_keys=_study_keys(layout, store, files))
    if layout.study_keys is not None:
        layout.study_keys.use(is_in_use)
    return layout


def require_encryption(layout: Layout) -> None:
    """Raises KeyStoreError unless the unlocked archive encrypts its new records."""
    if layout.data_key is None and layout.role == ARCHIVE:
        advice = "encryption.required is set: `filmroom encryption init` makes its keys"
        raise KeyStoreError(f"{layout.data} does not encrypt new records, and {advice}")
