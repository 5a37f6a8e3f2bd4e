"""The settings of the archive: ingest, upkeep in the background, storage commitment, feed, retention."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import FIXED, GIB, KIB, MIB, AETitle, Seconds

Durability = Literal["durable", "write-behind"]
Durable = Literal["local", "peer", "object"]
Duplicates = Literal["keep-first", "replace", "keep-both-versions"]
DuplicatesAnswer = Literal["warning", "success"]
AgeBy = Literal["received", "study-date"]
Verify = Literal["index", "read", "disk"]
EncryptsOld = Literal["off", "plain", "old-keys"]


class Compaction(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Compaction: frees the space of deleted, replaced and duplicate instances, in the background."""

    enabled: bool = True
    """Whether a running server compacts by itself; `filmroom compact` works at any time."""

    interval_s: Seconds = 60.0
    """Seconds to wait after it has found nothing to do. Looking for work takes milliseconds, in the index."""

    dead_share_min: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """A segment is rewritten when this share of its records is dead. A quarter: at most three bytes are copied to free
    one, and at most a quarter of the space stays dead."""

    small_segments_min: Annotated[int, Meta(ge=2, le=100_000)] = 16
    """As soon as this many segments are less than a sixteenth full, they are joined. Each import, deletion and restart
    leaves one."""

    bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 32 * MIB
    """Bytes copied a second, each read and written once; 0: no limit. A tenth of what the target hardware writes:
    ingest does not suffer, and a terabyte that is half dead takes five hours."""


class SecondCopySettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The second copy that an instance has before it is acknowledged, with durable = "peer" or "object"."""

    replica: Annotated[str, Meta(max_length=1024), FIXED] = ""
    """With durable = "peer": the destination of `filmroom replicate`, written as there, that must have a record on its
    disk before the answer. It is the replica to promote when this machine is lost."""

    when_away: Literal["refuse", "local"] = "refuse"
    """What to do while the replica or the bucket does not answer. refuse: instances are refused (A700, 503), and
    senders try again later; local: they are acknowledged as soon as they are on this disk, which is counted and shown,
    and may be lost with this machine."""

    wait_s: Annotated[float, Meta(ge=0.1, le=600)] = 6.0
    """Seconds that an answer waits at most, and one more for each 8 MiB of the instance. Modalities give up after 10 to
    30 s and send again."""


class Encryption(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Encryption at rest. `filmroom encryption init` makes the keys, and the archive notes itself that it has them."""

    required: bool = False
    """Start and store only if the archive encrypts its new records. Without this, an archive without keys is not
    encrypted, and nobody is told."""

    study_keys: bool = False
    """Encrypt each new study by a key of its own. The key is destroyed when nothing of the study is left, not in the
    trash either, and it is on no legal hold: then it cannot be read any more from backups, replicas and old segments
    either, as long as these have no copy of the keys of that time. Costs 256 bytes a study, and a sync of 64 new
    studies. What was stored before gets such keys by `filmroom encrypt --old-keys`."""

    background: EncryptsOld = "off"
    """Whether a running server encrypts what was stored before, by copying segments at [compaction] bytes_per_s: off;
    plain (records that are not encrypted); old-keys (also those of older data keys). `filmroom encrypt` does it at any
    time."""


class Deletion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Deletion on the page and over DICOMweb."""

    trash_days: Annotated[float, Meta(ge=0, le=36_500)] = 30.0
    """Days for which what was deleted can be restored; then the trash empties itself of it. A month: whoever misses a
    study has noticed, and the disk gets its space back. 0: a deletion is final at once, and what is in the trash stays
    until somebody empties it."""


class Scrub(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The scrub: reads and verifies all stored bytes again and again, in the background."""

    cycle_days: Annotated[float, Meta(ge=0, le=3650)] = 30.0
    """Days in which every stored byte is read once; 0: a running server does not scrub by itself. A month finds a dying
    disk before its mirror dies too, and means 4 MB/s for ten terabytes."""

    rate_bytes_per_s_max: Annotated[int, Meta(ge=64 * KIB, le=1024 * GIB)] = 32 * MIB
    """The most bytes read a second, also if the cycle needs more (`filmroom scrub status` says so): a tenth of what
    the target hardware reads. Eighty terabytes in thirty days."""


class Reindex(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reads stored instances again after a change of the [[attribute]] tables, in the background."""

    bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 32 * MIB
    """Bytes read a second, as a rule 16 KiB an instance; 0: no limit. A tenth of what the target hardware reads: ten
    million instances in an hour and a half."""


class Quarantine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Data sets that cannot be stored as instances. Their senders get a failure status in any case."""

    unparseable: bool = True
    """Whether to keep the bytes. `filmroom quarantine` shows and exports them, and tries to store them again; the
    modality may have deleted its copy by the time that somebody reads the log."""

    bytes_max: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 1 * GIB
    """The most bytes in quarantine, without versions kept aside; further data sets are refused and not kept. Enough for
    a day of one badly configured device, too little to fill a disk."""

    count_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    """The most data sets in quarantine, so that many small ones do not fill the index."""


class Jobs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Jobs that send to and pull from other archives (/api/jobs). They need HTTP."""

    parallel: Annotated[int, Meta(ge=1, le=64)] = 2
    """Jobs that run at once; each peer has one at a time. Two, so that a slow one does not keep all others waiting, and
    most of the server stays free for its clients."""

    attempts_max: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Attempts in a row without reaching the peer after which a job has failed. It can be retried."""

    retry_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    """Seconds until the next attempt; twice as long after each further one."""

    keep_days: Annotated[float, Meta(gt=0, le=3650)] = 14.0
    """Days for which an ended job is kept, with its failures."""


class Commitment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Storage commitment (PS3.4 Annex J): a peer that may store may ask whether its instances are safe."""

    verify: Verify = "read"
    """The check of an instance, which must also be durable. read: reads its record and compares the checksums, as a
    retrieval does. disk: the same past the page cache, so that the disk itself answers; a new instance is then no
    longer in memory for the first workstation that asks. index: the index knows it, nothing is read. The default is
    read, since a modality deletes its copy on our word; the scrub reads everything past the cache anyway."""

    verify_bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 128 * MIB
    """Bytes that a worker reads a second for it; 0: no limit. A study of 1 000 CT instances in four seconds, at a tenth
    of a core and a quarter of what the target disk reads."""

    same_association: bool = True
    """Whether to send the report on the association of the request while that is open. Off: always on a new association
    to the [[peer]] of that AE title, for peers that fail otherwise."""

    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Seconds between our N-ACTION response and the report on the same association. 0: at once. Set some seconds for
    peers that take a request right after a response for an error."""

    references_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    """The most instances in one request; more are refused (0213H). Peers ask for a study at a time, and few studies
    have ten thousand instances."""

    transactions_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """The most requests whose report is not delivered yet; further ones are refused (0213H). Two weeks of a busy
    archive's studies; each is a file of 70 KB for a thousand instances. One [[peer]] with an address may have half of
    them waiting; all AE titles without an address together a tenth, and one of these a hundredth, since their reports
    may never be delivered."""

    retry_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """Seconds from a failed report to the next attempt; twice as long each time. A workstation that restarts is back
    within a minute or two."""

    retry_s_max: Annotated[float, Meta(gt=0, le=86400)] = 3600.0
    """The longest pause between two attempts: a peer that was off overnight gets its reports within the hour."""

    retry_days: Annotated[float, Meta(gt=0, le=3650)] = 7.0
    """Days after which an undelivered report is given up, with a warning in the log, but not before 24 attempts: so a
    clock that jumps gives nothing up. Modalities ask again or raise an alarm within days; a week outlasts holidays."""


class Feed(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The change feed: the events of the archive, for subscribers that follow it."""

    keep_days: Annotated[float, Meta(ge=0, le=3650)] = 30.0
    """Days for which events are kept, and a subscriber may stay away; 0: no feed. Long enough for holidays and a
    repair; an event takes some 400 bytes, a thousandth of an instance."""

    series_quiet_s: Seconds = 30.0
    """Seconds without a new instance after which a series is quiet. Modalities pause for some seconds within one."""

    study_quiet_s: Seconds = 60.0
    """The same for a study: a scanner needs at most a minute from one series to the next when it sends them."""

    study_complete_s: Annotated[float, Meta(gt=0, le=604_800)] = 900.0
    """Seconds without a new instance after which a study is complete: reconstructions and late series of an examination
    follow within a quarter of an hour. No sender announces how many instances there will be."""


class Retention(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule that deletes old studies.

    A study is deleted as a whole, and only if all its instances meet all conditions; never while on legal hold."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    """Shown by `filmroom retention` and written into the deletion's reason."""

    older_than_days: Annotated[float, Meta(ge=0, le=365_000)]
    """Days; there is no default, since laws and habits differ."""

    age_by: AgeBy = "received"
    """The start of the days: the arrival of each instance here, or the Study Date (a study without one stays). received
    is safe against wrong dates, and starts anew for late imports."""

    modalities: tuple[str, ...] = ()
    """Only studies whose series all have one of these modalities (0008,0060); empty: any."""

    aets: tuple[AETitle, ...] = ()
    """Only studies whose instances were all sent by these calling AE titles; empty: any."""

    action: Literal["delete"] = "delete"
    """The action on the studies. There is only delete."""

    enabled: bool = False
    """Whether a running server applies the rule; otherwise only `filmroom retention apply` does. Off: try a new rule
    with `filmroom retention dry-run` first."""

    every_hours: Annotated[float, Meta(gt=0, le=8784)] = 24.0
    """Hours between two applications by the server, each of which looks at every study that is old enough."""

    share_max: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """The share of all studies that one application may delete; 20 studies are always allowed. A rule that would delete
    more is refused until somebody runs `filmroom retention apply --anyway`. A daily rule deletes a day's studies; much
    more is a mistake in the rule or in the clock, and a deletion cannot be undone. 1: any number."""

    gap_days_max: Annotated[float, Meta(gt=0, le=365_000)] = 30.0
    """The most days between two applications of any rule. After a longer gap the clock is not trusted, and the rule is
    refused in the same way. A server is rarely off for a month, and a clock with an empty battery is off by years."""
