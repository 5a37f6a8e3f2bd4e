"""A message with other fields in its header (MSH), and every other byte as it came."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.errors import MessageUnreadable
from engine.hl7.escape import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.hl7.message import Message

_END = re.compile(rb"[\r\n]")


def with_header(message: Message, fields: Mapping[int, str]) -> bytes:
    """The message with these texts in fields of MSH, from MSH-3 on; characters that its set lacks become `?`.

    Raises MessageUnreadable if its header does not begin the message, or is not in its character set.
    """
    found = _END.search(message.raw)
    end = found.start() if found else len(message.raw)
    try:
        line = message.raw[:end].decode(message.codec)
        is_same = line.encode(message.codec) == message.raw[:end]
    except UnicodeError:
        is_same = False
    if not is_same or not line.startswith("MSH"):
        raise MessageUnreadable("the header cannot be written again: it is not in the character set of the message")
    separators = message.separators
    parts = line.split(separators.field)
    parts += [""] * (max(fields) - len(parts))
    for number, text in fields.items():
        parts[number - 1] = escape(text, separators)
    return separators.field.join(parts).encode(message.codec, "replace") + message.raw[end:]
