"""The stored instances that the path of a request names, or the reason why there are none."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from engine.access import Action
from engine.web.errors import Gone, NotFound, TooLarge
from engine.web.route import DICOMWEB
from engine.web.urls import segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.archive.retrieve import Instance
    from engine.web.request import Request

INSTANCES_MAX: Final = 50_000
"""Instances in one answer: their list takes 30 MB. Perfusion and diffusion studies have some ten thousand."""

UID_CHARACTERS_MAX: Final = 128
"""The standard has 64; old archives hold longer ones."""

_UID: Final = re.compile(rf"[ -~]{{1,{UID_CHARACTERS_MAX}}}")
_WILDCARDS: Final = re.compile(r"[*?\\]")


def uid_of(request: Request, name: str) -> str:
    """A UID of the path. Raises NotFound for a text that cannot be a UID."""
    uid = request.path_values[name]
    if not _UID.fullmatch(uid) or _WILDCARDS.search(uid):
        raise NotFound("the path has a segment that is not a UID")
    return uid


def instance_of(request: Request) -> Instance:
    """The instance that the path names, in its series and study. Raises NotFound, Gone."""
    study, series, uid = (uid_of(request, name) for name in ("study", "series", "instance"))
    return named_instance(request, study, series, uid)


def named_instance(request: Request, study: str, series: str, uid: str) -> Instance:
    """The instance with these UIDs. Raises NotFound, Gone."""
    view = request.view(Action.RETRIEVE)
    instance = view.instance(uid)
    if instance is None:
        if view.was_deleted(uid):
            raise Gone(f"instance {uid} was deleted")
        raise NotFound(f"there is no instance {uid}")
    if (instance.study_instance_uid, instance.series_instance_uid) != (study, series):
        raise NotFound(f"instance {uid} is in another series")
    return instance


async def instances_of(request: Request) -> list[Instance]:
    """The instances of the study, or of the series, that the path names. Raises NotFound, Gone, TooLarge."""
    study = uid_of(request, "study")
    series = uid_of(request, "series") if "series" in request.path_values else None
    view = request.view(Action.RETRIEVE)

    def read() -> list[Instance]:
        with view.contents(study, series) as selection:
            while selection.gather():
                if len(selection) > INSTANCES_MAX:
                    raise TooLarge(f"more than {INSTANCES_MAX} instances: retrieve the series or instances one by one")
            return [instance for batch in selection.batches() for instance in batch]

    instances = await request.engine.pools.index.run(read)
    if not instances:
        raise missing(request, study, series)
    return instances


def missing(request: Request, study: str, series: str | None) -> NotFound | Gone:
    """The error for a study or series without instances."""
    name = f"study {study}" if series is None else f"series {series}"
    if request.view(Action.RETRIEVE).was_entity_deleted(study, series):
        return Gone(f"{name} was deleted")
    return NotFound(f"there is no {name}")


@contextmanager
def pinned(request: Request, instances: Sequence[Instance]) -> Iterator[None]:
    """Keeps instances readable within the context, even if they are deleted meanwhile."""
    with request.engine.archive.retrieval.pin({instance.position.segment_id for instance in instances}):
        yield


async def check_reachable(request: Request, instances: Sequence[Instance]) -> None:
    """Call it before an answer of many instances begins: what is in an archive class would break it off.

    Raises StoreUnreachable: 503, with a time.
    """
    retrieval = request.engine.archive.retrieval
    if away := retrieval.elsewhere(instances):
        await request.engine.pools.reads.run(partial(retrieval.check_reachable, away))


def url_of(request: Request, instance: Instance) -> str:
    """Of an instance."""
    return url_under(request.root, instance)


def url_under(root: str, instance: Instance) -> str:
    """Of an instance; `root` as of `Request`."""
    return (
        f"{root}{DICOMWEB}/studies/{segment(instance.study_instance_uid)}"
        f"/series/{segment(instance.series_instance_uid)}/instances/{segment(instance.sop_instance_uid)}"
    )


def root_of(request: Request) -> str:
    """The part of study URLs before `/studies`."""
    return root_under(request.root)


def root_under(root: str) -> str:
    """The same; `root` as of `Request`."""
    return root + DICOMWEB


def identity_of(instance: Instance) -> str:
    """Identifies the stored bytes of an instance, for entity tags."""
    return f"{instance.stamp:x}.{instance.position.payload_length:x}.{instance.position.payload_crc:08x}"
