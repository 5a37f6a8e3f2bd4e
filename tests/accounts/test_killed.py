"""kill -9 while accounts change: what was acknowledged is there, whole, and what was revoked stays revoked."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from time import time

import pytest

from engine.accounts import grants, users
from engine.accounts.database import FOLDER, Database
from engine.accounts.records import GrantRow, User

ROOT = Path(__file__).resolve().parent.parent.parent
CHANGES_MAX = 60

WORK = """
import sys
from itertools import count
from pathlib import Path
from time import time
from engine.accounts import grants, keys, sessions, users
from engine.accounts.database import Database
from engine.accounts.records import GrantRow, Key, User

database = Database(Path(sys.argv[1]))
for number in count():
    name = f"user{number}"
    users.add(database, User(name=name, roles=("full",), password="x" * 3000))
    print("user", name, flush=True)
    grant = grants.add(database, GrantRow(holder_kind="user", holder=name, actions=("query",), studies=("1.2",)))
    print("grant", grant, flush=True)
    key, _ = keys.add(database, Key(user=name, name="k", until=time() + 1e6, created=time()), name)
    print("key", key, flush=True)
    keys.revoke(database, key)
    print("revoked", key, flush=True)
    if number % 3 == 0:
        users.remove(database, name)
        print("removed", name, flush=True)
"""


@pytest.mark.parametrize("seed", range(2))
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(2):  # the second process goes on with what the first one left
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path / FOLDER)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chosen.randrange(1, CHANGES_MAX))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait(60)
        process.stdout.close()
        # A line that was not written whole acknowledges nothing.
        acknowledged = [tuple(line.split()) for line in lines if line.endswith("\n")]
        assert acknowledged, f"seed {seed}: the process changed nothing"
        database = Database(tmp_path / FOLDER)
        with database.read() as txn:
            present = {
                "user": {user.name for _, user in database.users.rows(txn)},
                "grant": {key.hex() for key, _ in database.grants.rows(txn)},
                "key": {key.hex()[:24] for key, _ in database.keys.rows(txn)},
            }
        ended = {name for what, name in acknowledged if what in ("revoked", "removed")}
        assert not ended & (present["user"] | present["key"]), f"seed {seed}: what was revoked is back"
        # Of the last user, the next change may have happened too: a revocation or a removal.
        is_certain = acknowledged[-1][0] in ("user", "grant")
        owner = last = [name for what, name in acknowledged if what == "user"][-1]
        for what, name in acknowledged:
            owner = name if what == "user" else owner
            if what in ("user", "grant") and owner not in ended and (owner != last or is_certain):
                assert name in present[what], f"seed {seed}: {what} {name} was acknowledged"
        users.add(database, User(name="later"))
        grants.add(database, GrantRow(holder_kind="user", holder="later", actions=("query",), studies=("1",)))
        for name in present["user"] | {"later"}:
            users.remove(database, name)
        database.close()


def test_a_commit_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    """LMDB without its syncs would pass the kills above, and lose what a power cut finds in memory."""
    database = Database(tmp_path / FOLDER)
    flags = database._environment.flags()
    assert flags["sync"] and flags["metasync"] and not flags["writemap"] and not flags["map_async"]
    assert users.add(database, User(name="a")).created <= time()
    database.close()
