r"""Messages that we write: strict, whatever we take.

    MSH|^~\&|…<CR>PID|…<CR>       the standard separators, CR after every segment, no empty field at an end

A value is text; a tuple is a field with components, and a tuple in it a component with subcomponents; a list is a field
with repetitions. Everything is escaped.
"""

from __future__ import annotations

from typing import TypeAlias

from engine.hl7 import moment
from engine.hl7.character_set import TERMS
from engine.hl7.escape import escape
from engine.hl7.separators import STANDARD, Separators

Component: TypeAlias = str | tuple[str, ...]
Repetition: TypeAlias = str | tuple[Component, ...]
Field: TypeAlias = Repetition | list[Repetition]


class Raw(str):
    """A value that has its separators and escapes already."""

    __slots__ = ()


def segment(name: str, *fields: Field, separators: Separators = STANDARD) -> str:
    """One segment without its end; `fields` from the first one on."""
    texts = [_field(each, separators) for each in fields]
    while texts and not texts[-1]:
        texts.pop()
    return separators.field.join((name, *texts))


def header(
    *,
    kind: tuple[str, ...],
    control_id: str,
    sender: tuple[str, str],
    receiver: tuple[str, str],
    time: float,
    version: str = "2.5.1",
    processing_id: str = "P",
    codec: str = "utf_8",
    accept_mode: str = "",
    application_mode: str = "",
    separators: Separators = STANDARD,
) -> str:
    """MSH. `sender` and `receiver`: application and facility, as `Raw` if they come from another message."""
    others = separators.component + separators.repetition + separators.escape + separators.subcomponent
    fields: list[Field] = [*sender, *receiver, moment.write(time, None), "", kind, Raw(control_id), processing_id]
    fields += [version, "", "", accept_mode, application_mode, "", Raw(TERMS.get(codec, ""))]
    rest = segment("", *fields, separators=separators)
    return f"MSH{separators.field}{others}{rest}"


def message(segments: list[str], codec: str = "utf_8") -> bytes:
    """The bytes of a message; characters that the set does not have become "?"."""
    text = "\r".join((*segments, ""))
    return text.encode("utf_8" if codec == "ascii" and not text.isascii() else codec, "replace")


def _field(value: Field, separators: Separators) -> str:
    if isinstance(value, list):
        return separators.repetition.join(_repetition(each, separators) for each in value)
    return _repetition(value, separators)


def _repetition(value: Repetition, separators: Separators) -> str:
    if isinstance(value, str):
        return value if isinstance(value, Raw) else escape(value, separators)
    parts = [_component(each, separators) for each in value]
    return separators.component.join(parts).rstrip(separators.component)


def _component(value: Component, separators: Separators) -> str:
    if isinstance(value, str):
        return value if isinstance(value, Raw) else escape(value, separators)
    return separators.subcomponent.join(escape(each, separators) for each in value).rstrip(separators.subcomponent)
