"""The [limits] table: what a peer may cost us."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.setting import GIB, KIB, MIB, Seconds


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a peer may cost us. Each bounds memory or time; none depends on what peers send."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] = 128 * KIB
    """Bytes of a P-DATA-TF that we announce (PS3.8 D.1). DCMTK and pynetdicom propose 16 KiB: eight times the
    headers an instance and a third less speed; an instance of 0.5 MB takes four PDUs of 128 KiB."""

    pdu_length_accept_max: Annotated[int, Meta(ge=4 * KIB, le=1 * GIB)] = 16 * MIB
    """Bytes of a P-DATA-TF that we still take from a peer that ignores what we announced; longer ones end the
    association. Fragments are taken as they come, so this bounds patience rather than memory."""

    associate_pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] = 1 * MIB
    """Bytes of an A-ASSOCIATE-RQ or -AC, which is kept whole. 128 presentation contexts with 30 transfer
    syntaxes each are a quarter of this."""

    associate_bytes_per_address_per_s_max: Annotated[int, Meta(ge=0, le=1 * GIB)] = 4 * MIB
    """Bytes a second of A-ASSOCIATE-RQs above 16 KiB that one network address may have looked at; further ones wait
    before they cost more than their connection. The longest that occur have some 200 KiB: twenty a second; 0: any."""

    presentation_contexts_max: Annotated[int, Meta(ge=1, le=128)] = 128
    """Presentation contexts that we accept on one association; the odd numbers 1 to 255 allow 128 (PS3.8 9.3.2.2)."""

    pdvs_per_pdu_max: Annotated[int, Meta(ge=1, le=1 << 24)] = 32_768
    """Presentation data values in one P-DATA-TF; more end the association. Peers send one or two; a PDU of the length
    that we announce has 18 724 of one byte each. Bounds the time of ours that a megabyte of theirs costs."""

    associations_max: Annotated[int, Meta(ge=1, le=100_000)] = 2000
    """Associations open at once on the whole server, counted across its workers; more are rejected as transient, local
    limit exceeded (PS3.8 Table 9-21). Some 20 KiB each while idle: twice the busiest archive, so that a thousand that
    do nothing keep nobody out."""

    associations_per_peer_max: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Associations open at once from one calling AE title, counted across workers, so that one broken sender leaves
    room for others; a [[peer]] may have an associations_max of its own. Titles are what peers say they are: this
    bounds mistakes, and associations_per_address_max bounds malice."""

    associations_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Associations open at once from one network address (an IPv6 network of 64 bits), whatever titles they call
    themselves, so that half of associations_max is left to the others. All modalities behind a gateway have one address
    and rarely a hundred associations; a [[peer]] may have an associations_per_address_max of its own."""

    connections_waiting_max: Annotated[int, Meta(ge=1, le=100_000)] = 1024
    """Connections that have not said their whole A-ASSOCIATE-RQ yet. When there are more, the one that has waited
    longest is closed, of the address that has the most: those who say nothing make room for those who do. A peer's
    request follows its connection within milliseconds."""

    connections_waiting_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] = 128
    """Of these, how many one network address may have; its oldest is closed when there are more."""

    artim_timeout_s: Seconds = 10.0
    """The ARTIM timer (PS3.8 9.1.5): how long a connection may take to say A-ASSOCIATE-RQ, or to close."""

    connect_timeout_s: Seconds = 10.0
    """How long a destination may take to accept the connection and the association."""

    idle_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    """How long an association may be silent between messages (pynetdicom: 60 s); 0: for ever. Viewers keep theirs
    open for minutes."""

    dimse_timeout_s: Seconds = 30.0
    """How long a peer may pause inside a PDU or message, stop reading, or take to answer one of ours."""

    transfer_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 256
    """Bytes a second that a peer inside a PDU or message must send on average over each dimse_timeout_s, so that one
    byte now and then keeps nothing open: such a peer is ended after dimse_timeout_s. A tenth of a modem's speed;
    time in which we do not read is not counted; 0: off."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] = 32 * KIB
    """Bytes a second that a peer must take of what it is sent, on average over nine tenths of dimse_timeout_s in which
    something waits for it; a slower one is given up within dimse_timeout_s. What it was sent is held for it meanwhile,
    and a C-MOVE ends no sooner than its destination. A quarter of a megabit: less than any line on which images are
    read; what a peer's system has acknowledged counts as taken; 0: off, one byte is progress."""

    drain_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """How long associations may go on after SIGTERM before they are aborted. systemd kills after 90 s."""

    asynchronous_window: Annotated[int, Meta(ge=1, le=65535)] = 16
    """Operations that a requestor may have outstanding with us (PS3.7 D.3.3.3). Some 8 CT
    instances make a good commit group; 16 let one gather while the one before is being synced."""

    ingest_bytes_max: Annotated[int, Meta(ge=8 * MIB, le=64 * GIB)] = 64 * MIB
    """Bytes of data sets that one worker holds in memory on their way in; above it, peers are made to wait."""

    ingest_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The part of ingest_bytes_max that one calling AE title may hold, so that one that sends on a hundred
    associations at once leaves the others room."""

    ingest_during_retrieval_bytes_per_s_max: Annotated[int, Meta(ge=0, le=64 * GIB)] = 64 * MIB
    """Bytes a second that a worker takes in while a retrieval on it sends as fast as it can: somebody waits for what is
    retrieved, nobody for what is stored. Half of what a gigabit link brings, 120 CT instances a second; 0: no
    priority."""

    retrieval_bytes_max: Annotated[int, Meta(ge=16 * MIB, le=64 * GIB)] = 256 * MIB
    """Bytes that all retrievals of one worker hold together of what their askers and destinations have not taken yet,
    and never more than a quarter of memory_bytes_max. Up to half of it they send whole instances, each one some
    16 MiB; then pieces; then they wait, and fail after dimse_timeout_s. Ingest is never refused for what they hold."""

    memory_bytes_max: Annotated[int, Meta(ge=64 * MIB, le=1024 * GIB)] = 1 * GIB
    """Resident memory of one worker, mapped files not counted, above which new stores are refused (A700). A worker
    takes 60 MiB, ingest_bytes_max and retrieval_bytes_max; what is far above is a mistake that ingest must not make
    worse."""

    sync_latency_s_max: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """The time that a group of instances waits for its sync, averaged over some seconds, above which the disk is
    overrun: new associations that only store are rejected as transient and new instances refused (A700). Modalities
    give up after 10 to 30 s, and an answer that comes too late is sent again."""

    worker_silence_s_max: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """How long a worker may not answer before it is killed and replaced; 0: never. It gets no new connections after
    1 s. A disk that stalls may hold a worker up for seconds."""

    query_results_max: Annotated[int, Meta(ge=0)] = 100_000
    """Matches that one C-FIND answers; 0: all. If there are more, it ends with A700 (out of resources) and a comment
    that says so, not with Success, which would say that these are all (PS3.4 C.4.1.3.1); what was sent is good. Matches
    are read in pages, so this protects the asker and the time of everybody, not our memory."""

    query_timeout_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """Seconds that one C-FIND may work, waiting for others and for its asker not counted; 0: as long as it takes. Then
    it ends with A700 and a comment; what was sent is good. A table of millions of studies is searched for a bad key in
    some seconds; what takes longer is mistaken, or means harm. `filmroom find` has no such limit."""

    stream_threshold_bytes: Annotated[int, Meta(ge=64 * KIB, le=1 * GIB)] = 8 * MIB
    """A data set longer than this streams into a segment of its own and is never whole in memory. All CT, MR and
    single-frame X-ray instances are shorter, and one append of up to 8 MiB does not hold up its neighbours."""

    data_set_bytes_max: Annotated[int, Meta(ge=1 * MIB)] = 64 * GIB
    """A longer data set is refused (A700). Whole-slide and multi-frame instances reach some 10 GiB."""

    header_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=64 * MIB)] = 8 * MIB
    """Bytes; without effect, and taken so that configurations of earlier versions stay valid: the attributes that the
    index keeps are found wherever they lie, and only what is kept of them is held in memory."""

    nesting_depth_max: Annotated[int, Meta(ge=8, le=512)] = 128
    """Sequences within sequences in a data set's head; a deeper one is refused (C000): it fells viewers that recurse.
    Structured reports and radiotherapy plans reach some 20; pydicom gives up at 300."""

    element_count_max: Annotated[int, Meta(ge=10_000, le=100_000_000)] = 1 << 20
    """Elements and items in a data set's head, at all depths; one with more is refused (C000). Bounds the time that it
    holds up its worker, 10 ms; a multi-frame instance of 10 000 frames has some 500 000."""

    disk_reserve_bytes: Annotated[int, Meta(ge=0)] = 1 * GIB
    """Free space below which new stores are refused (A700), so that index, seals and checkpoints never lack any."""
