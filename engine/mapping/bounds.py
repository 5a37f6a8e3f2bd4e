"""What a message may have at most, so that one costs its sender's patience and not everybody's: mapping takes a
microsecond for each character of the worst message, and other messages wait meanwhile.

Only the documents of reports (OBX of type ED) may be longer: nothing but their decoding reads them.
"""

from __future__ import annotations

from collections import Counter

from engine.hl7.acknowledgement import Condition, Fault
from engine.hl7.message import Message

CHARACTERS_MAX = 2 << 20
"""Of all segments but documents. Long orders have some ten thousand."""
REPETITIONS_MAX = 5000
"""Of all fields of one segment."""
SEGMENTS_MAX = {"PID": 1000, "MRG": 1000, "ORC": 1000, "OBR": 1000, "IPC": 1000}
"""Segments that make values of the registry: each is a row, all of one message are one transaction."""
DOCUMENTS_MAX = 100
SHORT_BYTES = 4000
"""Too short for a thousand segments or repetitions: nearly every message, and it need not be counted."""


def excess_of(message: Message) -> Fault | None:
    """What a message has too much of; None: nothing."""
    if len(message.raw) <= SHORT_BYTES:
        return None
    counts = Counter(message.names)
    for name, most in SEGMENTS_MAX.items():
        if counts[name] > most:
            return Fault(Condition.SEGMENT_SEQUENCE, f"the message has more than {most} {name}", (name, 1, 0))
    characters = documents = 0
    field, repetition = message.separators.field, message.separators.repetition
    for segment in message:
        if segment.name == "OBX" and segment.line.split(field, 3)[2:3] in (["ED"], ["ed"]):
            documents += 1
            continue
        characters += len(segment.line)
        if segment.line.count(repetition) > REPETITIONS_MAX:
            text = f"{segment.name} has more than {REPETITIONS_MAX} repetitions"
            return Fault(Condition.DATA_TYPE, text, (segment.name, 1, 0))
    if characters > CHARACTERS_MAX:
        text = f"more than {CHARACTERS_MAX} characters beside documents"
        return Fault(Condition.DATA_TYPE, text, ("MSH", 1, 0))
    if documents > DOCUMENTS_MAX:
        return Fault(Condition.SEGMENT_SEQUENCE, f"the report has more than {DOCUMENTS_MAX} documents", ("OBX", 1, 5))
    return None
