"""DIMSE messages (PS3.7), sans-IO: command sets, messages, statuses, and their conversion from and to PDUs."""
