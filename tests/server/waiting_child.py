"""A child for `test_prefork`, whose `main` answers each message with what it is and sees, until its channel ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.server.channel import Channel, ChannelClosed

IMPORTED_BY = os.getpid()


def main(fd: int) -> int:
    channel = Channel.inherited(fd)
    channel.set_blocking(True)
    try:
        while (delivery := channel.receive()) is not None:
            if "code" in delivery[0]:
                return int(delivery[0]["code"])
            if delivery[0]["kind"] == "fail":
                raise ValueError("a defect of the child")
            channel.send(
                "seen",
                pid=os.getpid(),
                imported_by=IMPORTED_BY,
                name=Path("/proc/self/comm").read_text().strip(),
                stdin=os.readlink("/proc/self/fd/0"),
                sockets=sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in range(3, 64) if _is(fd)),
            )
    except ChannelClosed:
        return 7
    return 0


def _is(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
