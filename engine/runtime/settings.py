"""The [limits] table: bounds on the memory and time that peers may cost."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.setting import GIB, KIB, MIB, Seconds


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What peers may cost. Each setting bounds memory or time, whatever peers send."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] = 128 * KIB
    """Bytes of a P-DATA-TF that we announce (PS3.8 D.1). DCMTK and pynetdicom propose 16 KiB: eight times the
    headers an instance and a third less speed; an instance of 0.5 MB takes four PDUs of 128 KiB."""

    pdu_length_accept_max: Annotated[int, Meta(ge=4 * KIB, le=1 * GIB)] = 16 * MIB
    """Bytes of a P-DATA-TF that we accept from a peer that ignores what we announced; longer ones end the association.
    Fragments are processed as they arrive, so this bounds patience rather than memory."""

    associate_pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] = 1 * MIB
    """Bytes of an A-ASSOCIATE-RQ or -AC, which is held in memory as a whole. 128 presentation contexts with 30 transfer
    syntaxes each are a quarter of this."""

    associate_bytes_per_address_per_s_max: Annotated[int, Meta(ge=0, le=1 * GIB)] = 4 * MIB
    """Bytes a second of A-ASSOCIATE-RQs above 16 KiB that we read from one network address; further ones wait and cost
    only their connection. The longest that occur have some 200 KiB: twenty a second; 0: no limit."""

    presentation_contexts_max: Annotated[int, Meta(ge=1, le=128)] = 128
    """Presentation contexts that we accept on one association; the odd numbers 1 to 255 allow 128 (PS3.8 9.3.2.2)."""

    pdvs_per_pdu_max: Annotated[int, Meta(ge=1, le=1 << 24)] = 32_768
    """Presentation data values in one P-DATA-TF; more end the association. Peers send one or two; a PDU of the length
    that we announce has 18 724 of one byte each. Bounds our time for each megabyte of a peer."""

    associations_max: Annotated[int, Meta(ge=1, le=100_000)] = 2000
    """Associations open at once on the whole server, counted across its workers; more are rejected as transient, local
    limit exceeded (PS3.8 Table 9-21). Some 20 KiB each while idle: twice the busiest archive, so that a thousand idle
    ones lock nobody out."""

    associations_per_peer_max: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Associations open at once from one calling AE title, counted across workers, so that one broken sender leaves
    room for others; a [[peer]] may have its own associations_max. Peers choose their titles: this bounds mistakes, and
    associations_per_address_max bounds malice."""

    associations_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Associations open at once from one network address (an IPv6 network of 64 bits), whatever their titles, so that
    half of associations_max is left to others. All modalities behind a gateway have one address and rarely a hundred
    associations; a [[peer]] may have its own associations_per_address_max."""

    connections_waiting_max: Annotated[int, Meta(ge=1, le=100_000)] = 1024
    """Connections that have not sent their whole A-ASSOCIATE-RQ yet. When there are more, the server closes the oldest
    connection of the address that has the most, so that silent ones make room. A peer's request follows its connection
    within milliseconds."""

    connections_waiting_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] = 128
    """The same for one network address; when there are more, the server closes the oldest one of that address."""

    artim_timeout_s: Seconds = 10.0
    """The ARTIM timer (PS3.8 9.1.5): how long a connection may take to send its A-ASSOCIATE-RQ, or to close."""

    connect_timeout_s: Seconds = 10.0
    """How long a destination may take to accept the connection and the association."""

    idle_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    """How long an association may be silent between messages (pynetdicom: 60 s); 0: no limit. Viewers keep theirs open
    for minutes."""

    dimse_timeout_s: Seconds = 30.0
    """How long a peer may pause inside a PDU or message, stop reading, or take to answer one of our messages."""

    transfer_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 256
    """Bytes a second that a peer inside a PDU or message must send on average over each dimse_timeout_s; a slower one
    is aborted, so that single bytes now and then keep no association open. A tenth of a modem's speed; time in which
    we do not read is not counted; 0: off."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 32 * KIB
    """Bytes a second that a peer must receive on average over nine tenths of dimse_timeout_s, counting only time in
    which data waits for it; a slower one is aborted within dimse_timeout_s. Its data stays in our memory meanwhile,
    and a C-MOVE takes as long as its destination. A quarter of a megabit: less than any line on which images are read.
    Bytes count when the peer's system has acknowledged them; 0: off, one byte is progress."""

    drain_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """How long associations may continue after SIGTERM before they are aborted. systemd kills after 90 s."""

    drain_idle_s: Annotated[float, Meta(ge=0, le=86400)] = 1.0
    """When the server stops, an association without an operation is released after so many seconds without a byte:
    modalities pause for less within a study, and many hold associations for days."""

    asynchronous_window: Annotated[int, Meta(ge=1, le=65535)] = 16
    """Operations that a requestor may have outstanding with us (PS3.7 D.3.3.3). Some 8 CT
    instances make a good commit group; 16 let one gather while the one before is being synced."""

    ingest_bytes_max: Annotated[int, Meta(ge=8 * MIB, le=64 * GIB)] = 64 * MIB
    """Bytes of received data sets that one worker holds in memory before they are stored; above it, peers wait."""

    ingest_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The part of ingest_bytes_max that one calling AE title may use, so that a peer that sends on a hundred
    associations at once leaves room for others."""

    ingest_during_retrieval_bytes_per_s_max: Annotated[int, Meta(ge=0, le=64 * GIB)] = 64 * MIB
    """Bytes a second that a worker stores while it sends a retrieval as fast as it can: users wait for retrievals,
    not for stores. Half of a gigabit link, 120 CT instances a second; 0: no priority."""

    retrieval_bytes_max: Annotated[int, Meta(ge=16 * MIB, le=64 * GIB)] = 256 * MIB
    """Bytes that all retrievals of one worker hold together for peers that have not received them yet, and never more
    than a quarter of memory_bytes_max. Up to half of it they send whole instances, each some 16 MiB; then pieces; then
    they wait, and fail after dimse_timeout_s. Ingest is never refused because of them."""

    memory_bytes_max: Annotated[int, Meta(ge=64 * MIB, le=1024 * GIB)] = 1 * GIB
    """Resident memory of one worker, mapped files not counted, above which new stores are refused (A700). A worker
    needs 60 MiB, ingest_bytes_max and retrieval_bytes_max; much more is a defect that ingest must not make worse."""

    sync_latency_s_max: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """The time that a group of instances waits for its sync, averaged over some seconds, above which the disk is
    overloaded: new associations that only store are rejected as transient, and new instances are refused (A700).
    Modalities give up after 10 to 30 s, and send an instance again when its answer comes too late."""

    worker_silence_s_max: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """How long a worker may be silent before it is killed and replaced; 0: never. It gets no new connections after
    1 s. A disk that stalls may block a worker for seconds."""

    query_results_max: Annotated[int, Meta(ge=0)] = 100_000
    """Matches that one C-FIND returns; 0: all. If there are more, it ends with A700 (out of resources) and a comment
    that says so, not with Success, which would mean that these are all (PS3.4 C.4.1.3.1); the matches sent are valid.
    Matches are read in pages, so this protects the requestor and everybody's time, not our memory."""

    query_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """Seconds that one C-FIND may run, not counting the time that it waits for other work or for its requestor; 0: no
    limit. Then it ends with A700 and a comment; the matches sent are valid. A search of millions of studies by a bad
    key takes some seconds; a longer one is a mistake or an attack. `filmroom find` has no such limit."""

    stream_threshold_bytes: Annotated[int, Meta(ge=64 * KIB, le=1 * GIB)] = 8 * MIB
    """A data set longer than this streams into a segment of its own and is never in memory as a whole. All CT, MR and
    single-frame X-ray instances are shorter, and one append of up to 8 MiB does not delay others."""

    data_set_bytes_max: Annotated[int, Meta(ge=1 * MIB)] = 64 * GIB
    """A longer data set is refused (A700). Whole-slide and multi-frame instances reach some 10 GiB."""

    header_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=64 * MIB)] = 8 * MIB
    """Bytes; without effect, and accepted so that configurations of earlier versions stay valid: the engine finds the
    attributes of the index anywhere in the header, and holds only these in memory."""

    nesting_depth_max: Annotated[int, Meta(ge=8, le=512)] = 128
    """Sequences within sequences in a data set's header; a deeper one is refused (C000): it would crash viewers that
    recurse. Structured reports and radiotherapy plans reach some 20; pydicom gives up at 300."""

    element_count_max: Annotated[int, Meta(ge=10_000, le=100_000_000)] = 1 << 20
    """Elements and items in a data set's header, at all depths; one with more is refused (C000). Bounds the time that
    it blocks its worker, 10 ms; a multi-frame instance of 10 000 frames has some 500 000."""

    disk_reserve_bytes: Annotated[int, Meta(ge=0)] = 1 * GIB
    """Free space below which new stores are refused (A700), so that index, seals and checkpoints never lack space."""
