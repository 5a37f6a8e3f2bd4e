"""C-GET load: whole studies, one after the other, received on the requesting association itself.

    python -m perf.load_get --peer orthanc --studies 3 --study-instances 200

Answers each C-STORE-RQ at once; the kernel drops its data set.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence

from perf import corpus, harness, native, peers, retrieval, wire
from perf.association import Association, Target
from perf.harness import PerfError
from perf.retrieval import RetrievalLoad, RetrievalResult, StudyRetrieval

GET_CONTEXT_ID, STORE_CONTEXT_ID = 1, 3


def run(target: Target, study_uids: Sequence[bytes], load: RetrievalLoad, *, server_pid: int = 0) -> RetrievalResult:
    sop_class_uid = corpus.template(load.template).sop_class_uid
    association = Association(
        target,
        [
            wire.Context(GET_CONTEXT_ID, wire.STUDY_ROOT_GET),
            wire.Context(STORE_CONTEXT_ID, sop_class_uid, (corpus.EXPLICIT_LITTLE_ENDIAN,), scp_role=True),
        ],
    )
    syntax = association.accepted.transfer_syntaxes[GET_CONTEXT_ID]

    def retrieve(study_uid: bytes) -> StudyRetrieval:
        identifier = retrieval.study_identifier(study_uid, syntax)
        association.send_message(GET_CONTEXT_ID, wire.get_rq(1), identifier)
        return receive_study(association)

    try:
        return retrieval.measure(retrieve, study_uids, load, server_pid)
    finally:
        association.release()


def receive_study(association: Association) -> StudyRetrieval:
    """Receives and answers the instances of one C-GET, up to its final response. Raises PerfError."""
    if native.is_available() and not isinstance(association.sock, ssl.SSLSocket):
        return _receive_compiled(association)
    count = size = first_command_ns = first_instance_ns = responses = 0
    while True:
        message = association.read_message()
        if message is None:
            raise PerfError("the peer released the association instead of answering")
        if message.field == wire.C_STORE_RQ:
            first_command_ns = first_command_ns or time.perf_counter_ns()
            size += association.discard_data_set()
            first_instance_ns = first_instance_ns or time.perf_counter_ns()
            count += 1
            association.send_message(message.context_id, wire.response(message.command))
            continue
        responses += 1
        if message.has_data_set:
            association.discard_data_set()
        if message.status not in retrieval.PENDING:
            return StudyRetrieval(count, size, first_command_ns, first_instance_ns, message.status, responses)


def _receive_compiled(association: Association) -> StudyRetrieval:
    """Receives the instances of one study by the compiled receiver; reads the responses between them here."""
    receiver = native.Receiver(fd=association.sock.fileno())
    responses = 0
    while (outcome := receiver.receive()) == native.COMMAND:
        responses += 1
        command = wire.parse_command(receiver.other_bytes)
        if wire.number(command, 0x0900) not in retrieval.PENDING:
            return StudyRetrieval(
                instance_count=receiver.instance_count,
                data_set_bytes=receiver.data_set_bytes,
                first_command_ns=receiver.first_command_ns,
                first_instance_ns=receiver.first_instance_ns,
                status=wire.number(command, 0x0900),
                response_count=responses,
            )
    raise PerfError(f"the peer ended the association instead of answering ({outcome})")


def main(arguments: list[str] | None = None) -> int:
    options = retrieval.options_of(__doc__).parse_args(arguments)
    load = retrieval.load_of(options)

    def measure(target: Target, server_pid: int) -> int:
        study_uids = retrieval.stored_before(load) if options.stored else retrieval.prepare(target, load)
        return retrieval.report("load_get", options, run(target, study_uids, load, server_pid=server_pid))

    return peers.with_target(options, measure)


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
