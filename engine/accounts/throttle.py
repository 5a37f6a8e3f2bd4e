"""Wrong attempts make the next one wait, by account and address, and by address alone.

    account and address     FREE wrong ones, then 1, 2, 4 … seconds, up to DELAY_S_MAX
    address                 ADDRESS_FREE wrong ones for any accounts, then the same up to ADDRESS_DELAY_S_MAX

Whoever tries passwords slows down itself: the same user elsewhere, and others, log in as ever. An attempt counts as
wrong from its beginning until it proves right, so that many at once, in whichever process, gain nothing. Refused
attempts do not count.
"""

from __future__ import annotations

import ipaddress
from hashlib import sha256
from typing import Final

from engine.accounts.database import Database, Transaction
from engine.accounts.records import Failures
from engine.errors import LoginLater

FREE: Final = 5
FIRST_DELAY_S: Final = 1.0
DELAY_S_MAX: Final = 900.0
ADDRESS_FREE: Final = 50
ADDRESS_DELAY_S_MAX: Final = 60.0
FORGOTTEN_S: Final = 86_400.0
"""After so long without a wrong attempt, the earlier ones are forgotten."""
ROWS_MAX: Final = 20_000
"""When there are more, the oldest half goes: a flood of names must not fill the disk."""


def begin(database: Database, account: str, address: str, now: float) -> None:
    """Counts an attempt. Raises LoginLater if one must wait."""
    own, wide = _keys(account, address)
    rows = ((own, FREE, DELAY_S_MAX), (wide, ADDRESS_FREE, ADDRESS_DELAY_S_MAX))
    with database.write() as txn:
        counts = [_count(database.failures.get(txn, key), now) for key, _, _ in rows]
        for (_, free, delay_s_max), failures in zip(rows, counts, strict=True):
            delay_s = (
                min(delay_s_max, FIRST_DELAY_S * 2.0 ** min(failures.count - free, 30))
                if failures.count >= free
                else 0.0
            )
            if now < failures.last + delay_s:
                raise LoginLater("too many wrong attempts; wait before the next one", failures.last + delay_s - now)
        for (key, _, _), failures in zip(rows, counts, strict=True):
            database.failures.put(txn, key, Failures(count=failures.count + 1, last=now))
        if database.failures.count(txn) > ROWS_MAX:
            _make_room(database, txn)


def take_back(database: Database, account: str, address: str, *, is_right: bool) -> None:
    """Takes a begun attempt back; if it was right, all earlier wrong ones for this account and address too."""
    own, wide = _keys(account, address)
    with database.write() as txn:
        for key, forget in ((own, is_right), (wide, False)):
            failures = database.failures.get(txn, key)
            if failures is None:
                continue
            if forget or failures.count <= 1:
                database.failures.delete(txn, key)
            else:
                database.failures.put(txn, key, Failures(count=failures.count - 1, last=failures.last))


def _count(failures: Failures | None, now: float) -> Failures:
    """The failures that still count. A clock that was set back must keep nobody out."""
    if failures is None or not 0 <= now - failures.last < FORGOTTEN_S:
        return Failures(count=0, last=0.0)
    return failures


def _make_room(database: Database, txn: Transaction) -> None:
    rows = sorted((failures.last, key) for key, failures in database.failures.rows(txn))
    for _, key in rows[: len(rows) // 2]:
        database.failures.delete(txn, key)


def _network(address: str) -> str:
    """An address as one client: in IPv6 a client has a /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(parsed), 64), strict=False).network_address)
    return str(parsed)


def _keys(account: str, address: str) -> tuple[bytes, bytes]:
    """The rows of an account at an address, and of the address."""
    network = _network(address)
    return _digest(f"account {account}\n{network}"), _digest(f"address {network}")


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "replace")).digest()
