"""The targets with coverage feedback, by atheris (libFuzzer for Python), which has an environment of its own.

    python -m tests.fuzz.guided TARGET [libFuzzer options, e.g. -max_total_time=600 -rss_limit_mb=1024] [FOLDER]

Follows the Python code of the parsers; the compiled modules only as far as their answers change it. FOLDER keeps
what brought something new. A finding is written as a file `crash-…`: its bytes are an input of the target, to be put
into `regressions/` in hexadecimal. How to make the environment is told in tests/README.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["engine"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Does not come back: libFuzzer ends the process."""
    name, *options = arguments
    with tempfile.TemporaryDirectory(prefix="filmroom-seeds-") as folder:
        for number, data in enumerate(TARGETS[name].seeds()):
            (Path(folder) / f"{number:03d}").write_bytes(data)
        # The first folder takes what is new, the others are only read.
        named = [option for option in options if not option.startswith("-")]
        rest = [option for option in options if option.startswith("-")]
        kept = named or [tempfile.mkdtemp(prefix="filmroom-found-")]
        for path in kept:
            Path(path).mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *rest, *kept, folder], TARGETS[name].run)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
