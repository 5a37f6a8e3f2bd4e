"""Explains how a query was answered: the access, and how much of the index it read. For people and for logs.

Contains no values, only keywords of attributes, kinds of access and numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Explanation:
    """The explanation of one query; filled in while the caller takes its matches."""

    access: str = ""
    """In words: `study UID`, `search: PatientName prefix and StudyDate range`, `texts: PatientName`, `every study`."""
    keys_read: int = 0
    """Ids read from `search`, and rows of `texts`."""
    candidates: int = 0
    """Candidates (patients or studies) that the walk visited."""
    examined: int = 0
    """Patients, studies, series and instances that were tested."""
    matches: int = 0
    """Matches returned so far."""
    pages: int = 0
    """Read transactions used."""
    beyond: int = 0
    """Matches after the last one returned, counted up to `Query.count_max`."""

    def summary(self) -> dict[str, str | int]:
        """The fields for a log."""
        return {
            "access": self.access,
            "keys_read": self.keys_read,
            "candidates": self.candidates,
            "examined": self.examined,
            "matches": self.matches,
            "pages": self.pages,
        }
