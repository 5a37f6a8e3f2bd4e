"""`filmroom serve`: the supervisor with all ports. Not in the package itself: workers need nothing of it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import uvloop

from engine import audit, kept_log, log
from engine.app.ports import FilmroomComposition
from engine.config import Reading
from engine.server.prefork import Preforked
from engine.server.supervisor import Supervisor


def serve(reading: Reading, reread: Callable[[], Reading]) -> int:
    """Serves until it is stopped; returns the exit code. SIGHUP and `reload` call `reread` for a new configuration.

    Raises ConfigError (port taken), ArchiveInUse, StorageError.
    """
    config, composition, children = reading.config, FilmroomComposition(), Preforked()
    log.configure(config.log, keeper=kept_log.keeper(config))
    also = composition.http_modules if config.http.enabled else ()
    children.fork([*[composition.worker_module] * config.workers, composition.caretaker_module], also)
    audit.configure(config)

    async def run() -> int:
        return await Supervisor(reading, reread, _announce, composition, children.spawn).run()

    try:
        return uvloop.run(run())
    finally:
        children.close()


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
