"""HL7 version 2 as bytes and texts: frames, messages, character sets, times, acknowledgements. Does no I/O."""

from engine.hl7.acknowledgement import Condition, Fault, acknowledge
from engine.hl7.frame import Frame, FrameReader, framed
from engine.hl7.message import Message, Segment, Value, parse

__all__ = [
    "Condition",
    "Fault",
    "Frame",
    "FrameReader",
    "Message",
    "Segment",
    "Value",
    "acknowledge",
    "framed",
    "parse",
]
