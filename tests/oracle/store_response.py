"""A C-STORE-RSP as a batch of sub-operations reads it, slow and obvious: the judge of `store_response`."""

from __future__ import annotations

FIELD, RESPONDED_TO, DATA_SET_TYPE, STATUS = 0x0100, 0x0120, 0x0800, 0x0900


def store_response(command: bytes) -> tuple[int, int] | None:
    """(message id responded to, status) if it is whole, in order, of group 0000 and has no data set (PS3.7 9.3.1.2)."""
    elements: list[tuple[int, bytes]] = []
    while command:
        length = int.from_bytes(command[4:8], "little")
        if len(command) < 8 + length or len(command) < 8 or command[:2] != b"\0\0":
            return None
        elements.append((int.from_bytes(command[2:4], "little"), command[8 : 8 + length]))
        command = command[8 + length :]
    numbers = [number for number, _ in elements]
    if numbers != sorted(set(numbers)):
        return None
    wanted = {number: value for number, value in elements if number in (FIELD, RESPONDED_TO, DATA_SET_TYPE, STATUS)}
    if len(wanted) != 4 or any(len(value) != 2 for value in wanted.values()):
        return None
    values = {number: int.from_bytes(value, "little") for number, value in wanted.items()}
    if values[FIELD] != 0x8001 or values[DATA_SET_TYPE] != 0x0101:
        return None
    return values[RESPONDED_TO], values[STATUS]
