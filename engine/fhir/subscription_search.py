"""Parameters of searches for Subscription. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engine.fhir.search import Parameter, Search, alternatives, tokens

ID, STATUS, TOPIC = "id", "status", "topic"


def _id(search: Search, name: str, values: Sequence[str]) -> None:
    search.values[ID] = tuple(alternatives(name, values))


def _status(search: Search, name: str, values: Sequence[str]) -> None:
    search.values[STATUS] = tuple(value for _, value in tokens(name, values))


def _topic(search: Search, name: str, values: Sequence[str]) -> None:
    search.values[TOPIC] = tuple(alternatives(name, values))


SUBSCRIPTION: Final[Mapping[str, Parameter]] = {
    "_id": Parameter("token", "The id of the resource", _id),
    "status": Parameter("token", "requested, active, error, off", _status),
    "criteria": Parameter("string", "The topic (R4)", _topic),
    "topic": Parameter("uri", "The topic (R5)", _topic),
}
