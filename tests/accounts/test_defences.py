"""The defences of accounts and sessions, each by what an attacker or an accident would gain without it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import pyotp
import pytest

from engine.access import Kind, Principal
from engine.accounts import (
    directory,
    grants,
    keys,
    links,
    passwords,
    second_factor,
    sessions,
    shares,
    throttle,
    tokens,
    users,
)
from engine.accounts.accounts import Accounts
from engine.accounts.database import FILE, FOLDER, Database
from engine.accounts.directory import AccountDirectory
from engine.accounts.records import Failures, GrantRow, Key, Share, User
from engine.config import Config
from engine.errors import AccountsConflict, AccountsError, AccountsRefused, LoginFailed, LoginLater, NoSuchAccount
from tests import light_passwords

HERE, THERE = "10.0.0.1", "10.0.0.2"
GOOD = "correct horse battery"


@dataclass
class Clock:
    """The time, for all modules of the accounts."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (directory, grants, keys, links, sessions, shares, users):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / FOLDER)
    yield database
    database.close()


@pytest.fixture
def anna(database: Database, clock: Clock) -> User:
    return users.add(database, User(name="Anna", roles=("full",), password="hash"))


@pytest.fixture
def known(database: Database, clock: Clock) -> AccountDirectory:
    config = Config(data=database.folder.parent)
    return AccountDirectory(database, lambda: config)


def session_of(database: Database, user: User, lasts_s: float = 1000.0) -> str:
    return sessions.begin(database, user, method="password", lasts_s=lasts_s)


def key_of(clock: Clock, **fields: Any) -> Key:
    return Key(**{"user": "anna", "name": "k", "until": clock() + 60, "created": clock(), **fields})


def share_of(clock: Clock, **fields: Any) -> Share:
    return Share(
        **{"studies": ("1.2",), "until": clock() + 100, "created": clock(), "by": "x", "owner": "anna", **fields}
    )


def refused(error: type[Exception], work: Callable[[], object]) -> None:
    with pytest.raises(error):
        work()


# the database --------------------------------------------------------------------------------------


def test_nobody_else_on_the_machine_reads_it(database: Database) -> None:
    paths = [database.folder, *database.folder.iterdir()]
    assert [path.name for path in paths if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("harm", ["half", "format", "secret"])
def test_a_torn_or_foreign_database_does_not_open(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / FOLDER
    Database(folder).close()
    if harm == "half":
        os.truncate(folder / FILE, 4096 + 100)
    else:
        environment = lmdb.open(str(folder), max_dbs=16)
        with environment.begin(write=True) as txn:
            txn.put(harm.encode(), b"2", db=environment.open_db(b"meta", txn=txn))
        environment.close()
    refused(AccountsError, lambda: Database(folder))


def test_a_row_that_cannot_be_read_lets_nobody_in(database: Database, known: AccountDirectory, anna: User) -> None:
    token = session_of(database, anna)
    with database.write() as txn:
        txn.raw.put(tokens.digest_of(token), b'{"user": 7}', db=database.sessions._handle)
    refused(AccountsError, lambda: known.proof(token))


# users ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ANNA", "anna", "\uff21nna", "\u1d2cnna"])
def test_names_that_look_alike_are_one_user(database: Database, anna: User, name: str) -> None:
    refused(AccountsConflict, lambda: users.add(database, User(name=name)))
    assert users.get(database, name) == anna


@pytest.mark.parametrize("name", ["", "a b", "a/b", 'a"b', "a\nb", "a\u202eb", "x" * 129, "\U0001f600" * 128])
def test_a_name_cannot_deceive_a_reader_or_a_parser(database: Database, name: str) -> None:
    refused(AccountsRefused, lambda: users.add(database, User(name=name)))


def test_a_disabled_user_is_out_at_once(database: Database, known: AccountDirectory, clock: Clock, anna: User) -> None:
    token, (_, key) = session_of(database, anna), keys.add(database, key_of(clock), "anna")
    users.change(database, "anna", certificates=("CN=anna",))
    by_certificate = Principal(Kind.HTTP, "Anna", HERE, session="c-1", certificate_names=frozenset({"CN=anna"}))
    proof = known.proof(token)
    assert proof is not None and known.proof(key) and known.is_valid(by_certificate)
    users.change(database, "anna", is_disabled=True)
    assert known.proof(token) is None and known.proof(key) is None
    assert not known.is_valid(proof.principal(HERE)) and not known.is_valid(by_certificate)
    assert not known.is_valid(Principal(Kind.PEER, "CT1", HERE, user="anna"))
    users.change(database, "anna", is_disabled=False)
    assert known.proof(token) is None, "its sessions do not come back"


def test_a_new_password_ends_the_other_sessions(database: Database, known: AccountDirectory, anna: User) -> None:
    kept, other = session_of(database, anna), session_of(database, anna)
    users.set_password(database, "anna", "new", kept_session=tokens.digest_of(kept))
    assert known.proof(kept) is not None and known.proof(other) is None


def test_another_user_of_the_same_name_inherits_nothing(
    database: Database, known: AccountDirectory, clock: Clock, anna: User
) -> None:
    token, (_, key) = session_of(database, anna), keys.add(database, key_of(clock), "anna")
    link = links.make(database, user="Anna")
    row = GrantRow(holder_kind="user", holder="anna", actions=("query",), studies=("1.2",))
    grants.add(database, row)
    emergency = {"studies": ("1.3",), "patient": None, "reason": "unconscious", "lasts_s": 600.0, "by": "x"}
    grants.break_glass(database, "anna", **emergency)  # type: ignore[arg-type]
    by_certificate = Principal(Kind.HTTP, "anna", HERE, session="c-1")
    assert len(known.grants_of(by_certificate)) == 2
    users.remove(database, "ANNA")
    users.add(database, User(name="anna", roles=("full",)))
    assert known.proof(token) is None and known.proof(key) is None
    refused(NoSuchAccount, lambda: links.follow(database, link, "", "hash"))
    assert known.grants_of(by_certificate) == ()
    with database.read() as txn:
        kept = [grant for _, grant in database.grants.rows(txn)]
    assert [grant.is_break_glass for grant in kept] == [True], "it stays for review, and has ended"
    assert kept[0].until is not None and kept[0].until <= clock()


# sessions ------------------------------------------------------------------------------------------


def test_a_session_ends_by_time_and_for_want_of_use(
    database: Database, known: AccountDirectory, clock: Clock, anna: User
) -> None:
    idle_s = Config(data=database.folder).accounts.session_idle_s
    token = session_of(database, anna, lasts_s=1.5 * idle_s)
    clock.now += idle_s - 1
    proof = known.proof(token)
    assert proof is not None
    assert known.note_use(proof, clock(), sessions.TOUCH_S) and not known.note_use(proof, clock(), sessions.TOUCH_S)
    clock.now += 2
    assert known.proof(token) is not None, "it was used"
    clock.now += idle_s
    assert known.proof(token) is None
    token = session_of(database, anna, lasts_s=60.0)
    clock.now += 60
    assert known.proof(token) is None
    session_of(database, anna)
    with database.read() as txn:
        assert database.sessions.count(txn) == 1, "those that have ended by their time leave nothing behind"


def test_a_user_has_a_bounded_number_of_sessions(
    database: Database, clock: Clock, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PER_USER_MAX", 3)
    made = []
    for _ in range(5):
        clock.now += 1
        made.append(session_of(database, anna))
    with database.read() as txn:
        alive = [database.sessions.get(txn, tokens.digest_of(token)) is not None for token in made]
    assert alive == [False, False, True, True, True]


def test_only_ones_own_sessions_and_keys_are_revoked(database: Database, clock: Clock, anna: User) -> None:
    users.add(database, User(name="eve", roles=("full",)))
    identifier = tokens.id_of(tokens.digest_of(session_of(database, anna)))
    key, _ = keys.add(database, key_of(clock), "anna")
    for wrong in (identifier[:2], "", identifier[:-1] + "g", identifier + "00"):
        assert not sessions.revoke(database, wrong) and not keys.revoke(database, wrong)
    assert not sessions.revoke(database, identifier, "eve") and not keys.revoke(database, key, "eve")
    assert sessions.revoke(database, identifier, "ANNA") and keys.revoke(database, key, "Anna")


def test_visitors_stay_when_the_sessions_of_nobody_end(database: Database, clock: Clock, anna: User) -> None:
    _, token = shares.add(database, share_of(clock))
    shares.open_session(database, token, lasts_s=60, address=HERE, agent="")
    assert sessions.revoke_all(database, "") == 0
    refused(NoSuchAccount, lambda: session_of(database, User(name="nobody")))


def test_tokens_are_long_and_their_digests_alone_are_stored(database: Database, clock: Clock, anna: User) -> None:
    made = [session_of(database, anna), keys.add(database, key_of(clock), "anna")[1], links.make(database, user="anna")]
    made.append(shares.add(database, share_of(clock))[1])
    stored = (database.folder / FILE).read_bytes()
    for token in made:
        assert len(token) >= 32 and token.encode() not in stored
    assert len(set(made)) == 4


# the directory -------------------------------------------------------------------------------------


def test_a_change_of_another_process_acts_at_the_next_question(
    tmp_path: Path, database: Database, known: AccountDirectory, clock: Clock, anna: User
) -> None:
    token = session_of(database, anna)
    proof = known.proof(token)
    assert proof is not None and known.is_valid(proof.principal(HERE))
    assert known.roles_of(proof.principal(HERE)) == {"full"}
    other = Database(tmp_path / FOLDER)
    users.change(other, "anna", roles=("read",))
    assert known.roles_of(proof.principal(HERE)) == {"read"}
    sessions.end(other, tokens.digest_of(token))
    assert not known.is_valid(proof.principal(HERE)) and known.proof(token) is None
    other.close()


def test_a_key_has_no_more_rights_than_its_user(
    database: Database, known: AccountDirectory, clock: Clock, anna: User
) -> None:
    refused(AccountsRefused, lambda: keys.add(database, key_of(clock, roles=("admin",)), "anna"))
    refused(AccountsRefused, lambda: keys.add(database, key_of(clock, until=clock() - 1), "anna"))
    refused(AccountsRefused, lambda: keys.add(database, key_of(clock, until=clock() + keys.LASTS_S_MAX + 1), "anna"))
    refused(AccountsRefused, lambda: keys.add(database, key_of(clock, name=""), "anna"))
    users.change(database, "anna", roles=("full", "admin"))
    _, token = keys.add(database, key_of(clock, roles=("admin",), actions=("query",)), "anna")
    proof = known.proof(token)
    assert proof is not None
    principal = proof.principal(HERE)
    assert known.roles_of(principal) == {"admin"} and known.actions_of(principal) == frozenset({"query"})
    users.change(database, "anna", roles=("full",))
    assert known.roles_of(principal) == set()
    clock.now += 60
    assert known.proof(token) is None and not known.is_valid(principal)


def test_a_user_has_a_bounded_number_of_keys(
    database: Database, clock: Clock, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PER_USER_MAX", 2)
    keys.add(database, key_of(clock), "anna")
    keys.add(database, key_of(clock), "anna")
    refused(AccountsRefused, lambda: keys.add(database, key_of(clock), "anna"))


def test_who_must_change_the_password_may_do_nothing_else(
    database: Database, known: AccountDirectory, anna: User
) -> None:
    users.change(database, "anna", must_change_password=True)
    proof = known.proof(session_of(database, anna))
    assert proof is not None and known.actions_of(proof.principal(HERE)) == frozenset()


def test_what_strangers_show_fills_no_memory(
    database: Database, known: AccountDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "CACHE_MAX", 8)
    for number in range(50):
        assert not known.is_valid(Principal(Kind.HTTP, "", HERE, session=f"s-{number:024x}"))
    assert len(known._by_identifier) <= 8
    for number in range(50):
        assert known.user_of_certificate(frozenset({f"CN={number}"})) is None
    assert len(known._by_certificate) <= 8
    for number in range(50):
        assert known.proof(f"token{number}") is None
    assert len(known._by_digest) <= 8
    assert known.proof("x" * (tokens.TOKEN_LENGTH_MAX + 1)) is None
    assert tokens.digest_of("x" * (tokens.TOKEN_LENGTH_MAX + 1)) not in known._by_digest, "it is not even hashed"


def test_what_a_row_says_now_counts_even_if_its_sessions_were_left(
    database: Database, known: AccountDirectory, clock: Clock, anna: User
) -> None:
    """The second line: whoever changes a row otherwise, as a restore does, leaves the sessions as they are."""
    token = session_of(database, anna)
    visitors = []
    for fields in ({}, {"revoked": 1.0}, {"until": clock() + 10}):
        _, link = shares.add(database, share_of(clock))
        visitors.append(shares.open_session(database, link, lasts_s=60, address=HERE, agent=""))
        with database.write() as txn:
            database.shares.put(txn, tokens.digest_of(link), share_of(clock, **fields))
    assert [known.proof(visitor) is not None for visitor in visitors] == [True, False, True]
    clock.now += 10
    assert [known.proof(visitor) is not None for visitor in visitors] == [True, False, False]
    assert known.proof(token) is not None
    with database.write() as txn:
        database.users.put(txn, b"anna", User(name="Anna", is_disabled=True))
    assert known.proof(token) is None


# wrong attempts ------------------------------------------------------------------------------------


def attempts(database: Database, count: int, *, account: str = "anna", address: str = HERE, now: float = 1e9) -> int:
    """Tries so often at one time; how often that was allowed."""
    allowed = 0
    for _ in range(count):
        try:
            throttle.begin(database, account, address, now)
        except LoginLater:
            continue
        allowed += 1
    return allowed


def test_who_guesses_waits_longer_each_time_and_nobody_else(database: Database) -> None:
    assert attempts(database, 20) == throttle.FREE
    assert attempts(database, 1, address=THERE) == attempts(database, 1, account="bob") == 1
    waits, now = [], 1e9
    for _ in range(14):
        with pytest.raises(LoginLater) as later:
            throttle.begin(database, "anna", HERE, now)
        waits.append(later.value.retry_s)
        now += later.value.retry_s
        throttle.begin(database, "anna", HERE, now)
    assert waits[:5] == [1, 2, 4, 8, 16] and waits[-1] == throttle.DELAY_S_MAX
    assert attempts(database, 20, now=now + throttle.FORGOTTEN_S) == throttle.FREE
    assert attempts(database, 1, now=now - 1e6) == 1, "a clock that was set back keeps nobody out"


def test_who_guesses_many_accounts_waits_too(database: Database) -> None:
    allowed = sum(attempts(database, 1, account=f"user{number}") for number in range(2 * throttle.ADDRESS_FREE))
    assert allowed == throttle.ADDRESS_FREE


def test_a_client_is_its_network_in_ipv6_and_its_address_in_ipv4(database: Database) -> None:
    assert sum(attempts(database, 1, address=f"2001:db8::{number:x}%eth0") for number in range(20)) == throttle.FREE
    assert attempts(database, 1, address="2001:db8:0:1::1") == 1
    assert attempts(database, 20, address="::ffff:10.9.9.9") == throttle.FREE
    assert attempts(database, 1, address="10.9.9.9") == 0
    assert attempts(database, 1, address="::ffff:10.9.9.8") == 1


def test_what_proves_right_forgets_the_account_and_not_the_address(database: Database) -> None:
    attempts(database, throttle.FREE)
    throttle.take_back(database, "anna", HERE, is_right=True)
    assert attempts(database, 20) == throttle.FREE
    with database.read() as txn:
        counts = sorted(row.count for _, row in database.failures.rows(txn))
    assert counts == [throttle.FREE, 2 * throttle.FREE - 1]
    throttle.take_back(database, "anna", HERE, is_right=False)
    assert attempts(database, 20) == 1


def test_a_flood_of_names_does_not_fill_the_disk(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "ROWS_MAX", 10)
    monkeypatch.setattr(throttle, "ADDRESS_FREE", 1000)
    for number in range(60):
        throttle.begin(database, f"user{number}", HERE, 1e9 + number)
    with database.read() as txn:
        assert database.failures.count(txn) <= 11
        newest: list[Failures] = [row for _, row in database.failures.rows(txn)]
    assert max(row.last for row in newest) == 1e9 + 59


# links, shares, codes, passwords -------------------------------------------------------------------


def test_a_link_works_once_and_for_a_day(database: Database, known: AccountDirectory, clock: Clock, anna: User) -> None:
    session = session_of(database, anna)
    older, link = links.make(database, user="Anna"), links.make(database, user="Anna")
    refused(NoSuchAccount, lambda: links.follow(database, older, "", "new"))
    assert links.follow(database, link, "", "new").password == "new"
    assert known.proof(session) is None, "whoever had the password before is out"
    refused(NoSuchAccount, lambda: links.follow(database, link, "", "again"))
    refused(NoSuchAccount, lambda: links.show(database, link))
    invitation = links.make(database, roles=("full",))
    refused(AccountsRefused, lambda: links.follow(database, invitation, "anna", "x"))
    refused(AccountsRefused, lambda: links.follow(database, invitation, "a b", "x"))
    clock.now += links.LASTS_S
    refused(NoSuchAccount, lambda: links.show(database, invitation))
    refused(NoSuchAccount, lambda: links.follow(database, invitation, "bob", "x"))
    assert users.get(database, "anna").password == "new"


def test_a_share_ends_and_takes_its_visitors_along(
    database: Database, known: AccountDirectory, clock: Clock, anna: User
) -> None:
    for wrong in (
        share_of(clock, studies=()),
        share_of(clock, until=clock()),
        share_of(clock, until=clock() + shares.LASTS_S_MAX + 1),
    ):
        refused(AccountsRefused, lambda wrong=wrong: shares.add(database, wrong))  # type: ignore[misc]
    identifier, token = shares.add(database, share_of(clock, uses_max=2))

    def visit() -> str:
        return shares.open_session(database, token, lasts_s=1e9, address=HERE, agent="")

    first, second = visit(), visit()
    refused(NoSuchAccount, visit)
    refused(NoSuchAccount, lambda: shares.show(database, token))
    proof = known.proof(first)
    assert [session.until for _, session in sessions.listed(database)] == [clock() + 100] * 2, "not after the share"
    assert proof is not None and len(known.grants_of(proof.principal(HERE))) == 1
    assert shares.revoke(database, identifier, "eve", owner="eve") is None
    assert known.proof(second) is not None
    assert shares.revoke(database, identifier, "anna", owner="anna") is not None
    assert known.proof(first) is None and known.proof(second) is None and sessions.listed(database) == []
    assert known.grants_of(proof.principal(HERE)) == ()
    _, token = shares.add(database, share_of(clock))
    visitor = visit()
    clock.now += 100
    assert known.proof(visitor) is None
    refused(NoSuchAccount, visit)


def test_a_code_counts_once(database: Database, clock: Clock, anna: User) -> None:
    secret = second_factor.new_secret()
    recovery = second_factor.new_recovery_codes()
    digests = tuple(map(second_factor.recovery_digest, recovery))
    user = users.change(database, "anna", totp_secret=secret, recovery_codes=digests)
    now = 1_800_000_015.0
    code = pyotp.TOTP(secret).at(int(now))
    assert second_factor.accept(database, user, code, now)
    assert not second_factor.accept(database, user, code, now)
    earlier = pyotp.TOTP(secret).at(int(now) - second_factor.STEP_S)
    assert not second_factor.accept(database, user, earlier, now), "nor one from before it"
    for steps in (-2, 2):
        assert second_factor.step_of(secret, pyotp.TOTP(secret).at(int(now) + 30 * steps), 0, now) is None
    assert second_factor.accept(database, user, recovery[0].upper(), now)
    assert not second_factor.accept(database, user, recovery[0], now)
    assert second_factor.accept(database, user, recovery[1], now)
    assert not second_factor.accept(database, user, "", now)
    assert recovery[2] not in (database.folder / FILE).read_bytes().decode("latin-1")


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "password1234567", "Filmroom2026!!!!", GOOD * 50])
def test_what_everybody_tries_first_is_no_password(password: str) -> None:
    refused(AccountsRefused, lambda: passwords.check_rules(password, "anna", 12))
    passwords.check_rules(GOOD, "anna", 12)


def test_a_hash_costs_what_owasp_asks_for() -> None:
    stored = light_passwords.AS_RELEASED.hash(GOOD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert passwords.matches(stored, GOOD) and not passwords.matches(stored, GOOD + "x")


def test_without_a_hash_no_password_is_right_and_it_costs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    real = passwords.HASHER.verify

    class Watched:
        hash = staticmethod(passwords.HASHER.hash)

        @staticmethod
        def verify(stored: str, password: bytes) -> bool:
            verified.append(stored)
            return real(stored, password)

    monkeypatch.setattr(passwords, "HASHER", Watched)
    stored = passwords.hash_of(GOOD)
    assert passwords.matches(stored, GOOD) and not passwords.matches(stored, GOOD + "x")
    assert not passwords.matches("", GOOD) and not passwords.matches("", "nobody")
    assert not passwords.matches("no hash", GOOD)
    assert len(verified) == 5 and verified[2].startswith("$argon2id$")


@pytest.mark.unjittered("the loop begins tasks in their order")
def test_too_many_logins_at_once_are_refused_and_not_queued() -> None:
    async def run() -> list[object]:
        threads = passwords.Passwords()
        try:
            calls = [threads.matches("", GOOD) for _ in range(passwords.THREADS + passwords.QUEUE_MAX + 3)]
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            threads.close()

    results = asyncio.run(run())
    assert [type(result) for result in results[-3:]] == [LoginLater] * 3
    assert results[:-3] == [False] * (passwords.THREADS + passwords.QUEUE_MAX)


def test_a_log_in_says_nothing_and_counts_until_it_proves_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.accounts.accounts.time", Clock())  # however long the hashes take

    async def run() -> None:
        config = Config(data=tmp_path)
        accounts = Accounts.open(tmp_path, lambda: config)
        try:
            stored = passwords.hash_of(GOOD)
            users.add(accounts.database, User(name="anna", password=stored))
            users.add(accounts.database, User(name="gone", password=stored, is_disabled=True))
            said = set()
            for name, password in (("anna", "wrong"), ("gone", GOOD), ("nobody", GOOD), ("x" * 500, GOOD)):
                with pytest.raises(LoginFailed) as failed:
                    await accounts.log_in(name, password, address=HERE)
                said.add(str(failed.value))
            assert len(said) == 1
            for _ in range(throttle.FREE - 1):
                with pytest.raises(LoginFailed):
                    await accounts.log_in("anna", "wrong", address=HERE)
            with pytest.raises(LoginLater):
                await accounts.log_in("anna", GOOD, address=HERE)
            assert (await accounts.log_in("anna", GOOD, address=THERE)).name == "anna"
        finally:
            accounts.close()

    asyncio.run(run())
