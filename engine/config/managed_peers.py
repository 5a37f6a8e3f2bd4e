"""The peers that were added on the page: DATA/peers.toml, beside the user's configuration file, which is never written.

    # Peers that were added on the page of Filmroom. …
    [[peer]]
    aet = "CT1"
    host = "10.0.0.7"
    port = 104

It has [[peer]] tables only, without the keys that name files or users: a client of the page must not be able to have a
file of this machine sent somewhere. A [[peer]] of the configuration file with the same title wins; both may exist.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.access.settings import Peer
from engine.config import reader, second_copies
from engine.config.composition import Config
from engine.config.reader import Origin
from engine.config.reference import toml_of
from engine.errors import ConfigError
from engine.titles import names

FILE: Final = "peers.toml"
ORIGIN: Final = "page"
"""The origin of these peers."""
SECRET_KEYS: Final = ("token_file", "password_file", "ca_file", "user")
"""Keys that only the configuration file may have."""
PEERS_MAX: Final = 1000

_HEAD: Final = """\
# Peers that were added on the page of Filmroom. It writes this file as a whole: comments are lost. To take a peer over
# into your own configuration file, move its table there and run `filmroom reload`.
"""


def load(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """`reader.load`, with the managed peers. Raises ConfigError."""
    config = reader.load(path, env, overrides)
    return with_peers(config, config.peers, read(config.data))


def origins(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object]) -> dict[str, Origin]:
    """The origin of each key's value, and of each managed peer ("peer.CT1")."""
    own = reader.load(path, env, overrides)
    key_origins = reader.origins(path, env, overrides)
    return {**key_origins, **origins_of(own.peers, read(own.data))}


def with_peers(config: Config, own: Sequence[Peer], managed: Sequence[Peer]) -> Config:
    """The configuration with the peers of its file and the managed ones that do not conflict with them.

    Raises ConfigError where instances of a managed one would wait for a second copy that nobody makes.
    """
    found = msgspec.structs.replace(config, peers=(*own, *effective(own, managed)))
    second_copies.check(found)
    return found


def effective(own: Sequence[Peer], managed: Sequence[Peer]) -> list[Peer]:
    """The managed peers whose titles the configuration file does not have."""
    titles = [peer.aet for peer in own]
    return [peer for peer in managed if not names(titles, peer.aet)]


def origins_of(own: Sequence[Peer], managed: Sequence[Peer]) -> dict[str, Origin]:
    """The origin of each managed peer that is in force."""
    return {f"peer.{peer.aet}": ORIGIN for peer in effective(own, managed)}


def read(data: Path) -> tuple[Peer, ...]:
    """The managed peers; none if there is no file. Raises ConfigError, which names every mistake."""
    path = data / FILE
    try:
        text = path.read_bytes().decode("utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        return ()
    except NotADirectoryError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return _parse(values, path)


def parse(table: Mapping[str, object]) -> Peer:
    """The peer of one table. Raises ConfigError, which names every mistake."""
    place = Path("a peer")
    try:
        (peer,) = _parse({"peer": [dict(table)]}, place)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{place}: [[peer]] ", "")) from error
    return peer


def _parse(values: dict[str, Any], path: Path) -> tuple[Peer, ...]:
    if others := sorted(set(values) - {"peer"}):
        raise ConfigError(f"{path}: {', '.join(others)}: only [[peer]] tables belong here")
    tables = values.get("peer", [])
    if isinstance(tables, list):
        for table in tables[: PEERS_MAX + 1]:
            if isinstance(table, dict) and (secret := [key for key in SECRET_KEYS if table.get(key)]):
                raise ConfigError(f"{path}: {', '.join(secret)}: only a [[peer]] of the configuration file may have it")
        if len(tables) > PEERS_MAX:
            raise ConfigError(f"{path}: has more than {PEERS_MAX} peers")
    return reader.parse_peers(values, path)


def text_of(peers: Sequence[Peer]) -> str:
    """The content of the file. Raises ConfigError for a value that cannot be written."""
    blocks = [_HEAD]
    for peer in peers:
        lines = ["[[peer]]"]
        for field in msgspec.structs.fields(Peer):
            value = getattr(peer, field.name)
            if value is not None and (value != field.default or field.name == "may"):
                lines.append(f"{field.name} = {toml_of(value)}")
        blocks.append("\n".join(lines) + "\n")
    text = "\n".join(blocks)
    try:
        is_same = _parse(tomllib.loads(text), Path(FILE)) == tuple(peers)
    except tomllib.TOMLDecodeError:
        is_same = False
    if not is_same:
        raise ConfigError("a value has characters that cannot be written to a file")
    return text
