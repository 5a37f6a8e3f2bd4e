"""What a hospital says of its patients, visits, orders and procedure steps, and what it means for the archive."""

from __future__ import annotations

from engine.orders import values

__all__ = ["values"]
