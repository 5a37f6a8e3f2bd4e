"""Type stubs of ext/json_model.pyx; only dicom.json_model imports it."""

from collections.abc import Callable
from typing import final

from typing_extensions import Buffer

from engine._ext.elements import Malformed as Malformed

def configure(dictionary_: bytes) -> None: ...

@final
class Writer:
    def __init__(self, decode: Callable[[bytes, bytes, str], str], limits: tuple[int, int, int, int, int]) -> None: ...
    @property
    def has_pixel_data(self) -> bool: ...
    def data_set(
        self, data: Buffer, encoding: int, bulk_prefix: bytes | None, tail: Buffer, may_be_cut: bool
    ) -> bytes: ...
    def element(self, tag: int, vr: int, value: Buffer) -> bytes: ...
