"""Where instances must be beside here before they are acknowledged, over all senders; and what that needs."""

from __future__ import annotations

from engine.archive.settings import Durable
from engine.config.composition import Config
from engine.errors import ConfigError


def places(config: Config) -> tuple[Durable, ...]:
    """ "object" and "peer", as far as anybody's instances wait for them."""
    asked = {config.durable, *(peer.durable for peer in config.peers)}
    return tuple(place for place in ("object", "peer") if place in asked)


def reloaded(before: Config, fresh: Config) -> tuple[Config, list[str]]:
    """As `Config.reloaded`. Raises ConfigError where answers would wait for a copy that takes a restart."""
    merged, restart_needed = before.reloaded(fresh)
    try:
        check(merged)
    except ConfigError as error:
        raise ConfigError(f"{error}, which takes a restart") from error
    return merged, restart_needed


def check(config: Config) -> None:
    """Raises ConfigError where a second copy is asked for and cannot be had."""
    everybody = [("", config.settings_of(""))]
    everybody += [(f"the [[peer]] {peer.aet!r}: ", config.settings_of(peer.aet)) for peer in config.peers]
    for whose, settings in everybody:
        durable, store = settings.durable, config.object_store
        if durable == "local":
            continue
        if settings.durability != "durable":
            raise ConfigError(f'{whose}durable = "{durable}" needs durability = "durable"')
        if durable == "peer" and not config.second_copy.replica:
            raise ConfigError(f'{whose}durable = "peer" needs second_copy.replica')
        if durable == "object" and not (store.url and store.tail):
            raise ConfigError(f'{whose}durable = "object" needs object_store.url, and object_store.tail')


def check_node(config: Config) -> None:
    """Raises ConfigError where a node would acknowledge what the other nodes cannot read."""
    store = config.object_store
    if not store.url or not store.tail:
        raise ConfigError("nodes share their instances in a bucket: set url in [object_store], and leave its tail on")
    everybody = [("", config.settings_of(""))]
    everybody += [(f"the [[peer]] {peer.aet!r}: ", config.settings_of(peer.aet)) for peer in config.peers]
    for whose, settings in everybody:
        if settings.durable != "object":
            raise ConfigError(f'{whose}[cluster] needs durable = "object": other nodes read instances in the bucket')
