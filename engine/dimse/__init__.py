"""DIMSE messages (PS3.7), sans-IO: command sets, messages, statuses, and their way into and out of PDUs."""
