"""A foreign Storage SCP (pynetdicom) in this process that keeps all instances it receives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from engine.config import Peer

Received = dict[str, tuple[str, bytes]]
"""SOP Instance UID → transfer syntax, data set as sent."""

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@contextmanager
def sink(
    contexts: dict[str, list[str]],
    status: int = 0x0000,
    pdu_length_max: int = 16382,
    answer: Callable[[Any], int] | None = None,
) -> Iterator[tuple[Peer, Received]]:
    """A Storage SCP and the instances that it received. `answer` gives the status of each, else it is `status`."""
    received: Received = {}
    lock = threading.Lock()

    def store(event: Any) -> int:
        code = status if answer is None else answer(event)
        with lock:
            data = event.request.DataSet.getvalue()
            received[event.request.AffectedSOPInstanceUID] = (event.context.transfer_syntax, data)
        return code

    entity = AE(ae_title="SINK")
    entity.maximum_pdu_size = pdu_length_max
    for abstract_syntax, syntaxes in contexts.items():
        entity.add_supported_context(abstract_syntax, syntaxes)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        yield Peer(aet="SINK", host="127.0.0.1", port=server.server_address[1]), received
    finally:
        server.shutdown()
