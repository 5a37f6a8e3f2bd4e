"""For the whole run: how much it does, slow files first, one garbage collection, a race of pynetdicom, memory."""

from __future__ import annotations

import gc
import os
import threading

import pytest
from pynetdicom.association import Association

from engine.runtime.admission import Admission
from tests import effort

# Servers of the tests serve HTTP where it is tested: it costs memory and time at each start, and a fixed port.
os.environ.setdefault("FILMROOM_HTTP_ENABLED", "false")


def _stands_still(association: Association) -> bool:
    """Whether pynetdicom's own thread takes no message now. Its flag says so a moment too early, and then, once in some
    thousand requests, that thread takes the answer that the caller waits for ("Received unexpected … message")."""
    if association._kill or not association.is_alive() or threading.current_thread() is association:
        return True
    return bool(association._reactor_checkpoint._cond._waiters)  # type: ignore[attr-defined]


Association._is_paused = property(_stands_still, lambda association, value: None)


# A front that runs in a test's process would refuse instances for the memory that a thousand other tests have used.
# Processes of their own are measured as they are (tests/system/test_admission.py).
assert Admission.__init__.__kwdefaults__["resident"] is not None
Admission.__init__.__kwdefaults__["resident"] = lambda: 50 << 20


def pytest_report_header() -> str:
    return effort.describe()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if not _is_its_turn(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_its_turn(item)]
    # Files are dealt out to the processes in this order: one that takes a minute must not be the last to begin.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _is_its_turn(item: pytest.Item) -> bool:
    """Whether this run does a test that is marked `rotating(n)`, or any other one."""
    marker = item.get_closest_marker("rotating")
    return marker is None or effort.is_its_turn(item.nodeid, marker.args[0])


def pytest_collection_finish(session: pytest.Session) -> None:
    # Some hundred thousand objects of modules and tests: each full collection would walk them, thousands of times.
    gc.collect()
    gc.freeze()
