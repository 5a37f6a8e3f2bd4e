"""Says what it is started with, for `test_template`; then ends as its argument wants."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    facts = (os.environ.get("FACT"), os.getcwd(), sys.argv[1:], os.getsid(0) == os.getpid(), sys.stdin.read())
    sys.stdout.write(repr(facts) + "\n")
    sys.stdout.flush()
    sys.stderr.write("said\n")
    match sys.argv[1]:
        case "wait":
            signal.pause()
        case "raise":
            raise ValueError("a defect")
        case code:
            sys.exit(int(code))
