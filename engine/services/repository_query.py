"""Repository Query, SCP (PS3.4 C.6.4): a Study Root C-FIND that lists a whole archive in pages.

    request ──► pending, pending, …  ──► 0000  all matches were sent
                                         B001  as many as the requestor or this server allows; there are more
                                         A710  the Prior Record Key is not valid any more
                                         …     else as for any C-FIND: see `find_scp`

    Record Key (0008,041B)                     if present, each match has one: its position. Opaque to the requestor:
                                               lifetime of the index (8), level (2), ids down to it (4, 8 or 12)
    Prior Record Key (0008,041C)               continues behind that position, even if its record was deleted
    Maximum Number of Records (0008,0429)      pending responses at most; 0 or empty: no limit of the requestor

Matches come in the order of their keys, which is the order of arrival: new instances come at the end. A key is valid
until the index is rebuilt, or goes back to a checkpoint because the server was killed. The other keys of Table
C.6.4.1-1 (removal from operational use, access by URI, metadata) are optional and not supported: they are returned
empty, with FF01.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from engine import audit
from engine.access import Action
from engine.dicom import tags, uids
from engine.dimse.messages import CFindRQ
from engine.dimse.status import FindStatus, GeneralStatus, Service, status_of
from engine.errors import EngineError, MessageError, QueryError
from engine.index.format.types import Level
from engine.services.find_scp import FindOperation, refuse, run
from engine.services.operations import operations
from engine.services.query import FIND_OPTIONS
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.index.format.types import KeyValue, Match, Query
    from engine.services.query import FindRequest
    from engine.services.session import Session

_IDS_BYTES = {Level.STUDY: 4, Level.SERIES: 8, Level.IMAGE: 12}

_CONTROL_KEYS = frozenset({tags.PriorRecordKey, tags.MaximumNumberOfRecords})
"""Keys of the request that are not returned."""


async def find(session: Session, presentation_context_id: int, rq: CFindRQ, identifier: bytes) -> None:
    """Answers one C-FIND of this SOP class."""
    await run(RepositoryFindOperation(session, presentation_context_id, rq), session, identifier)


class RepositoryFindOperation(FindOperation):
    """One C-FIND of this SOP class in progress."""

    _epoch_id = b""

    async def run(self, identifier: bytes) -> None:
        """Runs the operation up to its final response."""
        session = self._session
        session.services.engine.metrics.counters["repository_query"] += 1
        if not session.allowed(Action.QUERY):
            self._refuse(GeneralStatus.NOT_AUTHORIZED, "")
            return
        try:
            audit.check()
            self._epoch_id = session.archive.epoch_id()
            self._request, limit = self._page(self._decode(identifier, 0))
            status = await self._answer(self._request, limit)
        except EngineError as error:
            offending = error.offending_elements if isinstance(error, QueryError) else ()
            self._refuse(status_of(error, Service.FIND), str(error), offending)
            return
        if status == FindStatus.OUT_OF_RESOURCES:
            self._end(FindStatus.RESPONSE_LIMIT_REACHED, f"{limit} sent: continue after the last Record Key")
        else:
            self._end(status)

    def _page(self, request: FindRequest) -> tuple[FindRequest, int]:
        """The request for this page, and how many matches may be sent; 0: all."""
        keys = dict(request.query.keys)
        prior = _bytes(keys.pop(tags.PriorRecordKey, b""))
        ours = self._session.settings.query_results_max
        theirs = _count(_bytes(keys.pop(tags.MaximumNumberOfRecords, b"")))
        is_keyed = keys.pop(tags.RecordKey, None) is not None
        if is_keyed and not self._epoch_id:
            raise MessageError("out of resources: no record keys", FindStatus.OUT_OF_RESOURCES)
        limit = min(filter(None, (ours, theirs)), default=0)
        query = replace(
            request.query,
            keys=keys,
            limit=limit + 1 if limit else None,
            is_keyed=is_keyed,
            after=self._ids(prior, request.query.level) if prior else b"",
        )
        return_keys = tuple(tag for tag in request.return_keys if tag not in _CONTROL_KEYS)
        return replace(request, query=query, return_keys=return_keys), limit

    def _ids(self, prior: bytes, level: Level) -> bytes:
        head = self._epoch_id + level.to_bytes(2, "big")
        ids = prior.removeprefix(head)
        if not self._epoch_id or len(ids) == len(prior) or len(ids) != _IDS_BYTES[level]:
            raise MessageError("the Prior Record Key is not valid", FindStatus.INVALID_PRIOR_RECORD_KEY)
        return ids

    def _steps(self, query: Query) -> Iterator[Match | None]:
        head = self._epoch_id + query.level.to_bytes(2, "big")
        for match in super()._steps(query):
            if match is not None and query.is_keyed:
                match.attributes[tags.RecordKey] = head + match.attributes[tags.RecordKey]
            yield match


def _bytes(value: KeyValue) -> bytes:
    return value if isinstance(value, bytes) else b""


def _count(value: bytes) -> int:
    """A UV value; 0 when there is none."""
    if len(value) not in (0, 8):
        raise QueryError("Maximum Number of Records (0008,0429) is not a UV value", tags.MaximumNumberOfRecords)
    return int.from_bytes(value, "little")


SERVICE = ServiceClass(
    name="Repository Query",
    sop_class_uids=(uids.RepositoryQuery,),
    action=Action.QUERY,
    requests=frozenset({CFindRQ}),
    attach=operations(find, refuse),
    is_cancellable=True,
    options=FIND_OPTIONS,
)
