class Counter:
    series_id: int
    next_id: int
    count: int
    payload_bytes: int
    def __init__(self, series_id: int, next_id: int) -> None: ...

class Known:
    def __init__(self, counter: Counter, first_stamp: int, first_tie: int, tail: bytes) -> None: ...

class Gatherer:
    known: dict[bytes, Known]
    places: dict[bytes, bytes]
    rows: list[tuple[bytes, bytes]]
    record_bytes: int
    def __init__(self) -> None: ...
    def run(self, data: bytes, at: int, end: int, segment_id: int, rows_max: int) -> int: ...

def texts_of(meta: bytes) -> bytes: ...
