"""The keys of `search` that a batch adds and removes: queries find patients, studies and series by them.

`format.terms` makes the keys of a value. New keys are put at the end of the batch, in order, so that neighbours share a
page.
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
        """Keys to be put, with their owners."""
        self.puts_all = False
        """Whether to put keys even if they should exist already: `reextract` needs it."""

    def begin(self) -> None:
        """Begins a batch."""
        self._new.clear()

    def add(self, owner: bytes, items: Mapping[int, bytes]) -> None:
        """Adds the keys of a new entity."""
        self._new += [(key, owner) for key in terms.search_keys(items, self._environment.schema)]

    def change(self, txn: WriteTxn, owner: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Updates the keys of an entity whose facts have changed."""
        table = self._environment.search
        if not self.puts_all:
            # A key is that of one attribute: those that stay the same have the same keys.
            changed = {tag for tag in before.keys() | after.keys() if before.get(tag, b"") != after.get(tag, b"")}
            before, after = ({tag: each[tag] for tag in changed & each.keys()} for each in (before, after))
        old = terms.search_keys(before, self._environment.schema)
        new = terms.search_keys(after, self._environment.schema)
        if removed := old - new:
            self.write(txn)
            for key in removed:
                txn.delete(key, owner, db=table)
        self._new += [(key, owner) for key in (new if self.puts_all else new - old)]

    def write(self, txn: WriteTxn) -> None:
        """Puts the new keys."""
        if self._new:
            with txn.cursor(db=self._environment.search) as cursor:
                cursor.putmulti(sorted(self._new, key=_key))
            self._new.clear()
