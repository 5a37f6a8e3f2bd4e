"""Examines how HL7 messages are received: who may send, and whether they are applied.

Profiles are checked when the server starts: it does not start with a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine import control
from engine.access.networks import is_loopback
from engine.config import Config
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import ControlUnavailable, EngineError

_SUBJECT = "hl7"


def examine(config: Config) -> Iterator[Finding]:
    """Nothing without an [[hl7_listener]]."""
    if not config.hl7_listeners:
        return
    yield from _openness(config)
    yield from _state(config)


def _openness(config: Config) -> Iterator[Finding]:
    if all(is_loopback(listener.host) for listener in config.hl7_listeners):
        return
    bare = [source.name for source in config.hl7_sources if not source.hosts and not source.certificates]
    if config.hl7.accept_unknown_sources is True:
        yield warning(_SUBJECT, "everybody who reaches the port may change patients", "describe each [[hl7_source]]")
    elif bare:
        advice = "name its hosts, or use TLS and name its certificates"
        yield warning(_SUBJECT, f"anybody may send as {', '.join(bare)}", advice)
    elif config.hl7_sources:
        yield good(_SUBJECT, f"{len(config.hl7_sources)} described sources may send")
    elif config.hl7.accept_unknown_sources == "loopback":
        yield good(_SUBJECT, "only programs on this machine may send: there is no [[hl7_source]]")
    else:
        yield warning(_SUBJECT, "nobody may send", "describe each system that sends as an [[hl7_source]]")


def _state(config: Config) -> Iterator[Finding]:
    try:
        state = control.request(config.data, {"command": "stats"}).get("messages") or {}
    except ControlUnavailable:
        return
    except EngineError as error:
        yield warning(_SUBJECT, f"the server does not say how it is: {error}", "see its log")
        return
    if "counters" not in state:
        reason = state.get("not_started") or "its process does not answer"
        yield fault(_SUBJECT, f"messages are not received: {reason}", "see the log")
    elif state["stalled"]:
        yield fault(
            _SUBJECT, f"{state['waiting']} messages wait: {state['stalled']}", "they are applied when it works again"
        )
    else:
        yield good(_SUBJECT, f"{state['last_number']} messages in the journal, {state['waiting']} wait to be applied")
