"""Type stubs of ext/reencoder.pyx; only dicom.reencoding imports it."""

from typing import Final, final

from typing_extensions import Buffer

from engine._ext.elements import Malformed as Malformed

WINDOW_BYTES_MIN: Final[int]
TARGET_BYTES_MIN: Final[int]

@final
class Reencoder:
    def __init__(self, dictionary: bytes, length: int, encoding: int, target_encoding: int) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def odd_offset(self) -> int: ...
    def measure(self, window: Buffer, start: int) -> int: ...
    def write(self, window: Buffer, start: int, target: Buffer) -> tuple[int, int]: ...
