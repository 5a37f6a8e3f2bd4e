"""The routes of the archive API, a part of the one table (`web.routes`)."""

from __future__ import annotations

from typing import Any, Final

from engine.access import Action
from engine.web.api import configuration, corrections, holds, jobs, peers, quarantine, stats, studies, tag_tree, upkeep
from engine.web.api.bodies import Correction, Given, Hold, Job, Release
from engine.web.api.json_bodies import JSON, PAGE_PARAMETERS
from engine.web.route import API, Handler, Parameter, Route

_VALUES: Final = Parameter("values", "Whether values are told too, which may be a patient's", schema="boolean")


def _read(path: str, handler: Handler, summary: str, action: Action, parameters: tuple[Parameter, ...] = ()) -> Route:
    is_of_one = "{" in path or any(parameter.name == "rule" for parameter in parameters)
    errors = (404, 409, 410) if is_of_one else ()
    return Route("GET", API + path, handler, summary, action, parameters, errors=errors, tag="archive API")


def _write(path: str, handler: Handler, summary: str, action: Action, status: int = 200, body: Any = Given) -> Route:
    return Route(
        "POST",
        API + path,
        handler,
        summary,
        action,
        consumes=(JSON,),
        statuses=(status,),
        errors=(404, 409, 410),
        tag="archive API",
        body=body,
    )


API_ROUTES: Final = (
    _read("/studies", studies.window, "Studies in an order, a window at a time", Action.QUERY, studies.PARAMETERS),
    _read("/instances/{instance}/tags", tag_tree.tree, "Elements of an instance as a tree", Action.RETRIEVE),
    _read("/peers", peers.listed, "Archives and devices that are known here", Action.OBSERVE),
    _write("/peers/{title}/echo", peers.echo, "Whether a peer answers", Action.OBSERVE),
    _read("/jobs", jobs.listed, "What is sent and pulled in the background", Action.OBSERVE, jobs.PARAMETERS),
    _write("/jobs", jobs.create, "Send or pull in the background", Action.MANAGE, 201, Job),
    _read("/jobs/{id}", jobs.one, "One job, with what failed", Action.OBSERVE),
    _write("/jobs/{id}/cancel", jobs.cancel, "End a job", Action.MANAGE, 202),
    _write("/jobs/{id}/retry", jobs.retry, "Try a job again that has failed", Action.MANAGE, 202),
    _read("/holds", holds.listed, "Legal holds", Action.OBSERVE),
    _write("/holds", holds.hold, "Hold studies", Action.HOLD, body=Hold),
    _write("/holds/release", holds.release, "End holds", Action.HOLD, body=Release),
    _read("/corrections", corrections.listed, "Corrections and undos", Action.OBSERVE, (_VALUES, *PAGE_PARAMETERS)),
    _write("/corrections", corrections.make, "Make a correction", Action.CORRECT, 201, Correction),
    _write("/corrections/{number}/undo", corrections.undo, "Take a correction back", Action.CORRECT, 201),
    _read("/conflicts", corrections.conflicts, "Where instances disagree", Action.OBSERVE, (_VALUES, *PAGE_PARAMETERS)),
    _read("/quarantine", quarantine.listed, "What is in quarantine", Action.OBSERVE, PAGE_PARAMETERS),
    _read("/quarantine/{id}/differences", quarantine.differences, "How a version differs", Action.RETRIEVE),
    _write("/quarantine/{id}/readmit", quarantine.readmit, "Take one into the archive", Action.MANAGE),
    _write("/quarantine/{id}/drop", quarantine.drop, "Delete one from quarantine", Action.DELETE),
    _read(
        "/retention",
        upkeep.retention,
        "What retention would delete now",
        Action.OBSERVE,
        (Parameter("rule", "Only this rule"), *PAGE_PARAMETERS),
    ),
    _read("/scrub", upkeep.scrub, "How far the scrub is", Action.OBSERVE),
    _read("/damage", upkeep.damage, "What is damaged or lost", Action.OBSERVE, PAGE_PARAMETERS),
    _read("/backups", upkeep.backups, "How old backups are, and when they were verified", Action.OBSERVE),
    _read(
        "/stats/history",
        stats.history,
        "What the server did in the last days",
        Action.OBSERVE,
        (Parameter("step", "minute or hour", options=("minute", "hour")), Parameter("since", "Seconds since 1970")),
    ),
    _read("/stats", stats.now, "Figures of all processes", Action.OBSERVE),
    _read("/settings", configuration.listed, "The configuration in force", Action.OBSERVE),
)
