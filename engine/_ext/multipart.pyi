from typing import Any, Final, Protocol

from typing_extensions import Buffer

PART: Final[int]
PIECE: Final[int]
END: Final[int]
FAULT: Final[int]
NO_BOUNDARY: Final[int]
LONG_HEADER: Final[int]

class _Budget(Protocol):
    taken_bytes: int

class Block:
    def __init__(self, capacity: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class BlockPool:
    def __init__(self, budget: _Budget | None = ..., block_bytes: int = ..., keep: int = ...) -> None: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def keep(self) -> int: ...

class Splitter:
    bytes_left: int
    def __init__(
        self,
        pool: BlockPool,
        boundary: bytes,
        *,
        bytes_left: int = ...,
        preamble_bytes_max: int = ...,
        header_bytes_max: int = ...,
    ) -> None: ...
    @property
    def part_count(self) -> int: ...
    def get_buffer(self, sizehint: int) -> Any: ...
    def buffer_updated(self, count: int) -> int: ...
    def feed(self, data: Buffer) -> None: ...
    def take(self) -> list[tuple[Any, ...]]: ...
    def finish(self) -> bool: ...
    def stop(self) -> None: ...
