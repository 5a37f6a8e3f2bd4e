"""How a query was answered: by which access, and how much of the index was read for it. For people and for logs.

Holds no values, only keywords of attributes, kinds of access and numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Explanation:
    """Filled in while the matches of one query are drawn."""

    access: str = ""
    """In words: `study UID`, `search: PatientName prefix and StudyDate range`, `texts: PatientName`, `every study`."""
    keys_read: int = 0
    """Ids read from `search`, and rows of `texts`."""
    candidates: int = 0
    """Candidates (patients or studies) that the walk visited."""
    examined: int = 0
    """Patients, studies, series and instances that were looked at."""
    matches: int = 0
    """Matches returned so far."""
    pages: int = 0
    """Read transactions used."""
    beyond: int = 0
    """Matches after the last one returned, counted up to `Query.count_max`."""

    def summary(self) -> dict[str, str | int]:
        """All of it, for a log."""
        return {
            "access": self.access,
            "keys_read": self.keys_read,
            "candidates": self.candidates,
            "examined": self.examined,
            "matches": self.matches,
            "pages": self.pages,
        }
