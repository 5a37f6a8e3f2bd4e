"""C-MOVE load: whole studies, one after the other, to the sink of this process.

    python -m perf.load_move --peer dcmqrscp --studies 3 --study-instances 200
    python -m perf.load_move --port 11112 --sink-port 11113     (the server knows SINK at that port)
    python -m perf.load_move --host PACS --port 104 --sink-host 0.0.0.0 --sink-port 11113

The time of a study runs from sending the C-MOVE-RQ to its final response.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from perf import harness, peers, retrieval, wire
from perf.association import Association, Target
from perf.harness import PerfError
from perf.retrieval import RetrievalLoad, RetrievalResult, StudyRetrieval
from perf.sink import Sink

CONTEXT_ID = 1


def run(
    target: Target, sink: Sink, study_uids: Sequence[bytes], load: RetrievalLoad, *, server_pid: int = 0
) -> RetrievalResult:
    association = Association(target, [wire.Context(CONTEXT_ID, wire.STUDY_ROOT_MOVE)])
    syntax = association.accepted.transfer_syntaxes[CONTEXT_ID]

    def retrieve(study_uid: bytes) -> StudyRetrieval:
        sink.reset()
        identifier = retrieval.study_identifier(study_uid, syntax)
        association.send_message(CONTEXT_ID, wire.move_rq(1, sink.aet), identifier)
        responses = 0
        while True:
            message = association.read_message()
            if message is None:
                raise PerfError("the peer released the association instead of answering")
            responses += 1
            if message.has_data_set:
                association.discard_data_set()
            if message.status not in retrieval.PENDING:
                counts = sink.counts
                return StudyRetrieval(
                    instance_count=counts.instance_count,
                    data_set_bytes=counts.data_set_bytes,
                    first_command_ns=counts.first_command_ns,
                    first_instance_ns=counts.first_instance_ns,
                    status=message.status,
                    response_count=responses,
                )

    try:
        return retrieval.measure(retrieve, study_uids, load, server_pid)
    finally:
        association.release()


def _advice(options: argparse.Namespace, sink: Sink, result: RetrievalResult) -> str:
    if f"status {retrieval.DESTINATION_UNKNOWN:04X}" not in result.failures:
        return ""
    return f"the server does not know the destination: register {sink.aet} there, at {options.sink_host}:{sink.port}"


def main(arguments: list[str] | None = None) -> int:
    parser = retrieval.options_of(__doc__)
    parser.add_argument("--sink-host", default="127.0.0.1", help="address that SINK listens on; 0.0.0.0: all")
    parser.add_argument("--sink-port", type=int, default=0, help="where the server finds SINK; 0: any, with --peer")
    options = parser.parse_args(arguments)
    load = retrieval.load_of(options)
    sink = Sink(options.sink_port, peers.SINK_AET, options.sink_host)

    def measure(target: Target, server_pid: int) -> int:
        study_uids = retrieval.stored_before(load) if options.stored else retrieval.prepare(target, load)
        result = run(target, sink, study_uids, load, server_pid=server_pid)
        return retrieval.report("load_move", options, result, _advice(options, sink, result))

    try:
        return peers.with_target(options, measure, sink_port=sink.port)
    finally:
        sink.close()


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
