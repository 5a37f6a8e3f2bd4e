"""A worker of the server with all its fronts: `python -m engine.app.worker FD`, started by the supervisor."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from engine.server import worker
from engine.services.front import DimseFront
from engine.services.secure_front import SecureFront

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from engine.config import Config, Peer
    from engine.runtime.engine import Engine
    from engine.runtime.front import Front
    from engine.services.destination import Resources, Results, Sender


def make_fronts(engine: Engine, process: worker.Process) -> list[Front]:
    """The fronts of one process."""
    dimse = DimseFront(engine, process.number, _open_web_peer)
    fronts: list[Front] = [dimse]
    if engine.config.tls.enabled:
        fronts.append(SecureFront(engine, dimse))
    if engine.config.http.enabled:
        # Import only where needed: aiohttp takes some memory and a tenth of a second.
        from engine.exchange.runner import Runner
        from engine.web.front import WebFront

        examine = partial(_examine_security, engine)
        fronts.append(WebFront(engine, process, outbound=Runner(engine), examine_security=examine))
    return fronts


def _open_web_peer(resources: Resources, peer: Peer, results: Results) -> AbstractAsyncContextManager[Sender]:
    from engine.exchange.stow import stow_destination  # aiohttp, as above

    return stow_destination(resources, peer, results)


def _examine_security(engine: Engine, config: Config) -> list[dict[str, str]]:
    from engine.doctor import security  # only whoever asks needs it

    present = engine.accounts.users()
    return [
        {"subject": finding.subject, "verdict": finding.verdict.value, "what": finding.what, "advice": finding.advice}
        for finding in security.examine(config, present)
    ]


def main(fd: int) -> int:
    """Runs the worker process; returns its exit code. `fd`: its end of the channel to the supervisor."""
    return worker.serve(fd, make_fronts)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
