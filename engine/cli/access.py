"""What the accounts and the configuration let people and peers do, for `filmroom access`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from typing import Any

from engine.access import Policy
from engine.access.explanation import explain, rights_of_peer, rights_of_user, user_named
from engine.accounts.accounts import Accounts
from engine.cli import backend
from engine.config import Config
from engine.errors import NotStored


def explanation(config: Config, user: str, study_instance_uid: str) -> list[dict[str, Any]]:
    """Whether and why a user may do what with a study. Raises NotStored for a user or a study that does
    not exist."""
    accounts = Accounts.open(config.data, lambda: config, read_only=True)
    try:
        if accounts.directory.user(user) is None:
            raise NotStored(f"there is no user {user}")
        with backend.opened(config) as archive:
            facts = archive.access_facts(study_instance_uid)
        if facts is None:
            raise NotStored(f"no study {study_instance_uid} is stored; `filmroom find` lists those that are")
        policy = Policy(lambda: config, accounts.directory)
        return [asdict(reason) for reason in explain(policy, user_named(user), facts, date.today())]
    finally:
        accounts.close()


def report(config: Config) -> Iterator[dict[str, Any]]:
    """Every user and every peer, with what they may do."""
    accounts = Accounts.open(config.data, lambda: config, read_only=True)
    try:
        policy = Policy(lambda: config, accounts.directory)
        for name in accounts.directory.user_names():
            yield asdict(rights_of_user(policy, name))
        for peer in config.peers:
            yield asdict(rights_of_peer(policy, peer))
    finally:
        accounts.close()
