class Counter:
    series_id: int
    next_id: int
    count: int
    payload_bytes: int
    def __init__(self, series_id: int, next_id: int) -> None: ...

class HeadGroup:
    def __init__(self, counter: Counter, first_stamp: int, first_tie: int, tail: bytes) -> None: ...

class Gatherer:
    groups: dict[bytes, HeadGroup]
    places: dict[bytes, bytes]
    rows: list[tuple[bytes, bytes]]
    record_bytes: int
    def __init__(self) -> None: ...
    def run(self, data: bytes, at: int, end: int, segment_id: int, rows_max: int) -> int: ...

def texts_of(meta: bytes) -> bytes: ...
