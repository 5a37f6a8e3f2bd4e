"""The routes of the archive API, which are part of the route table (`web.routes`)."""

from __future__ import annotations

from typing import Any, Final

from engine.access import ARCHIVE, SERVICE, Action, Target
from engine.web import event_stream
from engine.web.api import (
    account,
    accounts,
    audit,
    configuration,
    corrections,
    deliveries,
    downloads,
    grants,
    holds,
    jobs,
    keys,
    live,
    log,
    merges,
    messages,
    oidc,
    peers,
    quarantine,
    reconciliation,
    security,
    session,
    shares,
    stats,
    studies,
    study,
    study_table,
    study_totals,
    tag_tree,
    trash,
    upkeep,
    viewer,
    workitems,
    worklist,
)
from engine.web.api.bodies import (
    Correction,
    EmptyTrash,
    Hold,
    Identifiers,
    Job,
    ManyJobs,
    PeerTable,
    ReasonBody,
    Release,
    Restore,
)
from engine.web.api.json_bodies import JSON, PAGE_PARAMETERS
from engine.web.api.study_table import CSV
from engine.web.route import API, Handler, Parameter, Route
from engine.web.workitems import WORKITEM
from engine.web.zip_archive import ZIP

_VALUES: Final = Parameter("values", "Whether to include values, which may identify patients", schema="boolean")


def _read(
    path: str,
    handler: Handler,
    summary: str,
    action: Action,
    parameters: tuple[Parameter, ...] = (),
    target: Target = SERVICE,
) -> Route:
    names_an_item = "{" in path or any(parameter.name == "rule" for parameter in parameters)
    errors = (404, 409, 410) if names_an_item else ()
    return Route(
        "GET", API + path, handler, summary, action, parameters, errors=errors, tag="archive API", target=target
    )


def _images(path: str, handler: Handler, summary: str, action: Action, parameters: tuple[Parameter, ...] = ()) -> Route:
    """A route that gives what DICOMweb gives too: studies, or what is in their instances."""
    return _read(path, handler, summary, action, parameters, ARCHIVE)


def _file(
    path: str, handler: Handler, summary: str, action: Action, parameters: tuple[Parameter, ...], media_type: str
) -> Route:
    produces = (media_type,)
    return Route(
        "GET",
        API + path,
        handler,
        summary,
        action,
        parameters,
        produces=produces,
        errors=(404,),
        tag="archive API",
        gives_files=action is Action.RETRIEVE,
        target=ARCHIVE,
    )


def _write(
    path: str,
    handler: Handler,
    summary: str,
    action: Action,
    status: int = 200,
    body: Any = ReasonBody,
    *,
    method: str = "POST",
) -> Route:
    return Route(
        method,
        API + path,
        handler,
        summary,
        action,
        consumes=(JSON,),
        statuses=(200, 201) if method == "PUT" else (status,),
        errors=(404, 409, 410),
        tag="archive API",
        body=body,
    )


def _account(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    action: Action | None = None,
    *,
    body: Any = None,
    status: int = 200,
    is_open: bool = False,
) -> Route:
    """A route of the accounts; without an action it is for whoever has logged in, or for everybody if it `is_open`."""
    return Route(
        method,
        API + path,
        handler,
        summary,
        action,
        consumes=(JSON,) if body is not None else (),
        statuses=(status,),
        errors=(401, 404, 409, 429),
        tag="accounts",
        body=body,
        needs_login=action is None and not is_open,
    )


ACCOUNT_ROUTES: Final = (
    _account("GET", "/session", session.show, "Who is logged in", is_open=True),
    _account("POST", "/session", session.log_in, "Log in with a password", body=session.Login, is_open=True),
    _account("DELETE", "/session", session.log_out, "Log out", is_open=True),
    _account("POST", "/session/passkey/options", session.passkey_options, "Begin to log in by passkey", is_open=True),
    _account("POST", "/session/passkey", session.passkey, "Log in by passkey", body=session.PasskeyLogin, is_open=True),
    _account("POST", "/welcome", session.welcome, "Follow a link for a password", body=session.Welcome, is_open=True),
    _account("POST", "/share-session", session.open_share, "Open a shared link", body=session.ShareLogin, is_open=True),
    _account("GET", "/account", account.show, "One's own account"),
    _account("POST", "/account/password", account.password, "Change one's password", body=account.NewPassword),
    _account("POST", "/account/totp", account.totp, "Switch codes of an authenticator on", body=account.NewTotp),
    _account("POST", "/account/totp/off", account.totp_off, "Switch them off", body=account.Confirmed),
    _account("POST", "/account/passkeys/options", account.passkey_options, "Begin to make a passkey"),
    _account("POST", "/account/passkeys", account.passkey, "Add a passkey", body=account.NewPasskey, status=201),
    _account("DELETE", "/account/passkeys/{id}", account.passkey_remove, "Remove a passkey"),
    _account("DELETE", "/account/sessions/{id}", account.session_end, "End a session of one's own"),
    _account("GET", "/users", accounts.listed, "The users", Action.ADMINISTER),
    _account("POST", "/users", accounts.add, "Add a user", Action.ADMINISTER, body=accounts.NewUser, status=201),
    _account("GET", "/users/{name}", accounts.one, "One user", Action.ADMINISTER),
    _account("PATCH", "/users/{name}", accounts.change, "Change a user", Action.ADMINISTER, body=accounts.ChangedUser),
    _account("DELETE", "/users/{name}", accounts.remove, "Remove a user", Action.ADMINISTER),
    _account(
        "POST",
        "/users/{name}/link",
        accounts.link,
        "A link for a new password",
        Action.ADMINISTER,
        body=ReasonBody,
        status=201,
    ),
    _account("DELETE", "/users/{name}/sessions", accounts.sessions_end, "End a user's sessions", Action.ADMINISTER),
    _account("DELETE", "/users/{name}/sessions/{id}", accounts.session_end, "End a session", Action.ADMINISTER),
    _account("GET", "/roles", accounts.roles, "The roles in force", Action.ADMINISTER),
    _account("GET", "/keys", keys.listed, "API keys"),
    _account("POST", "/keys", keys.add, "Make an API key", body=keys.NewKey, status=201),
    _account("DELETE", "/keys/{id}", keys.revoke, "Revoke an API key"),
    _account("GET", "/shares", shares.listed, "Shared links", Action.SHARE),
    _account("POST", "/shares", shares.add, "Share studies", Action.SHARE, body=shares.NewShare, status=201),
    _account("DELETE", "/shares/{id}", shares.revoke, "Revoke a shared link", Action.SHARE),
    _account("GET", "/grants", grants.listed, "Grants, and emergency accesses"),
    _account("POST", "/grants", grants.add, "Grant studies", Action.ADMINISTER, body=grants.NewGrant, status=201),
    _account("DELETE", "/grants/{id}", grants.revoke, "End a grant"),
    _account("POST", "/grants/{id}/review", grants.review, "Note a review", Action.AUDIT, body=ReasonBody),
    _account(
        "POST",
        "/break-glass",
        grants.break_glass,
        "Emergency access",
        Action.BREAK_GLASS,
        body=grants.BreakGlass,
        status=201,
    ),
)

API_ROUTES: Final = (
    *ACCOUNT_ROUTES,
    *oidc.ROUTES,
    _images("/studies", studies.window, "A sorted window of studies", Action.QUERY, studies.PARAMETERS),
    _images("/studies/totals", study_totals.totals, "Studies, instances and bytes that match", Action.QUERY),
    _read("/studies/{study}", study.one, "State, size, senders, hold, conflicts, corrections of a study", Action.QUERY),
    _file("/studies.csv", study_table.table, "A table of studies", Action.QUERY, study_table.PARAMETERS, CSV),
    _file("/download", downloads.download, "Any choice as a zip archive", Action.RETRIEVE, downloads.PARAMETERS, ZIP),
    _images("/instances/{instance}/tags", tag_tree.tree, "Elements of an instance as a tree", Action.RETRIEVE),
    _read("/peers", peers.listed, "The configured archives and devices", Action.OBSERVE),
    _read("/destinations", peers.destinations, "The peers to which one can send", Action.SEND),
    _write("/peers/{title}/echo", peers.echo, "Whether a peer answers", Action.OBSERVE),
    _write("/peers/{title}", peers.put, "Add or replace a peer", Action.CONFIGURE, 200, PeerTable, method="PUT"),
    Route(
        "DELETE",
        API + "/peers/{title}",
        peers.remove,
        "Remove a peer that was added here",
        Action.CONFIGURE,
        errors=(404, 409),
        tag="archive API",
    ),
    _read("/jobs", jobs.listed, "Send and pull jobs", Action.OBSERVE, jobs.PARAMETERS),
    # Whoever may send sees and ends what he sends; the handlers say who may do more.
    _write("/jobs", jobs.create, "Send or pull in the background", Action.QUERY, 201, Job),
    _read("/jobs/{id}", jobs.one, "One job, with its failed instances", Action.QUERY),
    _write("/jobs/{id}/cancel", jobs.cancel, "End a job", Action.QUERY, 202),
    _write("/jobs/{id}/retry", jobs.retry, "Retry a failed job", Action.QUERY, 202),
    _write("/jobs/cancel", jobs.cancel_many, "End several jobs", Action.MANAGE, 202, ManyJobs),
    _write("/jobs/retry", jobs.retry_many, "Retry several jobs", Action.MANAGE, 202, ManyJobs),
    _read("/commitments", deliveries.commitments, "Commitment reports that wait", Action.OBSERVE, PAGE_PARAMETERS),
    _write("/commitments/retry", deliveries.commitments_retry, "Send reports now", Action.MANAGE, 202, Identifiers),
    _write("/commitments/{id}/drop", deliveries.commitment_drop, "Drop a report", Action.MANAGE),
    _read("/webhooks", deliveries.webhooks, "The webhooks and their progress", Action.OBSERVE),
    _write("/webhooks/{id}/resume", deliveries.webhook_resume, "Resume a webhook", Action.MANAGE, 202),
    _read("/outbox", deliveries.outbox, "The receivers of routes and rules", Action.OBSERVE),
    _write("/outbox/{id}/resume", deliveries.outbox_resume, "Resume a receiver", Action.MANAGE, 202),
    _write("/outbox/{id}/resend", deliveries.outbox_resend, "Try once more what was set aside", Action.MANAGE, 202),
    _read("/worklist", worklist.listed, "Scheduled steps", Action.WORKLIST, worklist.PARAMETERS),
    _read("/worklist/stations", worklist.stations, "Who asked for a worklist", Action.WORKLIST),
    _read("/worklist/why", worklist.why, "Why a list is empty", Action.WORKLIST, worklist.WHY_PARAMETERS),
    _read("/worklist/steps/{step}", worklist.step, "A scheduled step, with what was done of it", Action.WORKLIST),
    _read("/workitems", workitems.listed, "Workitems, by their start", Action.WORKITEM, workitems.PARAMETERS),
    _read(
        "/workitems/{workitem}", workitems.one, "A workitem, its history and its steps", Action.WORKITEM, (WORKITEM,)
    ),
    _read("/messages", messages.listed, "HL7 messages, the newest first", Action.MANAGE, messages.PARAMETERS),
    _read("/messages/{number}", messages.one, "One message, and what it did", Action.MANAGE),
    _write("/messages/{number}/replay", messages.replay, "Apply a message again", Action.CORRECT),
    _read("/reconciliation", reconciliation.listed, "What does not fit", Action.WORKLIST, reconciliation.PARAMETERS),
    _read(
        "/reconciliation/studies/{study}", reconciliation.of_study, "A study's links, and proposals", Action.WORKLIST
    ),
    _read("/merges", merges.listed, "Merges of patients that messages have said", Action.WORKLIST, merges.PARAMETERS),
    _write("/merges/{number}/undo", merges.undo, "Undo such a merge", Action.CORRECT),
    _write("/reconciliation/link", reconciliation.link, "Link a study", Action.CORRECT, body=reconciliation.Link),
    _write("/reconciliation/unlink", reconciliation.unlink, "Undo a link", Action.CORRECT, body=reconciliation.Link),
    _read("/holds", holds.listed, "Legal holds", Action.OBSERVE),
    _write("/holds", holds.hold, "Hold studies", Action.HOLD, body=Hold),
    _write("/holds/release", holds.release, "End holds", Action.HOLD, body=Release),
    _read("/trash", trash.listed, "Deletions that can be taken back", Action.RESTORE, (_VALUES, *PAGE_PARAMETERS)),
    _write("/trash/{number}/restore", trash.restore, "Restore from the trash", Action.RESTORE, body=Restore),
    _write("/trash/empty", trash.empty, "Delete for good what is in the trash", Action.EMPTY, body=EmptyTrash),
    _read("/corrections", corrections.listed, "Corrections and undos", Action.OBSERVE, (_VALUES, *PAGE_PARAMETERS)),
    _write("/corrections", corrections.make, "Make a correction", Action.CORRECT, 201, Correction),
    _write("/corrections/{number}/undo", corrections.undo, "Undo a correction", Action.CORRECT, 201),
    _read(
        "/conflicts",
        corrections.conflicts,
        "Disagreeing instances",
        Action.OBSERVE,
        (_VALUES, *PAGE_PARAMETERS),
    ),
    _read("/quarantine", quarantine.listed, "Items in quarantine", Action.OBSERVE, PAGE_PARAMETERS),
    _read("/quarantine/{id}/differences", quarantine.differences, "How a version differs", Action.RETRIEVE),
    _write("/quarantine/{id}/readmit", quarantine.readmit, "Store an item in the archive", Action.MANAGE),
    _write("/quarantine/{id}/drop", quarantine.drop, "Delete an item from quarantine", Action.DELETE),
    _read(
        "/retention",
        upkeep.retention,
        "Studies that retention would delete now",
        Action.OBSERVE,
        (Parameter("rule", "Only this rule"), *PAGE_PARAMETERS),
    ),
    _read("/scrub", upkeep.scrub, "Progress of the scrub", Action.OBSERVE),
    _read("/damage", upkeep.damage, "Damaged and lost instances", Action.OBSERVE, PAGE_PARAMETERS),
    _read("/backups", upkeep.backups, "Age and last verification of backups", Action.OBSERVE),
    _read(
        "/stats/history",
        stats.history,
        "Statistics of the last days",
        Action.OBSERVE,
        (Parameter("step", "minute or hour", options=("minute", "hour")), Parameter("since", "Seconds since 1970")),
    ),
    Route(
        "GET",
        API + "/live",
        live.live,
        "What the server does now, and whether all is well",
        Action.OBSERVE,
        produces=(JSON, event_stream.MEDIA_TYPE),
        tag="archive API",
    ),
    _read("/stats", stats.now, "Statistics of all processes", Action.OBSERVE),
    _read("/audit", audit.listed, "Who did what with whose data", Action.AUDIT, audit.PARAMETERS),
    _read("/audit/verify", audit.verified, "Whether the audit log is as it was written", Action.AUDIT),
    _read("/log", log.listed, "The newest events of the log", Action.MANAGE, log.PARAMETERS),
    _read("/viewer", viewer.state, "Whether the viewer OHIF is installed", Action.QUERY),
    _read("/security", security.findings, "How safe the configuration in force is", Action.OBSERVE),
    _read("/settings", configuration.listed, "The configuration in force", Action.OBSERVE),
)
