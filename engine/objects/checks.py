"""Checks of an object store: whether it keeps what the bucket's format (`bucket`) relies on.

    failed     the archive may lose data there: do not use it
    warning    somebody should change a setting of the store
    unknown    the store, or its protocol, does not say
    passed

The checks write objects of some megabytes below <archive id>/probe/, and remove them.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from engine.errors import EngineError, ObjectExists, ObjectWrong, StoreUnreachable
from engine.objects import s3_requests
from engine.objects.client import ObjectClient
from engine.objects.s3_requests import Answer

FAILED, WARNING, UNKNOWN, PASSED = "failed", "warning", "unknown", "passed"

ABANDONED_AFTER = timedelta(days=1)
"""An upload of a segment takes minutes."""

_UNSYNCED = {
    "seaweedfs": "SeaweedFS acknowledges objects that are not on a disk yet: run `fs.configure -fsync -apply` in its"
    " shell for this bucket, or rely on its replicas and on power that does not fail"
}
"""The start of a Server header → what is known of that store."""


class Check(NamedTuple):
    """The result of one check."""

    name: str
    result: str
    text: str


def check(client: ObjectClient, folder: str, now: datetime | None = None) -> list[Check]:
    """Runs all checks below `folder` of the bucket. Without an answer, only the first one."""
    probe = f"{folder}/probe/{os.urandom(8).hex()}"
    try:
        client.create(f"{probe}/first", b"first")
    except EngineError as error:
        return [Check("reachable", FAILED, str(error))]
    checks = [Check("reachable", PASSED, "objects can be written")]
    try:
        for name, run in (
            ("create-only", _create_only),
            ("reading", _reading),
            ("parts", _parts),
            ("list", _list),
        ):
            checks.append(_guarded(name, run, client, probe))
    finally:
        try:
            client.delete([f"{probe}/{name}" for name in ("first", "range", "parts")])
        except EngineError as error:
            checks.append(Check("removal", WARNING, f"objects cannot be removed, so that the bucket grows: {error}"))
    checks.extend(_of_the_store(client, now or datetime.now(UTC)))
    return checks


def has_failed(checks: list[Check]) -> bool:
    """Whether the store must not be used."""
    return any(item.result == FAILED for item in checks)


def _guarded(name: str, run: Callable[[ObjectClient, str], Check], client: ObjectClient, probe: str) -> Check:
    try:
        return run(client, probe)
    except EngineError as error:
        return Check(name, FAILED, str(error))


def _create_only(client: ObjectClient, probe: str) -> Check:
    try:
        client.create(f"{probe}/first", b"second")
    except ObjectExists:
        if client.get(f"{probe}/first") == b"first":
            return Check("create-only", PASSED, "a second writer of one key is refused")
    return Check(
        "create-only",
        FAILED,
        "the store lets a second writer replace an object (If-None-Match: * has no effect): two machines that take"
        " themselves for this archive would overwrite each other",
    )


def _reading(client: ObjectClient, probe: str) -> Check:
    key = f"{probe}/range"
    client.put(key, b"range")
    if client.get_range(key, 1, 4) != b"ang" or client.head(key).size != 5:
        return Check("reading", FAILED, "ranges or sizes of objects are wrong")
    try:
        client.get_range(key, 3, 9)
    except (ObjectWrong, StoreUnreachable):
        return Check("reading", PASSED, "ranges are read")
    return Check("reading", FAILED, "a range beyond the end of an object is answered with other bytes")


def _parts(client: ObjectClient, probe: str) -> Check:
    piece = os.urandom(1 << 20)
    count = client.settings.part_bytes // len(piece) + 1
    client.put_pieces(f"{probe}/parts", (piece for _ in range(count)), count * len(piece))
    end = count * len(piece)
    if client.head(f"{probe}/parts").size != end or client.get_range(f"{probe}/parts", end - len(piece), end) != piece:
        return Check("parts", FAILED, "an object written in parts is not what was written")
    return Check("parts", PASSED, "large objects are written in parts and read back")


def _list(client: ObjectClient, probe: str) -> Check:
    if {head.key for head in client.heads(probe)} >= {f"{probe}/first", f"{probe}/parts"}:
        return Check("list", PASSED, "new objects are listed at once")
    return Check("list", WARNING, "new objects are not listed at once: a restore looks for the newest ones by name")


def _of_the_store(client: ObjectClient, now: datetime) -> Iterator[Check]:
    """What the store says of itself."""
    if client.url.startswith("file://"):
        yield Check("durability", WARNING, "a folder: objects are acknowledged before they are on a disk")
        return
    if not client.url.startswith("s3://"):
        yield Check("rules", UNKNOWN, "look at the bucket's lifecycle rules: none may expire or archive w/ or h/")
        return
    who = s3_requests.signer(client.settings)
    if who is None:
        text = "the machine's own role signs: look at the bucket's lifecycle rules and versioning by hand"
        yield Check("rules", UNKNOWN, text)
        return

    def ask(**query: str) -> Answer:
        try:
            return s3_requests.ask(client.settings, who, query)
        except (OSError, http.client.HTTPException):
            return Answer(0, "", None)

    lifecycle = ask(lifecycle="")
    yield _durability(lifecycle.server)
    yield from _lifecycle(lifecycle)
    yield _versioning(ask(versioning=""))
    yield from _abandoned(ask(uploads=""), now)


def _durability(server: str) -> Check:
    for name, text in _UNSYNCED.items():
        if server.lower().startswith(name):
            return Check("durability", WARNING, text)
    return Check("durability", UNKNOWN, f"whether it syncs before it answers, {server or 'the store'} does not say")


def _lifecycle(answer: Answer) -> Iterator[Check]:
    if answer.status == http.client.NOT_FOUND:
        yield Check(
            "lifecycle", WARNING, "no rule aborts uploads that never ended: add one (AbortIncompleteMultipartUpload)"
        )
        return
    if answer.root is None:
        yield Check(
            "lifecycle", UNKNOWN, "the store does not tell its lifecycle rules: none may expire or archive w/ or h/"
        )
        return
    rules = [rule for rule in answer.elements("Rule") if rule.get("Status") == "Enabled"]
    harmful = [rule for rule in rules if "Expiration" in rule or _archives_more(rule)]
    for rule in harmful:
        name, prefix = rule.get("ID") or "without a name", rule.get("Prefix", "")
        verb = "removes" if "Expiration" in rule else "archives"
        yield Check(
            "lifecycle",
            FAILED if "Expiration" in rule else WARNING,
            f"the rule {name} {verb} objects below {prefix or 'everything'}: what lies in w/, h/ and k/ is needed at"
            " once by a restore, and s/ for as long as the studies are kept",
        )
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        yield Check(
            "lifecycle", WARNING, "no rule aborts uploads that never ended: add one (AbortIncompleteMultipartUpload)"
        )
    elif not harmful:
        yield Check(
            "lifecycle", PASSED, "no rule expires anything or archives more than s/, and abandoned uploads are aborted"
        )


def _archives_more(rule: dict[str, str]) -> bool:
    """Whether a rule archives more than full segments, which are recalled when somebody reads them."""
    return "Transition" in rule and not rule.get("Prefix", "").endswith("/s/")


def _versioning(answer: Answer) -> Check:
    if answer.root is None:
        return Check("versioning", UNKNOWN, "the store does not tell whether it keeps old versions")
    if "Enabled" in answer.texts("Status"):
        return Check(
            "versioning",
            PASSED,
            "removed objects are kept as old versions: deleted patients too, until a rule ends them",
        )
    return Check(
        "versioning", WARNING, "off: who has the credentials can remove everything; turn on versioning or Object Lock"
    )


def _abandoned(answer: Answer, now: datetime) -> Iterator[Check]:
    ages = [now - moment for text in answer.texts("Initiated") if (moment := _moment(text)) is not None]
    if old := sum(age > ABANDONED_AFTER for age in ages):
        yield Check("uploads", WARNING, f"{old} uploads never ended and are paid for: a lifecycle rule aborts them")


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
