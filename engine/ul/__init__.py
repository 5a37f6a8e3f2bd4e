"""The DICOM upper layer (PS3.8), sans-IO: bytes and a clock value in, events and bytes out.

Knows PDUs, the state machine and negotiation; no sockets, no DIMSE messages, no DICOM data sets.
"""
