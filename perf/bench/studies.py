"""The synthetic studies of a run: numbers that no other run uses, and which of them are stored."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from perf import corpus, population
from perf.population import StudyFacts

EPOCH_S = 1_767_225_600
"""2026-01-01: study numbers count from here, a hundred for each second, which eleven digits hold until 2057."""
NUMBERS_PER_S = 100


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study that was stored whole: one series."""

    number: int
    template: str
    instance_count: int

    @property
    def facts(self) -> StudyFacts:
        return facts_of(self.number, self.instance_count)

    @property
    def data_set_bytes(self) -> int:
        return len(corpus.template(self.template).data_set)


def facts_of(number: int, instance_count: int) -> StudyFacts:
    return population.plain_study(number, "CT", (instance_count,))


def first_number_now() -> int:
    """The first study number of a run that begins now."""
    return max(1, int((time.time() - EPOCH_S) * NUMBERS_PER_S))


class Studies:
    """Shared by all streams of a run."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._next = first
        self._lock = threading.Lock()
        self._stored: list[StoredStudy] = []

    def new_number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next - 1

    @property
    def last(self) -> int:
        """The last number in use."""
        return self._next - 1

    def add(self, study: StoredStudy) -> None:
        with self._lock:
            self._stored.append(study)

    def choose(self, rng: random.Random) -> StoredStudy:
        return rng.choice(self._stored)
