"""For the whole run: rotating tests, long files first, one garbage collection, a race of pynetdicom, memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from pynetdicom.association import Association

from engine.runtime.admission import Admission
from tests import effort, in_memory, jitter, light_passwords

gc.disable()  # until the tests are collected: nothing that collecting makes is garbage
# The same examples in each run, so that a failure is that of a change; --all looks for new ones.
settings.register_profile("filmroom", derandomize=not effort.ALL, database=None, deadline=None)
settings.load_profile("filmroom")

# Only tests of HTTP enable it: it costs memory and time at each start, and a fixed port.
os.environ.setdefault("FILMROOM_HTTP_ENABLED", "false")


# A shell starts what it puts into the background with Ctrl-C ignored, and every process that a test starts inherits it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


jitter.install()
jitter.install_files()
in_memory.install()
light_passwords.install()

LONGEST = {name: place for place, name in enumerate(Path(__file__).with_name("longest.txt").read_text().split())}
"""Files in the order in which they begin."""
UNLISTED_S = 10.0
"""A file that takes longer belongs into that list."""
_seconds: Counter[str] = Counter()


def _is_idle(association: Association) -> bool:
    """Whether pynetdicom's own thread takes no message now. Its flag is set a moment too early. Then, about once in a
    thousand requests, that thread takes the answer for which the caller waits ("Received unexpected … message")."""
    if association._kill or not association.is_alive() or threading.current_thread() is association:
        return True
    return bool(association._reactor_checkpoint._cond._waiters)  # type: ignore[attr-defined]


Association._is_paused = property(_is_idle, lambda association, value: None)


# A front inside the test process would refuse instances because of the memory of a thousand other tests. Server
# processes are measured unchanged (tests/system/test_admission.py).
assert Admission.__init__.__kwdefaults__["resident"] is not None
Admission.__init__.__kwdefaults__["resident"] = lambda: 50 << 20


def pytest_report_header() -> list[str]:
    return [line for line in (effort.describe(), jitter.describe()) if line]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    jitter.switch(item.get_closest_marker("unjittered") is None)
    in_memory.put_temporary_files(item, _file(item.nodeid).partition("/")[0])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skipped = [item for item in items if not _is_its_turn(item)]
    if skipped:
        config.hook.pytest_deselected(items=skipped)
        items[:] = [item for item in items if _is_its_turn(item)]
    # The processes take files in this order: a file that takes half a minute must not begin last.
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    is_slow = item.get_closest_marker("slow") is not None
    return LONGEST.get(_file(item.nodeid), len(LONGEST) + (0 if is_slow else 1))


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def _is_its_turn(item: pytest.Item) -> bool:
    """Whether this run includes the test: always, unless the test is marked `rotating`."""
    marker = item.get_closest_marker("rotating")
    return marker is None or effort.is_its_turn(item.nodeid, *marker.args, **marker.kwargs)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Modules and tests have about a hundred thousand objects: thousands of full collections would walk them.
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[_file(report.nodeid)] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, seconds in _seconds.most_common():
        if seconds > UNLISTED_S and name not in LONGEST:
            terminalreporter.write_line(f"{name} took {seconds:.0f} s: it begins earlier if tests/longest.txt has it")
