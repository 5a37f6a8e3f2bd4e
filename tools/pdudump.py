"""Prints the PDUs and messages in captured bytes of one direction of an association.

    python tools/pdudump.py capture.bin            # "-" reads standard input
    python tools/pdudump.py capture.bin --bytes 64 # with the first bytes of each fragment

Undecodable bytes are shown with their error, and the dump continues after them; passcodes are not shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.dicom.uids import name_of
from engine.dimse import messages
from engine.errors import MessageError, RemoteProtocolError
from engine.ul import pdu

NAMES: dict[int, str] = {
    pdu.PduType.ASSOCIATE_RQ: "A-ASSOCIATE-RQ",
    pdu.PduType.ASSOCIATE_AC: "A-ASSOCIATE-AC",
    pdu.PduType.ASSOCIATE_RJ: "A-ASSOCIATE-RJ",
    pdu.PduType.P_DATA_TF: "P-DATA-TF",
    pdu.PduType.RELEASE_RQ: "A-RELEASE-RQ",
    pdu.PduType.RELEASE_RP: "A-RELEASE-RP",
    pdu.PduType.ABORT: "A-ABORT",
}


def dump(data: bytes, shown_bytes: int = 0) -> Iterator[str]:
    """The lines of the dump."""
    commands: dict[int, bytearray] = {}
    data_sets: dict[int, int] = {}
    position = 0
    while position + pdu.HEADER_BYTES <= len(data):
        pdu_type = data[position]
        length = int.from_bytes(data[position + 2 : position + 6], "big")
        start = position + pdu.HEADER_BYTES
        body = data[start : start + length]
        name = NAMES.get(pdu_type, f"unknown PDU type {pdu_type:02X}H")
        yield f"{position:08x}  {name}  {pdu.HEADER_BYTES + length} bytes"
        if len(body) < length:
            yield f"{'':10}truncated: {len(body)} of {length} bytes of its body"
            return
        try:
            unit = pdu.decode(pdu_type, body)
        except RemoteProtocolError as error:
            yield f"{'':10}invalid, A-ABORT reason {error.reason}: {error}"
        else:
            if isinstance(unit, pdu.PDataTF):
                for value in unit.values:
                    yield from _value(value, commands, data_sets, shown_bytes)
            else:
                yield from _unit(unit)
        position = start + length
    if position < len(data):
        yield f"{position:08x}  truncated: {len(data) - position} bytes of a PDU header"


def _value(
    value: pdu.PresentationDataValue, commands: dict[int, bytearray], data_sets: dict[int, int], shown_bytes: int
) -> Iterator[str]:
    context = value.presentation_context_id
    kind = "command" if value.is_command else "data set"
    last = " last" if value.is_last else ""
    yield f"{'':10}context {context}  {kind}{last}  {len(value.fragment)} bytes"
    if shown_bytes:
        yield f"{'':12}{value.fragment[:shown_bytes].hex(' ')}"
    if not value.is_command:
        data_sets[context] = data_sets.get(context, 0) + len(value.fragment)
        if value.is_last:
            yield f"{'':10}data set of {data_sets.pop(context)} bytes"
        return
    command = commands.setdefault(context, bytearray())
    command += value.fragment
    if value.is_last:
        del commands[context]
        try:
            yield f"{'':10}{_shown(messages.decode(bytes(command)))}"
        except MessageError as error:
            yield f"{'':10}invalid, status {error.status:04X}H: {error}"


def _unit(unit: pdu.PDU) -> Iterator[str]:
    for field in fields(unit):
        value = getattr(unit, field.name)
        if field.name == "titles":
            yield f"{'':10}titles: {value[:16]!r} {value[16:32]!r}"
        elif field.name == "presentation_contexts":
            for context in value:
                yield f"{'':10}{_shown(context)}"
        elif field.name == "user_information":
            for detail in fields(value):
                yield f"{'':10}{detail.name}: {_text(getattr(value, detail.name))}"
        else:
            yield f"{'':10}{field.name}: {_text(value)}"


def _shown(value: object) -> str:
    """A dataclass in one line."""
    parts = [
        f"{field.name}={_text(getattr(value, field.name))}"
        for field in fields(value)  # type: ignore[arg-type]
    ]
    return f"{type(value).__name__} {' '.join(parts)}"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_text, value)) + ")"
    if isinstance(value, str):
        name = name_of(value)
        return f"{value} [{name}]" if name != value else repr(value)
    return repr(value)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="PDUs and messages in captured bytes of one direction.")
    parser.add_argument("file", help='captured bytes; "-" for standard input')
    parser.add_argument("--bytes", type=int, default=0, metavar="N", help="show the first N bytes of each fragment")
    options = parser.parse_args(arguments)
    data = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    for line in dump(data, options.bytes):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
