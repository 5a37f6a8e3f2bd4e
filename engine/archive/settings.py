"""The settings of what is stored: how it comes in, how long it stays, and who looks after it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import GIB, KIB, MIB, AETitle, Seconds

Durability = Literal["durable", "write-behind"]
Duplicates = Literal["keep-first", "replace", "keep-both-versions"]
DuplicatesAnswer = Literal["warning", "success"]
AgeBy = Literal["received", "study-date"]
Verify = Literal["index", "read", "disk"]


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


class Jobs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is sent to and pulled from other archives as a job (/api/jobs), while HTTP is enabled."""

    parallel: Annotated[int, Meta(ge=1, le=64)] = 2
    """Jobs that run at once, each of another peer; a peer has one at a time. Two, so that a slow one does not keep all
    others waiting, and the server is left to those who wait for it."""

    attempts_max: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Attempts in a row after which a job whose peer cannot be reached has failed; somebody may then retry it."""

    retry_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    """Seconds until the next attempt; twice as long after each further one."""

    keep_days: Annotated[float, Meta(gt=0, le=3650)] = 14.0
    """Days for which a job that has ended is kept, with what went wrong."""


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
