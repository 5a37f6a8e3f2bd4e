"""A verification in a process of its own: `python -m engine.audit.verify_process DATA`, for servers.

It hashes without a pause for seconds, which would keep the interpreter from everybody else in a worker. The answer is
one line of JSON on standard output.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from engine.audit.verify import Report, verify
from engine.errors import ConfigError, StorageError

TIMEOUT_S: Final = 600.0
NICENESS: Final = 10


def facts_of(report: Report) -> dict[str, Any]:
    """A report as plain data."""
    return {
        "whole": report.is_whole,
        "events": report.events,
        "chains": report.chains,
        "checkpoints": report.checkpoints,
        "signed_until": report.signed_until,
        "unsigned": report.unsigned,
        "anchors": report.anchors,
        "problems_count": report.problems_count,
        "key": "given" if report.is_key_given else "the one beside the log",
        "problems": [asdict(problem) for problem in report.problems],
    }


async def run(data: Path) -> dict[str, Any]:
    """Verifies in a process; its facts. Raises StorageError when it does not end as it should."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine.audit.verify_process", str(data), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        facts: dict[str, Any] = orjson.loads(output)
    except (TimeoutError, ValueError):
        raise StorageError("the audit log could not be verified; its files or its key cannot be read") from None
    finally:
        if process.returncode is None:
            process.kill()
    return facts


if __name__ == "__main__":
    os.nice(NICENESS)
    try:
        sys.stdout.buffer.write(orjson.dumps(facts_of(verify(Path(sys.argv[1])))))
    except (ConfigError, OSError) as error:
        sys.exit(str(error))
