"""Numbers of bytes as people read them, in the output of commands, findings and error messages."""

from __future__ import annotations


def bytes_text(count: float) -> str:
    """1536 → "1.5 KB", in steps of 1000 as disks and networks are counted."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
