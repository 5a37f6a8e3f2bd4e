"""Keys of `search` that a batch adds and takes out: what patients, studies and series are found by.

What keys a value has is for `format.terms`. New keys are put together at the end of the batch, in order: neighbours lie
on one page.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

from engine.index.database.environment import Environment
from engine.index.database.transactions import WriteTxn
from engine.index.format import terms

_key = itemgetter(0)


class SearchKeys:
    """The keys of one batch."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._new: list[tuple[bytes, bytes]] = []
        """Keys and their owners that are not put yet."""
        self.puts_all = False
        """Whether keys are put though they should be there already: see `reextract`."""

    def begin(self) -> None:
        """Begins a batch."""
        self._new.clear()

    def add(self, owner: bytes, items: Mapping[int, bytes]) -> None:
        """Adds the keys of an entity that is new."""
        self._new += [(key, owner) for key in terms.search_keys(items, self._environment.schema)]

    def change(self, txn: WriteTxn, owner: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Brings the keys from one set of an entity's facts to another."""
        table = self._environment.search
        old = terms.search_keys(before, self._environment.schema)
        new = terms.search_keys(after, self._environment.schema)
        if removed := old - new:
            self.write(txn)
            for key in removed:
                txn.delete(key, owner, db=table)
        self._new += [(key, owner) for key in (new if self.puts_all else new - old)]

    def write(self, txn: WriteTxn) -> None:
        """Puts what is new."""
        if self._new:
            with txn.cursor(db=self._environment.search) as cursor:
                cursor.putmulti(sorted(self._new, key=_key))
            self._new.clear()
