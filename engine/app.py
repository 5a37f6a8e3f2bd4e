"""The composition root: what `filmroom serve` runs."""

from __future__ import annotations

import sys
from collections.abc import Callable

import uvloop

from engine import log
from engine.config import Config
from engine.server.supervisor import Supervisor


def serve(config: Config, reread: Callable[[], Config] | None = None) -> int:
    """Serves until told to stop; the exit code. `reread` gives the configuration anew for SIGHUP and `reload`.

    Raises ConfigError (port taken), ArchiveInUse, StorageError.
    """
    log.configure(config.log)

    async def run() -> int:
        return await Supervisor(config, reread or (lambda: config), _announce).run()

    return uvloop.run(run())


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
