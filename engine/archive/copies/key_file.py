"""DATA/keys.json in copies of an archive: wrapped keys, which are of no use without a provider's key (`keys`).

A backup has the file in each manifest, a replica as a file. Both have the keys of every record that they have.
"""

from __future__ import annotations

from engine.archive import layout as layouts
from engine.archive.copies.manifest import read_whole
from engine.archive.layout import Layout
from engine.errors import BackupError
from engine.keys.key_store import FILE, FILE_BYTES_MAX
from engine.storage.files import Files, replace_file


def content(layout: Layout, files: Files) -> str:
    """The file of an archive; "" if it has none. Raises BackupError if it cannot be read."""
    path = str(layout.data / FILE)
    if not files.exists(path):
        return ""
    try:
        return read_whole(files, path, FILE_BYTES_MAX).decode("utf-8")
    except (OSError, ValueError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from error


def put(layout: Layout, text: str, files: Files) -> None:
    """Writes the file into a copy, durably, if it differs. Raises StorageFull or StorageFailed."""
    path = str(layout.data / FILE)
    if text and (not files.exists(path) or content(layout, files) != text):
        replace_file(files, path, text.encode("utf-8"))


def adopt(layout: Layout, text: str, files: Files) -> Layout:
    """Writes the file into a replica, whose archive.json then says that it is encrypted."""
    put(layout, text, files)
    if text and not layout.is_encrypted:
        layout = layouts.encrypted(layout)
        layouts.describe(layout, files)
    return layout
