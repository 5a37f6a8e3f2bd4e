"""Type stubs of ext/elements.pyx; only dicom.elements imports it."""

from typing import Final, final

from typing_extensions import Buffer

REASONS: Final[dict[int, str]]

class Malformed(ValueError):
    def __init__(self, status: int, offset: int) -> None: ...
    offset: int
    ends_early: bool

def blob_items(blob_: Buffer) -> dict[int, bytes]: ...
def root_encoding_of(data: Buffer, encoding: int) -> int: ...
def item_encoding_of(value: Buffer, encoding: int) -> int: ...

@final
class ElementReader:
    def __init__(self, dictionary: bytes) -> None: ...
    def read(self, data: Buffer, offset: int, end: int, encoding: int) -> tuple[int, str, int, int, bool, int]: ...
