"""The journal: every message of another system, on stable storage before it is acknowledged, and what it did."""

from engine.journal.entry import Fault, Outcome, Received, Result
from engine.journal.history import History, Row
from engine.journal.journal import Journal

__all__ = ["Fault", "History", "Journal", "Outcome", "Received", "Result", "Row"]
