"""The composition root: what `filmroom serve` runs, and which fronts it has.

Here, and only here, the server is told of protocols: `ports` says to the supervisor where to listen and how the first
bytes of a connection are judged; `worker` makes the fronts of a worker process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import uvloop

from engine import log
from engine.app.ports import FilmroomComposition
from engine.config import Reading
from engine.server.supervisor import Supervisor


def serve(reading: Reading, reread: Callable[[], Reading]) -> int:
    """Serves until told to stop; the exit code. `reread` reads the configuration anew for SIGHUP and `reload`.

    Raises ConfigError (port taken), ArchiveInUse, StorageError.
    """
    log.configure(reading.config.log)

    async def run() -> int:
        return await Supervisor(reading, reread, _announce, FilmroomComposition()).run()

    return uvloop.run(run())


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
