"""/fhir/Subscription and /fhir/SubscriptionTopic: who wants to be told of what.

    GET    /fhir/SubscriptionTopic, /fhir/SubscriptionTopic/{id}     the topics, in R5
    POST   /fhir/Subscription                                        201: it is requested; the handshake follows
    GET    /fhir/Subscription, /fhir/Subscription/{id}               one's own; an administrator sees all
    PUT    /fhir/Subscription/{id}                                   as it shall be; `off` stops it, `requested` resumes
    DELETE /fhir/Subscription/{id}                                   204
    GET    /fhir/Subscription/{id}/$status, /fhir/Subscription/$status?id=…
    GET    /fhir/Subscription/{id}/$events?eventsSinceNumber=…&eventsUntilNumber=…
    GET    /fhir/Subscription/{id}/$get-ws-binding-token             see `subscription_channel`

R4 by the Subscriptions R5 Backport guide, R5 by `fhirVersion=5.0` in Content-Type or Accept. Somebody else's
subscription does not exist. One that a share or a token without the scope asks for is refused.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import orjson
from aiohttp import web

from engine.access import Action, Records
from engine.accounts.proof import KEY
from engine.archive.subscriptions import FILE_BYTES_MAX, Subscription
from engine.errors import FeedMissing, NotAllowed, RequestError
from engine.fhir import bundle
from engine.fhir.notification import notification, status_resource
from engine.fhir.release import Release, release_of
from engine.fhir.subscription import read, subscription
from engine.fhir.subscription_search import ID, STATUS, SUBSCRIPTION, TOPIC
from engine.fhir.subscription_topic import TOPICS, subscription_topic
from engine.web.errors import HttpError, NotFound, Unavailable, UnsupportedMediaType
from engine.web.fhir import subscription_matches, subscription_state
from engine.web.fhir.answers import answer, asked_release, root_of
from engine.web.fhir.notifying import is_receiver
from engine.web.fhir.parameters import page_url, search_of

if TYPE_CHECKING:
    from engine.archive.subscription_events import Numbered, SubscriptionEvents
    from engine.archive.subscriptions import SubscriptionFiles
    from engine.fhir.datatypes import Json
    from engine.fhir.subscription import Standing, Wanted
    from engine.web.request import Request

EVENTS_MAX: Final = 200
"""Events in one answer of $events: a client asks again behind the last one."""
TYPES: Final = ("application/fhir+json", "application/json")
_KIND: Final = "Subscription"


# -- topics ---------------------------------------------------------------------------------------


async def search_topics(request: Request) -> web.Response:
    """All topics. Raises HttpError (406) for R4, which has no such resource."""
    release = _r5_of(request)
    wanted = request.query.get("url", "")
    found = [subscription_topic(each) for each in TOPICS.values() if wanted in ("", each.url)]
    links = [("self", f"{root_of(request)}/SubscriptionTopic")]
    return answer(request, bundle.searchset(found, [], links, root_of(request), len(found)), release)


async def read_topic(request: Request) -> web.Response:
    """One topic. Raises NotFound, HttpError (406)."""
    release, topic = _r5_of(request), TOPICS.get(request.path_values["id"])
    if topic is None:
        raise NotFound("there is no such topic")
    return answer(request, subscription_topic(topic), release)


def _r5_of(request: Request) -> Release:
    release = asked_release(request)
    if release is not Release.R5:
        raise HttpError(406, "R4 has no SubscriptionTopic: ask for fhirVersion=5.0; metadata lists the topics for R4")
    return release


# -- subscriptions --------------------------------------------------------------------------------


async def create(request: Request) -> web.Response:
    """Keeps a subscription. Raises RequestError, NotAllowed, JobsFull, Unavailable."""
    release, wanted = await _wanted_of(request)
    try:
        since = str(await request.engine.pools.reads.run(request.engine.archive.feed().newest))
    except FeedMissing as error:
        raise Unavailable(str(error)) from None
    made = _made(request, wanted, release, _files(request).new_id(), since)
    await request.engine.pools.reads.run(partial(_files(request).add, made))
    response = answer(request, _resource(made, None, release), release)
    response.set_status(201)
    response.headers["Location"] = f"{root_of(request)}/{_KIND}/{made.id}"
    return response


async def update(request: Request) -> web.Response:
    """Keeps it in another form. Raises RequestError, NotAllowed, NotFound."""
    before = await owned(request)
    if before.by != request.principal.actor:
        raise NotAllowed("a subscription of somebody else")
    release, wanted = await _wanted_of(request)
    made = msgspec.structs.replace(
        _made(request, wanted, release, before.id, before.since),
        created_s=before.created_s,
        revision=before.revision + 1,
    )
    if made.topic != before.topic:
        raise HttpError(422, "the topic of a subscription stays: make another one")
    await request.engine.pools.reads.run(partial(_files(request).replace, made))
    return answer(request, await _shown(request, made, release), release)


async def read_one(request: Request) -> web.Response:
    """One of them. Raises NotFound."""
    release, found = asked_release(request), await owned(request)
    return answer(request, await _shown(request, found, release), release)


async def delete(request: Request) -> web.Response:
    """Forgets one. Raises NotFound."""
    found = await owned(request)
    await request.engine.pools.reads.run(partial(_files(request).remove, found.id))
    return web.Response(status=204)


async def search(request: Request) -> web.Response:
    """Those of who asks; all for an administrator. Raises RequestError."""
    release, asked = asked_release(request), await search_of(request, SUBSCRIPTION)
    found = []
    for each in await _visible(request):
        resource = await _shown(request, each, release)
        is_wanted = (
            each.id in asked.values.get(ID, (each.id,))
            and resource["status"] in asked.values.get(STATUS, (resource["status"],))
            and TOPICS[each.topic].url in asked.values.get(TOPIC, (TOPICS[each.topic].url,))
        )
        found += [resource] if is_wanted else []
    links = [("self", page_url(request, _KIND, None))]
    total = len(found)
    return answer(request, bundle.searchset(found[: asked.count], [], links, root_of(request), total), release)


async def status(request: Request) -> web.Response:
    """The state of one, or of those that are named. Raises NotFound."""
    release = asked_release(request)
    if "id" in request.path_values:
        chosen = [await owned(request)]
    else:
        ids = request.query.getall("id", ())
        chosen = [each for each in await _visible(request) if not ids or each.id in ids]
    found = []
    for each in chosen:
        standing = await _standing(request, each)
        last = await request.engine.pools.reads.run(_events(request, each).last)
        state = subscription_state.status_of(each, standing, last)
        found.append(status_resource(state, "query-status", (), root_of(request), release))
    links = [("self", f"{root_of(request)}/{_KIND}/$status")]
    return answer(request, bundle.searchset(found, [], links, root_of(request), len(found)), release)


async def events(request: Request) -> web.Response:
    """Events again that have their numbers. Raises NotFound, RequestError."""
    release, found = asked_release(request), await owned(request)
    since, until = _number(request, "eventsSinceNumber", 1), _number(request, "eventsUntilNumber", 1 << 62)
    content = request.query.get("content", found.content)
    if content not in ("empty", "id-only"):
        raise RequestError("content: must be empty or id-only")
    kept = _events(request, found)

    def rows() -> tuple[list[Numbered], int]:
        """What its client and whoever asks may both see now."""
        view = subscription_matches.view_of(request.engine, found)
        target = Records(TOPICS[found.topic].kind, "s")
        own = request.engine.archive.view(request.engine.access.scope(request.principal, Action.QUERY, target))
        chosen: list[Numbered] = []
        for row in kept.after(since - 1):
            if row.number > until or len(chosen) >= EVENTS_MAX:
                break
            if all(subscription_matches.may_be_told(each, found, row.id) for each in (view, own)):
                chosen.append(row)
        return chosen, kept.last()

    chosen, last = await request.engine.pools.index.run(rows)
    standing = await _standing(request, found)
    shown = msgspec.structs.replace(found, content=content)
    resource = notification(
        subscription_state.status_of(found, standing, last),
        "query-event",
        [subscription_state.told(shown, row) for row in chosen],
        root_of(request),
        release,
        str(uuid.uuid4()),
        datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    return answer(request, resource, release)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError(f"{name}: is not the number of an event")
    return int(text)


# -- inside ---------------------------------------------------------------------------------------


async def _wanted_of(request: Request) -> tuple[Release, Wanted]:
    """What the body asks for, if whoever asks may have it."""
    if request.principal.share:
        raise NotAllowed("a share is not told of anything")
    content_type = request.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() not in TYPES:
        raise UnsupportedMediaType(f"the body must be {TYPES[0]}")
    release = release_of(content_type) if "fhirversion" in content_type.lower() else asked_release(request)
    body = await request.body()
    if len(body) > FILE_BYTES_MAX // 2:
        raise RequestError("the resource is too long")
    try:
        resource = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError("the body is not JSON") from None
    wanted = read(resource, release, root_of(request))
    request.require(Action.QUERY, Records(wanted.topic.kind, "s"))
    if wanted.endpoint and not is_receiver(wanted.endpoint, request.config.fhir):
        raise HttpError(422, "this server sends nothing to that address: fhir.notify does not have it")
    return release, wanted


def _made(request: Request, wanted: Wanted, release: Release, identifier: str, since: str) -> Subscription:
    who = request.principal
    return Subscription(
        id=identifier,
        by=who.actor,
        created_s=datetime.now(UTC).timestamp(),
        topic=wanted.topic.name,
        channel=wanted.channel,
        since=since,
        filters=wanted.filters,
        endpoint=wanted.endpoint,
        headers=wanted.headers,
        content=wanted.content,
        heartbeat_s=wanted.heartbeat_s,
        timeout_s=wanted.timeout_s,
        end=wanted.end,
        reason=wanted.reason,
        release=release.value,
        name=who.name,
        address=who.address,
        session=who.session if who.session.startswith(KEY) else "",
        roles=tuple(sorted(who.roles)),
        attributes=dict(who.attributes),
        root=request.root,
        is_off=wanted.is_off,
    )


async def _visible(request: Request) -> list[Subscription]:
    kept = await request.engine.pools.reads.run(_files(request).all)
    return [each for each in kept if each.topic in TOPICS and _may_see(request, each)]


def _may_see(request: Request, found: Subscription) -> bool:
    return found.by == request.principal.actor or bool(request.allowed(Action.ADMINISTER))


async def owned(request: Request) -> Subscription:
    """The one of the path. Raises NotFound."""
    load = partial(_files(request).load, request.path_values["id"])
    found = await request.engine.pools.reads.run(load)
    if found is None or found.topic not in TOPICS or not _may_see(request, found):
        raise NotFound("there is no such subscription")
    return found


async def _standing(request: Request, found: Subscription) -> Standing:
    standings = request.engine.archive.subscription_standings()
    progress = await request.engine.pools.reads.run(partial(standings.load, found.id))
    return subscription_state.standing_of(found, progress)


async def _shown(request: Request, found: Subscription, release: Release) -> Json:
    """The resource; the values of its headers, which may be secrets, only for whoever set them."""
    standing = await _standing(request, found)
    return _resource(found, standing, release, is_owner=found.by == request.principal.actor)


def _resource(found: Subscription, standing: Standing | None, release: Release, *, is_owner: bool = True) -> Json:
    wanted = subscription_state.wanted_of(
        found if is_owner else msgspec.structs.replace(found, headers=tuple((name, "…") for name, _ in found.headers))
    )
    return subscription(wanted, found.id, standing or subscription_state.standing_of(found, None), release)


def _files(request: Request) -> SubscriptionFiles:
    return request.engine.archive.subscription_files()


def _events(request: Request, found: Subscription) -> SubscriptionEvents:
    return _files(request).events(found.id)
