"""Identifies the current start of the machine."""

from __future__ import annotations


def boot_id() -> str:
    """The kernel's UUID of this start of the machine; "" where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
