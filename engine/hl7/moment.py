"""Times: YYYY[MM[DD[HH[MM[SS[.S[S[S[S]]]]]]]]][+/-ZZZZ] (HL7 v2.5.1 2.A.22) as DICOM's DA, TM and offset.

A time without an offset is in the zone of its source, which has a name, since its offset changes during the year: none
is invented for DICOM. In the hour that a clock repeats in autumn, the first one is meant; a time in the hour that is
skipped in spring is that much after the change.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_TIME = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?)?)?\s*([+-]\d{4})?", re.ASCII
)


class Moment(NamedTuple):
    """A date with what is known of its time."""

    date: str
    """YYYY, YYYYMM or YYYYMMDD."""
    time: str = ""
    """HH, HHMM or HHMMSS with a fraction; "" if there is none."""
    offset: str = ""
    """+0100; "" if the message does not say it."""

    @property
    def full_date(self) -> str:
        """The date for DICOM's DA; "" if it is not known to the day."""
        return self.date if len(self.date) == 8 else ""

    def seconds(self, zone: ZoneInfo | None) -> float:
        """Seconds since 1970, of the beginning of what is not known. Without a zone the one of this machine counts; in
        the first days of the year 1, which some programs write for "none", no zone does.
        """
        digits = f"{self.date}0101"[:8] if len(self.date) == 4 else f"{self.date}01"[:8]
        whole, _, fraction = self.time.partition(".")
        whole = whole.ljust(6, "0")
        local = datetime(
            int(digits[:4]),
            int(digits[4:6]),
            int(digits[6:]),
            int(whole[:2]),
            int(whole[2:4]),
            int(whole[4:]),
            int(fraction.ljust(6, "0")) if fraction else 0,
        )
        if self.offset:
            minutes = int(self.offset[1:3]) * 60 + int(self.offset[3:])
            return local.replace(
                tzinfo=timezone(timedelta(minutes=-minutes if self.offset[0] == "-" else minutes))
            ).timestamp()
        try:
            return local.replace(tzinfo=zone, fold=0).timestamp()
        except (ValueError, OverflowError):
            return local.replace(tzinfo=UTC).timestamp()


def parse(text: str) -> Moment | None:
    """A time as HL7 writes it; None if it is none, or a date that does not exist."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups(default="")
    try:
        datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), min(int(second or 0), 59))
    except ValueError:
        return None
    if second and int(second) > 60:
        return None
    if offset and (int(offset[1:3]) > 14 or int(offset[3:]) > 59):
        return None
    if second == "60":
        second = "59"  # a leap second, which no clock here has
    time = hour + minute + second + (f".{fraction}" if fraction else "")
    return Moment(year + month + day, time, offset)


def write(seconds: float, zone: ZoneInfo | None) -> str:
    """A time with its offset, to the second."""
    local = datetime.fromtimestamp(seconds, zone or UTC)
    return local.strftime("%Y%m%d%H%M%S%z")
