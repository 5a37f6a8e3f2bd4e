"""Reads a configuration from flags, environment and file, and reports every mistake with its key and place."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import msgspec

from engine.access.settings import Peer, Permission
from engine.archive.attribute_settings import Attribute, AttributeLevel
from engine.config import second_copies
from engine.config.composition import LISTS, TABLES, Config, keys, to_path
from engine.errors import ConfigError
from engine.setting import bare

Origin = Literal["flag", "environment", "file", "page", "default"]
"""The source of a value; page: a peer that was added there (`managed_peers`)."""

DEFAULT_FILE = "filmroom.toml"
"""The name of the file when no flag names one."""

SYSTEM_FILE = Path("/etc/filmroom") / DEFAULT_FILE
"""The last of `places`."""

ENVIRONMENT_PREFIX = "FILMROOM_"

MISTAKES_MAX = 100
"""The number of mistakes that one run reports."""

_PLACEHOLDERS: dict[str, object] = {"aet": "MISSING", "name": "x", "older_than_days": 1.0, "tag": "x", "level": "study"}
_PLACEHOLDERS |= {"issuer": "https://missing.example", "client_id": "x"}
"""Values for missing required keys, so that the other keys can be checked."""

_NAMED_BY = {"peer": "aet", "station": "aet", "attribute": "tag"}
"""The key that names a table of a list, where it is not its name."""

_REMOVED_KEYS = {
    "http_port": "use port in the table [http]",
    "verify_reads": "every instance is verified against its checksum before it is sent",
}
"""Keys of earlier versions, with an explanation."""

_OTHER_VARIABLES = {"CONFIG", "PYTHON", "CORPUS", "DEBUG", "SANITIZE", "EXT"}
"""Environment variables with our prefix that are not configuration keys."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration and its source."""

    config: Config
    path: Path | None
    """The file; None: there was none."""
    places: tuple[Path, ...]
    """The paths that were searched for a file."""
    origins: Mapping[str, Origin] = dataclasses.field(default_factory=dict)
    """Where each key gets its value from."""

    @property
    def source(self) -> str:
        """The file, or that there is none, for the log and the ready line."""
        if self.path is not None:
            return f"{self.path}"
        return f"no configuration file (looked for {', '.join(map(str, self.places))})"


def places(path: str | Path | None, env: Mapping[str, str], data: str | Path | None = None) -> tuple[Path, ...]:
    """The paths to search for the file; the first that exists is read.

    Only `path`, from a flag, else only FILMROOM_CONFIG. Else filmroom.toml in the working directory, in the data
    directory (`data`, from a flag, else FILMROOM_DATA or the default), beside it, in /etc/filmroom.
    """
    name = path or env.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if name:
        return (Path(name),)
    folder = Path(data or env.get(environment_variable("data")) or Config().data)
    beside = Path(os.path.abspath(folder)).parent
    paths = (Path(DEFAULT_FILE), folder / DEFAULT_FILE, beside / DEFAULT_FILE, SYSTEM_FILE)
    return tuple({os.path.abspath(each): each for each in reversed(paths)}.values())[::-1]


def find_file(path: str | Path | None, env: Mapping[str, str], data: str | Path | None = None) -> Path | None:
    """The file to read; None when there is none. A file from a flag or FILMROOM_CONFIG may not exist."""
    paths = places(path, env, data)
    if path or env.get(f"{ENVIRONMENT_PREFIX}CONFIG"):
        return paths[0]
    return next((each for each in paths if os.path.isfile(each)), None)


def load(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """The configuration of a file, an environment and flags.

    `overrides` has dotted keys ("limits.idle_timeout_s"); None: the flag is absent. Raises ConfigError, which names
    every mistake.
    """
    mistakes: list[str] = []
    values, key_origins = _gather(path, env, overrides, mistakes)
    return _build(values, key_origins, path, mistakes)


def origins(path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object]) -> dict[str, Origin]:
    """The origin of the value of each key (dotted, as in `describe`, without peers)."""
    _, key_origins = _gather(path, env, overrides, [])
    return {key: key_origins.get(key, "default") for key, _ in keys()}


def environment_variable(key: str) -> str:
    """The environment variable of a dotted key."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def parse_peer(config: Config, text: str) -> Peer:
    """Parses a peer of a command line: the AE title of a [[peer]], or AET@HOST:PORT."""
    peer = config.peer(text)
    if peer is not None:
        if not peer.is_reachable:
            raise ConfigError(f"peer {text} has neither host and port nor a url in the configuration")
        return peer
    if "@" not in text:
        hint = _nearest(text, [each.aet for each in config.peers if each.is_reachable])
        raise ConfigError(f"there is no [[peer]] {text!r} in the configuration{hint}; AET@HOST:PORT works too")
    prefix = f"{text!r} is not of the form AET@HOST:PORT: "
    aet, _, address = text.rpartition("@")
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([^:]*))?", address)
    if match is None:
        raise ConfigError(f"{prefix}an IPv6 address stands in brackets, [::1]:104")
    host, port = match[1].strip("[]"), match[2]
    if not host:
        raise ConfigError(f"{prefix}the host is missing")
    if not port:
        raise ConfigError(f"{prefix}the port is missing, as in {aet}@{match[1]}:104")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        raise ConfigError(f"{prefix}the port {port!r} is not a number from 1 to 65535")
    try:
        return msgspec.convert({"aet": aet, "host": host, "port": int(port)}, Peer)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        key = where.rstrip("`")
        raise ConfigError(f"{prefix}{_reason(key, reason, {'aet': aet, 'host': host}.get(key, text))}") from error


def parse_peers(values: dict[str, Any], path: Path) -> tuple[Peer, ...]:
    """The peers of a file that has nothing else. Raises ConfigError, which names every mistake."""
    mistakes: list[str] = []
    _check_keys(values, path, mistakes)
    return _build(values, {}, path, mistakes).peers


def _gather(
    path: Path | None, env: Mapping[str, str], overrides: Mapping[str, object], mistakes: list[str]
) -> tuple[dict[str, Any], dict[str, Origin]]:
    values = _read(path, mistakes) if path is not None else {}
    key_origins: dict[str, Origin] = {}
    for key, _ in keys():
        if _get(values, key) is not None:
            key_origins[key] = "file"
    types = dict(keys())
    for key, text in _from_environment(env).items():
        try:
            _set(values, key, _from_text(key, text, types[key]))
        except ConfigError as error:
            mistakes.append(str(error))
        key_origins[key] = "environment"
    for key, value in overrides.items():
        if value is None:
            continue
        if key not in types:
            raise ConfigError(f"there is no configuration key {key!r}{_nearest(key, types)}")
        _set(values, key, value)
        key_origins[key] = "flag"
    return values, key_origins


def _read(path: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start})") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path} nests brackets too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"{path} has a value that cannot be read: {error}") from error
    _check_keys(values, path, mistakes)
    for key in (key for key, type_ in keys() if Path in (bare(type_), *get_args(bare(type_)))):
        value = _get(values, key)
        if isinstance(value, str) and value:
            _set(values, key, str(path.parent / value))
        elif isinstance(value, list):
            _set(values, key, [str(path.parent / each) if isinstance(each, str) else each for each in value])
    return values


def _check_keys(values: dict[str, Any], path: Path, mistakes: list[str]) -> None:
    """Notes mistakes and removes the wrong values, so that the others can be checked too."""
    top = list(Config.__struct_encode_fields__)
    _check_table(values, top, f"{path}", mistakes)
    for name, section in TABLES.items():
        table = values.get(name, {})
        if not isinstance(table, dict):
            mistakes.append(f"{path}: {name} is a table, written [{name}]")
            del values[name]
            continue
        _check_table(table, _fields(section), f"{path}: [{name}]", mistakes)
    values.setdefault("attribute", [])
    for name, (_, section) in LISTS.items():
        for number, table in enumerate(_tables(values, name, path, mistakes), 1):
            where = f"{path}: [[{name}]] {_name_of(table, name, number)}"
            _check_table(table, _fields(section), where, mistakes)
            if section is Peer:
                _check_address(table, where, mistakes)
            elif section is Attribute:
                _check_level(table, where, mistakes)


def _tables(values: dict[str, Any], key: str, path: Path, mistakes: list[str]) -> list[dict[str, Any]]:
    tables = values.get(key, [])
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        mistakes.append(f"{path}: {key} is a list of tables, each written [[{key}]]")
        values[key] = tables = []
    return tables


def _fields(table: type[msgspec.Struct]) -> list[str]:
    return list(table.__struct_fields__)


def _check_level(extra: dict[str, Any], where: str, mistakes: list[str]) -> None:
    for key in ("tag", "level"):
        if key not in extra:
            mistakes.append(f"{where}: {key} is missing")
            extra[key] = _PLACEHOLDERS[key]
    choices = get_args(AttributeLevel)
    if extra["level"] not in choices:
        hint = _nearest(str(extra["level"]), choices)
        mistakes.append(f"{where}: level: {extra['level']!r} is not one of {', '.join(choices)}{hint}")
        extra["level"] = _PLACEHOLDERS["level"]


def _check_table(table: dict[str, Any], names: list[str], where: str, mistakes: list[str]) -> None:
    for key in list(table):
        if key not in names:
            del table[key]
            if key in _REMOVED_KEYS:
                mistakes.append(f"{where}: {key} was removed: {_REMOVED_KEYS[key]}")
                continue
            elsewhere = [_place(dotted) for dotted, _ in keys() if dotted.split(".")[-1] == key]
            hint = f"; it belongs to {' or '.join(elsewhere)}" if elsewhere else ""
            hint += _nearest(key, [name for name in names if name.endswith(f"_{key}")] if elsewhere else names)
            mistakes.append(f"{where}: unknown key {key!r}{hint}")


def _check_address(peer: dict[str, Any], where: str, mistakes: list[str]) -> None:
    host, port = peer.get("host"), peer.get("port")
    if bool(host) != bool(port):
        mistakes.append(f"{where}: {'port' if host else 'host'} is missing: host and port go together")
    is_reachable = host or peer.get("url")
    if "may" not in peer:
        peer["may"] = [name for name in get_args(Permission) if is_reachable or name != "destination"]
    elif isinstance(peer["may"], list) and "destination" in peer["may"] and not is_reachable:
        mistakes.append(f"{where}: without host and port, or a url, it cannot be a destination")


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    by_variable = {environment_variable(key): key for key, _ in keys()}
    values: dict[str, str] = {}
    for variable, text in env.items():
        if variable in by_variable:
            values[by_variable[variable]] = text
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable[len(ENVIRONMENT_PREFIX) :] not in _OTHER_VARIABLES:
            # Other programs may use the prefix too: only a variable similar to a key is an error.
            near = difflib.get_close_matches(variable, by_variable, n=1, cutoff=0.9)
            if near:
                raise ConfigError(f"there is no environment variable {variable}; did you mean {near[0]}?")
    return values


def _from_text(key: str, text: str, type_: Any) -> object:
    options = get_args(bare(type_))
    if not text and type(None) in options:
        return None
    is_list = any(get_origin(bare(option)) is tuple for option in (type_, *options))
    value = re.findall(r"[^\s,()\[\]\"']+", text) if is_list else text
    try:
        return msgspec.convert(value, type_, strict=False, dec_hook=to_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{environment_variable(key)}: {_reason(key, str(error), text)}") from error


def _build(values: dict[str, Any], key_origins: Mapping[str, Origin], path: Path | None, mistakes: list[str]) -> Config:
    """Removes wrong values one by one, until none is left, to report all mistakes."""
    config = None
    while config is None and len(mistakes) < MISTAKES_MAX:
        try:
            config = msgspec.convert(values, Config, dec_hook=to_path)
        except msgspec.ValidationError as error:
            mistakes.append(_explain(str(error), values, key_origins, path))
            if not _remove(values, str(error)):
                break
    if mistakes or config is None:
        if len(mistakes) == 1:
            raise ConfigError(mistakes[0])
        raise ConfigError(f"{len(mistakes)} mistakes:\n" + "\n".join(mistakes), mistakes)
    titles: set[str] = set()
    for peer in config.peers:
        if peer.aet in titles:
            raise ConfigError(f"{path}: there are two [[peer]] with aet {peer.aet!r}")
        titles.add(peer.aet)
    names = [rule.name for rule in config.retention]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: there are {names.count(name)} [[retention]] with name {name!r}")
    if config.limits.pdu_length_accept_max < config.limits.pdu_length_max:
        raise ConfigError("limits.pdu_length_accept_max is less than limits.pdu_length_max")
    if config.storage.segment_bytes < config.limits.stream_threshold_bytes:
        raise ConfigError("storage.segment_bytes is less than limits.stream_threshold_bytes")
    second_copies.check(config)
    return config


def _remove(values: dict[str, Any], message: str) -> bool:
    """Removes the value that a message of msgspec names, or adds the missing key; returns whether it could."""
    _, _, where = message.partition(" - at `$")
    parts = re.findall(r"[^.\[\]]+", where.rstrip("`").partition("[...]")[0])
    missing = re.search(r"missing required field `(\w+)`", message)
    inner: Any = values
    for part in parts if missing else parts[:-1]:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    if missing:
        if missing[1] not in _PLACEHOLDERS:
            return False
        inner[missing[1]] = _PLACEHOLDERS[missing[1]]
        return True
    if not parts or not isinstance(inner, dict) or parts[-1] not in inner:
        return False
    if inner is not values and parts[-1] in _PLACEHOLDERS:
        inner[parts[-1]] = _PLACEHOLDERS[parts[-1]]
    else:
        del inner[parts[-1]]
    return True


def _explain(message: str, values: dict[str, Any], key_origins: Mapping[str, Origin], path: Path | None) -> str:
    """Translates a message of msgspec ("Expected `int`, got `str` - at `$.peer[0].port`") into terms of the file."""
    reason, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    value: Any = values
    for part in re.findall(r"[^.\[\]]+", where):
        if part == "...":
            break
        value = value[int(part)] if isinstance(value, list) else value.get(part) if isinstance(value, dict) else None
    match = re.match(r"(\w+)\[(\d+)\]\.?(.*)", where)
    if match and match[1] in LISTS:
        number = int(match[2])
        name = _name_of(values[match[1]][number], match[1], number + 1)
        where = f"[[{match[1]}]] {name}: {match[3]}".rstrip(": ")
    if key_origins.get(where) == "flag":
        return f"--{where.replace('.', '-').replace('_', '-')}: {_reason(where, reason, value)}"
    return f"{path}: {where}: {_reason(where, reason, value)}"


def _reason(key: str, message: str, value: object) -> str:
    name = re.split(r"[.\s]", re.sub(r"\[\d+\]$", "", key))[-1]
    table = re.match(r"\[\[(\w+)\]\]", key)
    choices = _CHOICES.get((table[1] if table else "", name))
    if choices and "enum" in message:
        return f"{value!r} is not one of {', '.join(choices)}{_nearest(str(value), choices)}"
    noun = _NOUNS.get((table[1] if table else "", name))
    if noun and ("regex" in message or "length" in message):
        return f"{value!r} is not {noun}"
    text = message if message.startswith("AE title") else message[:1].lower() + message[1:]
    if not isinstance(value, str | int | float) or repr(value) in text:
        return text
    return f"{text} ({value!r})" if ", got" in text else f"{text}, not {value!r}"


def _typed_settings() -> Iterator[tuple[tuple[str, str], Any]]:
    """The list of tables that a setting is in ("": none) and its name; its type."""
    sections: list[tuple[str, type[msgspec.Struct]]] = [("", Config)]
    sections += [(name, table) for name, (_, table) in LISTS.items()]
    sections += [("", table) for table in TABLES.values()]
    for name, section in sections:
        for field in msgspec.structs.fields(section):
            yield (name, field.name), field.type


def _choices() -> dict[tuple[str, str], tuple[str, ...]]:
    """Setting → its allowed words."""
    choices: dict[tuple[str, str], tuple[str, ...]] = {}
    for setting, type_ in _typed_settings():
        for inner in map(bare, _inside(type_)):
            if get_origin(inner) is Literal:
                is_switch = bool in get_args(bare(type_))
                choices[setting] = (*get_args(inner), "true", "false") if is_switch else get_args(inner)
    return choices


def _nouns() -> dict[tuple[str, str], str]:
    """Setting with a pattern → what matches it, in words."""
    return {
        setting: meta.description
        for setting, type_ in _typed_settings()
        for inner in _inside(type_)
        for meta in getattr(inner, "__metadata__", ())
        if isinstance(meta, msgspec.Meta) and meta.pattern and meta.description
    }


def _inside(annotation: Any) -> list[Any]:
    """A type and the types that it consists of."""
    plain = bare(annotation)
    parts = () if get_origin(plain) is Literal else get_args(plain)
    return [annotation, *(inner for each in parts for inner in _inside(each))]


_CHOICES = _choices()
_NOUNS = _nouns()


def _nearest(word: str, words: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _place(key: str) -> str:
    table, _, name = key.rpartition(".")
    return f"[{table}]" if table else f"the top, before the first table ({name})"


def _name_of(table: dict[str, Any], name: str, number: int) -> str:
    """The name of one table of a list in messages. `name`: of the list."""
    value = table.get(_NAMED_BY.get(name, "name"))
    return f"{value!r}" if isinstance(value, str) else f"number {number}"


def _get(values: Mapping[str, Any], key: str) -> object:
    table, _, name = key.rpartition(".")
    inner = values.get(table, {}) if table else values
    return inner.get(name) if isinstance(inner, Mapping) else None


def _set(values: dict[str, Any], key: str, value: object) -> None:
    table, _, name = key.rpartition(".")
    inner = cast("dict[str, Any]", values.setdefault(table, {})) if table else values
    inner[name] = value
