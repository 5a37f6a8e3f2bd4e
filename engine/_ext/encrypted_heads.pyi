from collections.abc import Callable

def has_encrypted(data: bytes, at: int, count: int) -> bool: ...
def open_heads(
    data: bytes,
    at: int,
    count: int,
    segment_id: int,
    decrypt_of: Callable[[bytes], Callable[[bytes, bytes, bytes], bytes] | None],
) -> bytes | int: ...
