"""The [[route]] tables: what is sent on when it has arrived."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import AETitle, Name

After = Literal["stored", "series_quiet", "study_quiet", "study_complete"]


class Route(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule that sends on what has arrived, by a job for each peer, while HTTP is enabled.

    A peer gets nothing that only it has sent, and nothing that its role may not see."""

    name: Name
    """Its name here. Its position in the feed is stored under this name: a new name begins with new events."""

    peers: Annotated[tuple[AETitle, ...], Meta(min_length=1, max_length=64)]
    """The [[peer]] tables of the receivers, by DICOM or DICOMweb."""

    after: After = "series_quiet"
    """When to send: stored, each instance within seconds; series_quiet, the series, and study_quiet and study_complete,
    the study, after the times of the [feed] table without a new instance. After late instances all is sent again."""

    keys: Annotated[dict[str, str], Meta(max_length=32)] = {}
    """What it must match, as in a C-FIND at the level of the instance, series or study: keyword or tag and value, for
    example { Modality = "CT", StationName = "ER*" }; empty: anything."""

    senders: tuple[AETitle, ...] = ()
    """Only what has an instance that one of these AE titles has sent; empty: anybody."""
