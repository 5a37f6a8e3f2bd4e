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
    return replace(layout, data_key=store.current) if store.content.is_encrypting else layout


def require_encryption(layout: Layout) -> None:
    """Raises KeyStoreError unless the unlocked archive encrypts its new records."""
    if layout.data_key is None and layout.role == ARCHIVE:
        advice = "encryption.required is set: `filmroom encryption init` makes its keys"
        raise KeyStoreError(f"{layout.data} does not encrypt new records, and {advice}")
