"""Examines the object store: whether it keeps what the archive relies on, and whether a server brings it up to date.

The checks write some megabytes, as `filmroom object-store check`. Without them only its answer is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine import control
from engine.archive.layout import existing
from engine.archive.tiering import by_hand
from engine.config import Config
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import ControlUnavailable, EngineError
from engine.objects import checks
from engine.objects.client import ObjectClient
from engine.objects.settings import ObjectStore
from engine.sizes import bytes_text

_SUBJECT = "object store"
BACKLOG_AGE_S_MAX = 86_400.0
"""As on the page: an upload that is a day late needs another schedule, or a better line."""
_CHECK_ADVICE = "run `filmroom object-store check` again when it is mended"


def examine(config: Config, *, with_checks: bool) -> Iterator[Finding]:
    """Nothing if the archive has no object store."""
    settings = config.object_store
    if not (config.data / "archive.json").exists():
        if settings.url:
            yield from _store(settings, with_checks=with_checks)
        return
    layout = existing(config.data)
    noted = by_hand.settings_of(layout, settings)
    if not noted.url:
        return
    if not settings.url:
        advice = "set it, or the bucket grows old; `filmroom object-store fetch` brings home what is only there"
        yield warning(_SUBJECT, f"this archive has a copy in {noted.url}, and [object_store] has no url", advice)
    yield from _store(noted, with_checks=with_checks)
    if settings.url:
        yield from _shipping(config, by_hand.status(layout, settings))


def _store(settings: ObjectStore, *, with_checks: bool) -> Iterator[Finding]:
    try:
        client = ObjectClient(settings)
        if not with_checks:
            client.folders()
            yield good(_SUBJECT, f"{settings.url} answers")
            return
        found = checks.check(client, "check")
    except EngineError as error:
        yield fault(_SUBJECT, str(error), "look at its address, its credentials and the line")
        return
    for each in found:
        if each.result == checks.FAILED:
            yield fault(_SUBJECT, f"{each.name}: {each.text}", _CHECK_ADVICE)
        elif each.result == checks.WARNING:
            yield warning(_SUBJECT, f"{each.name}: {each.text}", _CHECK_ADVICE)
    if not checks.has_failed(found):
        yield good(_SUBJECT, f"{settings.url} answers, and keeps what the archive relies on")


def _shipping(config: Config, status: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        stats = control.request(config.data, {"command": "stats"})
    except ControlUnavailable:
        yield from _without_server(status)
        return
    except EngineError:
        return  # the archive's own examination says it
    caretaker = stats.get("caretaker") or {}
    state = caretaker.get("object_store") or {}
    if not state.get("enabled"):
        reason = caretaker.get("not_started") or "it has not begun to"
        yield fault(_SUBJECT, f"the server brings nothing there: {reason}", "restart it, and read its log")
        return
    waiting = _waiting(state["backlog_segments"], state["backlog_bytes"], state["tail_lag_bytes"])
    figures = {"backlog_bytes": float(state["backlog_bytes"]), "away_s": float(state["away_s"])}
    if state["state"] == "fenced":
        advice = "another machine was restored from this bucket and goes on with it: stop one of both"
        if (caretaker.get("cluster") or {}).get("enabled"):
            advice = "this node was taken over or removed, or its folder is used twice: see `filmroom cluster status`"
        yield fault(_SUBJECT, f"the server ships no more: {state['error']}", advice, **figures)
    elif state["is_alarming"]:
        advice = "nothing is lost yet: mend the line or what does not answer"
        yield fault(_SUBJECT, f"{state['error']}; {waiting}", advice, **figures)
    elif state["error"]:
        yield warning(_SUBJECT, f"{state['error']}; {waiting}", "it is tried again; storing goes on", **figures)
    elif state["backlog_age_s"] > BACKLOG_AGE_S_MAX:
        what = f"{waiting}, the oldest for {state['backlog_age_s'] / 3600:.0f} h"
        yield warning(_SUBJECT, what, "allow more in object_store.upload_schedule, or look at the line", **figures)
    else:
        what = f"full segments there: {state['published_segments']}; {waiting}"
        yield good(_SUBJECT, what, **figures)


def _without_server(status: Mapping[str, Any]) -> Iterator[Finding]:
    count, size = status["waiting_segments"], status["waiting_bytes"]
    what = f"no server runs; {_waiting(count, size, status['waiting_record_bytes'])}"
    if count or status["waiting_record_bytes"] != 0:
        yield warning(_SUBJECT, what, "start the server, or run `filmroom object-store publish`", backlog_bytes=size)
    else:
        yield good(_SUBJECT, what, backlog_bytes=size)


def _waiting(segments: int, segment_bytes: int, record_bytes: int | None) -> str:
    """What is not in the bucket, in words."""
    parts = [f"full segments waiting: {segments} ({bytes_text(segment_bytes)})"] if segments else []
    if record_bytes is None:
        parts.append("new records waiting: not known")
    elif record_bytes:
        parts.append(f"new records waiting: {bytes_text(record_bytes)}")
    return ", ".join(parts) or "nothing waits"
