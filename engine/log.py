"""Structured logs: each event has a fixed text and fields, and is one line of JSON or of readable text.

    log = get("net.server")
    log.info("association accepted", calling_ae_title=title, contexts=12)

    {"time":"2026-11-24T18:09:01.123Z","level":"info","logger":"net.server","event":"association accepted",...}
    18:09:01.123 info    net.server: association accepted calling_ae_title=STORESCU contexts=12

This is not a tracer (use log.wire_trace). Do not log at info for each instance. Four rules:

- Pass data of a patient through `patient()`: it is written as *** unless log.patient_data is set.
- One event is one line: control characters, also those of Unicode that move the cursor or turn the writing
  direction, are escaped, so that no peer can forge an event or a terminal sequence. Long values are cut.
- One event is one write, so that lines of several processes in one file do not mix.
- The lines that one network address causes are limited a second (`Logger.about`); one line says how many were left out.

Messages of libraries and the interpreter through `logging` come out the same way at warning or above. Until `configure`
is called, as in a program that only uses the archive, nothing is written: events go to the logger `filmroom` of
`logging`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import orjson

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

VALUE_CHARACTERS_MAX = 2000
"""Longer values are cut, so that no peer's Error Comment and no path fills the disk."""

HIDDEN = "***"

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = {10: "\x1b[2m", 20: "", 30: "\x1b[33m", 40: "\x1b[31m"}


class Settings(Protocol):
    """The settings for `configure`: the [log] table of the configuration."""

    @property
    def format(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def patient_data(self) -> bool: ...
    @property
    def lines_per_peer_per_s_max(self) -> int: ...


OTHER_PEERS = "(others)"

PEERS_MAX = 1024
"""Addresses counted separately in one second; all further ones share one limit."""


class Keeper(Protocol):
    """Keeps lines for people who search them later."""

    def append(self, line: str) -> None:
        """Keeps a line of JSON."""


class _PatientValue:
    """A value of a patient: its text depends on the configuration, but the lines that are kept never have it."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return str(self.value) if _output.patient_data else HIDDEN


class _Throttle:
    """Counts the lines that each peer has caused in this second."""

    def __init__(self) -> None:
        self.begin(50)

    def begin(self, lines_max: int) -> None:
        self.lines_max = lines_max
        self._second = 0
        self._counts: dict[str, int] = {}

    def passes(self, peer: str) -> bool:
        """Whether one more line about `peer` is written."""
        self.flush()
        if peer not in self._counts and len(self._counts) >= PEERS_MAX:
            peer = OTHER_PEERS
        count = self._counts[peer] = self._counts.get(peer, 0) + 1
        return count <= self.lines_max

    def flush(self) -> None:
        """Call this in each new second: logs how many lines were left out, and resets the counts."""
        second = int(_output.now())
        if second == self._second:
            return
        counts, self._counts = self._counts, {}
        self._second = second
        for peer, count in counts.items():
            if count > self.lines_max:
                _emit(30, "log", "lines about a peer were suppressed", {"peer": peer, "count": count - self.lines_max})


class _Output:
    """The output of a process, set by `configure`."""

    def __init__(self) -> None:
        self.level = LEVELS["info"]
        self.patient_data = False
        self.as_json = True
        self.coloured = False
        self.stream: TextIO | None = None
        """None: not configured."""
        self.keeper: Keeper | None = None
        self.now: Callable[[], float] = time.time
        self.context: dict[str, object] = {}

    def write(self, line: str) -> None:
        if self.stream is None:
            return
        try:
            self.stream.write(line + "\n")
            self.stream.flush()
        except (OSError, ValueError):
            # The reader of the log is gone; the server goes on.
            return


_output = _Output()
_throttle = _Throttle()


def configure(
    settings: Settings,
    *,
    stream: TextIO | None = None,
    now: Callable[[], float] = time.time,
    keeper: Keeper | None = None,
    **context: object,
) -> None:
    """Sets what this process writes, and where; `context` (such as worker=2) is added to every event.

    `keeper` gets every line as JSON too, always without patient data.
    """
    out = _output
    out.keeper = keeper
    out.stream = stream or sys.stderr
    terminal = out.stream.isatty()
    out.as_json = settings.format == "json" or (settings.format == "auto" and not terminal)
    out.coloured = terminal and "NO_COLOR" not in os.environ
    out.level = LEVELS[settings.level]
    out.patient_data = settings.patient_data
    out.context = context
    out.now = now
    _throttle.begin(settings.lines_per_peer_per_s_max)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(out.level, logging.WARNING))


def get(name: str) -> Logger:
    """The logger of a module, by its name below `engine`."""
    return Logger(name)


def flush() -> None:
    """Logs how many lines were left out in the second before. Call it from a timer."""
    _throttle.flush()


def patient(value: object) -> object:
    """A value that belongs to a patient: shown if the configuration allows it, else ***."""
    return _PatientValue(value)


class Logger:
    """Writes events under one name, with the fields bound to it."""

    __slots__ = ("_fields", "_name", "_peer")

    def __init__(self, name: str, peer: str = "", /, **fields: object) -> None:
        """`peer`: the network address whose lines are bounded, if any."""
        self._name = name
        self._peer = peer
        self._fields = fields

    def bind(self, **fields: object) -> Logger:
        """This logger with fields for every event, such as the association's number."""
        return Logger(self._name, self._peer, **{**self._fields, **fields})

    def about(self, peer: str) -> Logger:
        """This logger for events that a network address causes: limits its lines a second, as configured."""
        return Logger(self._name, peer, **self._fields)

    def enabled(self, level: str) -> bool:
        """Whether events of that level are written: for fields that cost something to make."""
        return LEVELS[level] >= _output.level

    def debug(self, event: str, **fields: object) -> None:
        """Details for a developer."""
        if _output.level <= 10 and (not self._peer or _throttle.passes(self._peer)):
            _emit(10, self._name, event, {**self._fields, **fields})

    def info(self, event: str, **fields: object) -> None:
        """Normal operation, a few lines an association."""
        if _output.level <= 20 and (not self._peer or _throttle.passes(self._peer)):
            _emit(20, self._name, event, {**self._fields, **fields})

    def warning(self, event: str, **fields: object) -> None:
        """A person should look at it some day: a peer's fault, a limit reached."""
        if _output.level <= 30 and (not self._peer or _throttle.passes(self._peer)):
            _emit(30, self._name, event, {**self._fields, **fields})

    def error(self, event: str, **fields: object) -> None:
        """A person should look at it now: our fault, or the disk's."""
        if not self._peer or _throttle.passes(self._peer):
            _emit(40, self._name, event, {**self._fields, **fields})


_library = logging.getLogger("filmroom")
_library.addHandler(logging.NullHandler())


def _emit(level: int, name: str, event: str, fields: dict[str, object]) -> None:
    out = _output
    if out.stream is None:
        pairs = "".join(f" {key}={_quote(_plain(value))}" for key, value in fields.items())
        _library.getChild(name).log(level, "%s%s", event, pairs)
        return
    moment = out.now()
    if out.context:
        fields = {**out.context, **fields}
    word = next(word for word, number in LEVELS.items() if number == level)
    line = _json_line(moment, word, name, event, fields) if out.as_json else ""
    out.write(line or _console_line(moment, word, name, event, fields, _COLOURS[level] if out.coloured else ""))
    if out.keeper is None:
        return
    hidden = {key: HIDDEN for key, value in fields.items() if isinstance(value, _PatientValue)}
    if hidden or not line:
        line = _json_line(moment, word, name, event, {**fields, **hidden})
    out.keeper.append(line)


def _json_line(moment: float, level: str, name: str, event: str, fields: dict[str, object]) -> str:
    line: dict[str, Any] = {"time": f"{_clock('%Y-%m-%dT%H:%M:%S', moment)}Z", "level": level, "logger": name}
    line["event"] = _cut(event)
    for key, value in fields.items():
        line[key if key not in line else f"{key}_"] = _plain(value)
    try:
        text = orjson.dumps(line, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        # A lone surrogate (a file name that is no UTF-8), a number beyond 64 bits, a circle.
        text = orjson.dumps({key: escape(_cut(str(value))) for key, value in line.items()}).decode()
    # orjson escapes what JSON must; the rest that a terminal obeys is escaped here, in JSON's own way.
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _console_line(moment: float, level: str, name: str, event: str, fields: dict[str, object], colour: str) -> str:
    pairs = "".join(f" {key}={_quote(_plain(value))}" for key, value in fields.items())
    head = f"{level:7}"
    if colour:
        head = f"{colour}{head}\x1b[0m"
    return f"{_clock('%H:%M:%S', moment)} {head} {name}: {escape(_cut(event))}{pairs}"


def _clock(form: str, moment: float) -> str:
    return f"{time.strftime(form, time.gmtime(moment))}.{int(moment * 1000) % 1000:03d}"


def _plain(value: object) -> object:
    """A value for JSON: numbers and collections as they are, everything else as text."""
    if value is None or isinstance(value, bool | int | float | dict | list | tuple):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value[: VALUE_CHARACTERS_MAX + 1]).decode("latin-1"))
    if isinstance(value, BaseException):
        return _cut(f"{type(value).__name__}: {value}")
    return _cut(str(value))


def _quote(value: object) -> str:
    text = escape(_cut(str(value)))
    return f'"{text}"' if not text or " " in text or '"' in text else text


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}… ({len(text)} characters)"


def escape(text: str) -> str:
    """The text with control characters for terminals and line readers written as \\uXXXX."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _Bridge(logging.Handler):
    """Converts records of the standard library's logging to our form."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = record.exc_info[1]
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        level = min(40, max(10, record.levelno // 10 * 10))
        _emit(level, record.name, record.getMessage(), fields)
