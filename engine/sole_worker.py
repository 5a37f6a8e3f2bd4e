"""Work that one worker of a server does for all: it holds a lock of the archive, and the others try it now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from engine.errors import ArchiveInUse, EngineError, for_log

if TYPE_CHECKING:
    from engine.log import Logger


async def run_alone(
    lock: Callable[[], AbstractContextManager[object]],
    work: Callable[[], Awaitable[None]],
    *,
    is_needed: Callable[[], bool],
    check_s: float,
    logger: Logger,
    failure: str,
) -> None:
    """Does `work` under `lock` whenever that is free and `is_needed`; checks every `check_s`, until it is cancelled.

    `lock` raises ArchiveInUse while another process holds it. Logs as `failure` what the work raises, and starts again:
    whoever waits for it waits for this process alone.
    """
    while True:
        try:
            if is_needed():
                with lock():
                    await work()
        except ArchiveInUse:
            pass  # another worker does it
        except (EngineError, OSError) as error:
            logger.warning(failure, error=for_log(error))
        except Exception as error:
            logger.error(failure, error=for_log(error))
        await asyncio.sleep(check_s)
