"""The tables of a configuration: every setting and limit with its unit, its default and the reason for it.

The docstring under a field is its documentation; bounds are in its type. `composition` puts the tables together, and
`reader` reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.config.titles import TITLE_BYTES_MAX, wire_forms

Durability = Literal["durable", "write-behind"]
Duplicates = Literal["keep-first", "replace", "keep-both-versions"]
DuplicatesAnswer = Literal["warning", "success"]
Permission = Literal["store", "query", "retrieve", "destination"]
AgeBy = Literal["received", "study-date"]
QueryOption = Literal["relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values"]
AttributeLevel = Literal["patient", "study", "series", "instance"]
Verify = Literal["index", "read", "disk"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
Origin = Literal["flag", "environment", "file", "default"]

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
AETitle = Annotated[str, Meta(pattern=r"^(?! )[^\x00-\x1f\\\x7f-\x9f]{1,16}(?<! )$")]
"""One beyond ASCII is meant in Latin-1 and in UTF-8, of which at least one has 16 bytes or less: `config.titles`."""
UID = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)+$", max_length=64)]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


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


class Storage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The append-only log."""

    segment_bytes: Annotated[int, Meta(ge=1 * MIB, le=1024 * GIB)] = 1 * GIB
    """Where a segment ends and the next begins: 2 000 CT instances; large enough that seals are rare, small enough
    to move, copy or compact one in seconds."""

    prewrite_bytes: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 512 * MIB
    """How much of a segment that is prepared ahead is written with zeros, so that a durable burst of that length (a
    study of 1 000 CT instances) needs no block allocation and no journal commit: measured a third faster. Costs each
    such byte's disk write twice; 0: off."""

    versions_max: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """Versions of one SOP Instance UID that are kept aside at most; a further one with other bytes is refused (A700),
    and what is kept stays. A device that gives all its images one UID sends thousands, and each store looks at the keys
    of all of them. People make a handful; `filmroom quarantine` lists and drops them."""


class Target(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hardware that this site means to have: `filmroom doctor` measures against it.

    The defaults are what a hospital's server needs that takes in 500 CT or MR instances of half a megabyte a second,
    durably, and serves workstations meanwhile: an NVMe drive with power-loss protection, or a mirror of two."""

    sync_p99_ms_max: Annotated[float, Meta(gt=0, le=10_000)] = 5.0
    """Milliseconds of an fdatasync of 4 KiB, at the 99th percentile. A lone sender waits for one an instance; drives
    with power-loss protection take some 0.1 ms, consumer drives 1 to 10, hard disks 10 to 30."""

    write_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 300.0
    """Megabytes a second, appended with one fdatasync every eight instances: 500 instances/s are 265."""

    read_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 500.0
    """Megabytes a second read past the page cache: ten workstations that pull a study each over 1 Gbit/s take 1 000,
    and some of what they ask for is in memory."""


class Compaction(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the space of what was deleted, replaced or sent twice comes back, in the background."""

    enabled: bool = True
    """Whether a running server compacts by itself; `filmroom compact` does it at any time."""

    interval_s: Seconds = 60.0
    """How long it waits after it has found nothing to do. What is to be done is read from the index in milliseconds."""

    dead_share_min: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """A segment is rewritten when this part of its records is dead. A quarter: at most three bytes are copied to win
    one, and at most a quarter of the space is dead for long."""

    small_segments_min: Annotated[int, Meta(ge=2, le=100_000)] = 16
    """So many segments that are not a sixteenth full are joined. Each import, deletion and restart leaves one."""

    bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 32 * MIB
    """Bytes a second that are copied, which is read and written once each; 0: as fast as it goes. A tenth of what the
    target hardware writes: ingest does not feel it, and a terabyte that is half dead takes five hours."""


class Scrub(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How all stored bytes are read and verified again and again, in the background."""

    cycle_days: Annotated[float, Meta(ge=0, le=3650)] = 30.0
    """Days in which every stored byte is read once; 0: a running server does not scrub by itself. A month finds a dying
    disk before its mirror dies too, and reads ten terabytes at 4 MB/s."""

    rate_bytes_per_s_max: Annotated[int, Meta(ge=64 * KIB, le=1024 * GIB)] = 32 * MIB
    """Bytes a second that are read at most, also when the cycle would need more (`filmroom scrub status` says so): a
    tenth of what the target hardware reads. Eighty terabytes in thirty days."""


class Reindex(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How what is stored is looked through again after a change of the [[attribute]] tables, in the background."""

    bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 32 * MIB
    """Bytes a second that are read, 16 KiB an instance as a rule; 0: as fast as it goes. A tenth of what the target
    hardware reads: ten million instances in an hour and a half."""


class Quarantine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What becomes of data sets that cannot be taken as instances. Their senders get a failure status either way."""

    unparseable: bool = True
    """Whether the bytes are kept for `filmroom quarantine`, where they can be looked at, exported and tried again: the
    modality may have deleted its copy by the time that somebody reads the log."""

    bytes_max: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 1 * GIB
    """Bytes that the archive holds in quarantine at most, versions kept aside not counted; what comes then is refused
    and not kept. A day of one device that has been set up wrongly, and nothing that fills a disk."""

    count_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    """Data sets in quarantine at most, so that many small ones do not fill the index."""


class Queries(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a C-FIND may ask beyond the baseline, and which ones the log tells of."""

    options: tuple[QueryOption, ...] = ()
    """Options of PS3.4 C.5.1.1 that hold for everybody, negotiated or not; what a requestor negotiates it gets anyway.
    relational: unique keys of the levels above may be missing and keys of all levels be combined; date-time: a date
    and its time are one range; fuzzy: names match by sound; timezone: times are in the zone of the key Timezone Offset
    From UTC; empty-values: two quotation marks ask for what has no value; multiple-values: each value of a list
    must match. None by default: each changes what an identifier means, and who did not ask means the other thing."""

    slow_s: Annotated[float, Meta(ge=0, le=86400)] = 1.0
    """Seconds after which the log says of a C-FIND that it was slow, and by which keys, access and candidates: never
    by which values; 0: of none. A second is what people notice; an indexed query takes milliseconds. Time in which the
    asker does not read our answers is not counted."""


class Commitment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Storage commitment (PS3.4 Annex J): who may store may ask whether what it stored is safe."""

    verify: Verify = "read"
    """What an instance must pass beside being durable. read: its record is read back and its checksums are right, as a
    retrieval would read it. disk: the same past the page cache, so that the disk itself gives the answer; what has just
    been stored is then no longer in memory for the first workstation that asks. index: the index knows it, nothing is
    read. read, since a modality deletes its copy on our word; the scrub reads everything past the cache anyway."""

    verify_bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 128 * MIB
    """Bytes a second that a worker reads for it; 0: as fast as it goes. A study of 1 000 CT instances in four seconds,
    at a tenth of a core and a quarter of what the target disk reads."""

    same_association: bool = True
    """Whether the report goes out on the association of the request while that is open. Off, for peers that expect it
    on a new one and trip over the other: always a new association to the [[peer]] of that AE title."""

    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """How long after our N-ACTION response the report goes out on the same association. At once; some seconds for peers
    that take a request that follows a response too closely for a mistake."""

    references_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    """Instances in one request; more are refused (0213H). Peers ask for a study at a time, and few studies have ten
    thousand instances."""

    transactions_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Requests whose report nobody has taken yet; further ones are refused (0213H). Two weeks of a busy archive's
    studies; each is a file of 70 KB for a thousand instances. One [[peer]] with an address may have half of them
    waiting; all AE titles without one together a tenth, and one of these a hundredth, since their reports may never go
    out."""

    retry_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """How long after a failed report the next attempt follows; twice as long each time. A workstation that restarts is
    back within a minute or two."""

    retry_s_max: Annotated[float, Meta(gt=0, le=86400)] = 3600.0
    """The longest pause between two attempts: a peer that was off over night has its reports within the hour."""

    retry_days: Annotated[float, Meta(gt=0, le=3650)] = 7.0
    """Days after which a report that nobody takes is given up, with a warning in the log, though not before it was
    tried 24 times: a clock that jumps gives nothing up. Modalities ask again or raise an alarm within days; a week
    outlasts holidays."""


class Feed(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The change feed: what happened to the archive, for subscribers that follow it."""

    keep_days: Annotated[float, Meta(ge=0, le=3650)] = 30.0
    """Days for which events are kept, and a subscriber may stay away; 0: there is no feed. Holidays and a repair; some
    400 bytes an event, a thousandth of what an instance takes."""

    series_quiet_s: Seconds = 30.0
    """Seconds without a new instance after which a series is quiet. Modalities pause for some seconds within one."""

    study_quiet_s: Seconds = 60.0
    """The same of a study: a scanner needs a minute at most from one series to the next when it sends what it has."""

    study_complete_s: Annotated[float, Meta(gt=0, le=604_800)] = 900.0
    """Seconds without a new instance after which a study is complete: reconstructions and late series of an examination
    follow within a quarter of an hour. No sender announces how many instances there will be."""


class Retention(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule that says which studies are deleted when they are old enough.

    A study goes as a whole, and only when all of its instances meet all conditions; one on legal hold never goes."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    """Shown by `filmroom retention` and written into the deletion's reason."""

    older_than_days: Annotated[float, Meta(ge=0, le=365_000)]
    """Days; there is no default, since no law or habit is the same everywhere."""

    age_by: AgeBy = "received"
    """From when the days count: since each instance arrived here; or since the Study Date, and a study without one
    stays. received is safe against wrong dates and counts anew for what was imported late."""

    modalities: tuple[str, ...] = ()
    """Only studies all of whose series are of these (0008,0060); empty: of any."""

    aets: tuple[AETitle, ...] = ()
    """Only studies all of whose instances were sent by these calling AE titles; empty: by any."""

    action: Literal["delete"] = "delete"
    """What becomes of the studies. Deleting is the only action there is."""

    enabled: bool = False
    """Whether a running server applies the rule; otherwise only `filmroom retention apply` does. Off, so that a rule
    is tried with `filmroom retention dry-run` first."""

    every_hours: Annotated[float, Meta(gt=0, le=8784)] = 24.0
    """How often the server applies it: it looks at every study that is old enough."""

    share_max: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """The part of all studies that one application may delete, though always 20; a rule that would delete more is
    refused until somebody runs `filmroom retention apply --anyway`. A rule that runs every day deletes a day's studies;
    much more is a mistake in the rule or in the clock, and deleting cannot be undone. 1: any number."""

    gap_days_max: Annotated[float, Meta(gt=0, le=365_000)] = 30.0
    """Days between two applications, of any rule, above which the clock is not believed and the rule is refused in the
    same way. A server is rarely off for a month, and a clock with an empty battery is off by years."""


class Coercion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How what is sent differs from what is stored: the first rule that names the receiver holds for it.

    Receiver is the destination of a C-MOVE, or who asks by C-GET. Without a rule everything is sent as it came."""

    aets: tuple[AETitle, ...] = ()
    """The receivers; empty: all that no rule before this one names."""

    corrections: bool = True
    """Whether what `filmroom correct`, `merge`, `move` and `split` have set is written into what is sent."""

    values: tuple[str, ...] = ()
    """More values to write, each KEYWORD=VALUE; KEYWORD= leaves the attribute without a value. Not for UIDs, numbers
    and sequences."""

    remove: tuple[str, ...] = ()
    """Keywords of attributes to leave out."""


class Attribute(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One more attribute that the index keeps, beside those of PS3.4 C.6 that it always keeps.

    Taken over when a server starts, or by `filmroom reindex`; what is stored already is then looked through again in
    the background. 64 at most."""

    tag: str
    """A keyword of PS3.6, or gggg,eeee. A private one in any block of its group: 0019,10A3 or 0019,xxA3; that is what
    it is called in queries too that name no creator."""

    level: AttributeLevel
    """The level that it is an attribute of. There is no default, since one at the wrong level is found wrongly: of a
    study the first instance that has a value decides."""

    creator: str = ""
    """The private creator (gggg,00bb), word for word; needed for an odd group."""

    vr: str = ""
    """Its value representation; needed where no dictionary has it, so for private ones. Bulk data (OB, OW, UN, …) are
    not kept, and of a text the first kilobyte."""

    indexed: bool = False
    """Whether it gets keys by which it is found without looking at every study: some 40 bytes a study or series. Not
    for numbers, long texts, sequences and the instance level. Without it, it is kept, returned and matched."""


class Log(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the server says of itself."""

    format: LogFormat = "auto"
    """json: a line of JSON an event. console: for people. auto: console on a terminal, else json."""

    level: LogLevel = "info"
    """The least severe level that is written. At info there are a few lines an association, none an instance."""

    lines_per_peer_per_s_max: Annotated[int, Meta(ge=1, le=100_000)] = 50
    """Lines a second that one network address can cause in one process; how many were left out is said in one. Enough
    for a busy modality, too few to fill a disk."""

    patient_data: bool = False
    """Whether names, identifiers and dates of patients are written as they are; otherwise as ***."""

    wire_trace: Path | None = None
    """A folder that gets a file for each association with its PDUs and messages, decoded, a line of JSON each; unset:
    off. It costs tens of microseconds a PDU; data sets and identifiers are not in it."""


class Peer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One application entity that we know. What is not set here is as for everybody."""

    aet: AETitle
    """Its AE title, as it calls and is called (PS3.5 VR AE: 16 characters, no backslash). Beyond ASCII it is known by
    its bytes in Latin-1 and in UTF-8, and called in Latin-1 if that has all its letters."""

    host: str = ""
    """Name or address to connect to; needed for a destination."""

    port: Port = 0
    """TCP port to connect to; needed for a destination."""

    may: tuple[Permission, ...] = ("store", "query", "retrieve", "destination")
    """What it may do: send us instances, ask us, have instances sent, be sent instances that another asks for.
    Without host and port the default leaves destination out."""

    destinations: tuple[AETitle, ...] | None = None
    """AE titles to which it may have instances sent by C-MOVE, for one that must not choose freely: a ward's viewer
    that shall send to its own ward only. The others are unknown destinations to it (A801). Unset: every destination."""

    pdu_length_max: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)] | None = None
    """Bytes of a P-DATA-TF that we announce to it, and the most that we send it whatever it announces."""

    durability: Durability | None = None
    """For what it stores."""

    duplicates: Duplicates | None = None
    """For what it stores."""

    transfer_syntaxes: tuple[UID, ...] = ()
    """UIDs of the transfer syntaxes to prefer towards it, best first, before the one an instance is stored in."""

    prefer_compressed: bool = False
    """Whether its compressed form is taken where it offers native and compressed transfer syntaxes in one presentation
    context. Off, since many offer what they cannot do; for a modality that holds compressed images and would
    decompress them."""

    store_associations: Annotated[int, Meta(ge=1, le=64)] = 1
    """Associations on which one retrieval is sent to it in parallel."""

    asynchronous_window: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Operations outstanding in either direction, more or fewer than others have; 0 or 1: one. Unset: it may have
    limits.asynchronous_window with us, and we have one with it, since many receivers accept a window and then mix up
    the answers."""

    timeout_s: Seconds | None = None
    """For it instead of limits.dimse_timeout_s, whoever opened the association."""

    delivery_rate_bytes_per_s_min: Annotated[int, Meta(ge=0, le=1 << 30)] | None = None
    """For it instead of limits.delivery_rate_bytes_per_s_min: a practice behind a slow line."""

    accept_truncated: bool = False
    """Whether a data set from it that ends early (Pixel Data shorter than its length, a sequence that is not closed)
    is stored, with warning B006, instead of being refused (C000): for a modality that is known to cut what it sends.
    Such an instance is never reported as committed, `filmroom check` names it, and a whole one takes its place."""

    associations_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Associations that it may have open at once, for it instead of limits.associations_per_peer_max."""

    associations_per_address_max: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Associations that its network address may have open at once for one more of it to be let in, instead of
    limits.associations_per_address_max: more for a gateway that many send through."""

    bandwidth_bytes_per_s_max: Annotated[int, Meta(ge=64 * KIB, le=64 * GIB)] | None = None
    """Bytes a second that we take from it, all its associations together: a transfer of old studies in the background
    leaves the modalities their share. Unset: as many as it sends."""

    query_options: tuple[QueryOption, ...] | None = None
    """Options of its queries that it cannot negotiate, instead of query.options."""

    query_results_max: Annotated[int, Meta(ge=0)] | None = None
    """Matches that a C-FIND of it answers, instead of limits.query_results_max; 0: all."""

    query_timeout_s: Annotated[float, Meta(ge=0, le=86400)] | None = None
    """Seconds that a C-FIND of it may work, instead of limits.query_timeout_s; 0: as long as it takes."""

    def __post_init__(self) -> None:
        check_title(self.aet)
        for title in self.destinations or ():
            check_title(title)

    @property
    def has_address(self) -> bool:
        """Whether we can connect to it."""
        return bool(self.host and self.port)

    @property
    def send_window(self) -> int:
        """Operations that we may propose to have outstanding with it."""
        return max(1, self.asynchronous_window or 1)


def check_title(title: str) -> None:
    """Raises ValueError for an AE title that fits in no encoding."""
    if not wire_forms(title):
        raise ValueError(f"AE title {title!r} has more than {TITLE_BYTES_MAX} bytes in Latin-1 and in UTF-8")
