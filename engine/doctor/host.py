"""Checks the machine: memory, descriptors, processors, clock and ports.

It asks the kernel, changes nothing and needs no privileges.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
from collections.abc import Iterator

from engine import control
from engine.config import Config
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import ConfigError, EngineError
from engine.web import https

WORKER_BYTES = 100 << 20
"""Memory of a worker beside received data sets (measured with 64 associations)."""
OPEN_SEGMENTS = 256
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronized."""


def examine(config: Config) -> Iterator[Finding]:
    """Examines everything about the machine that a server depends on."""
    yield _memory(config)
    yield _descriptors(config)
    yield _workers(config)
    yield _clock()
    yield from _ports(config)


def _memory(config: Config) -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    demand = config.workers * (WORKER_BYTES + config.limits.ingest_bytes_max)
    what = f"{total / 1e9:.1f} GB; {config.workers} workers take up to {demand / 1e9:.1f} GB"
    if demand > total:
        return fault("memory", what, "lower workers or limits.ingest_bytes_max")
    if demand > total // 2:
        return warning("memory", what, "less than half is left for the page cache, which serves new instances")
    return good("memory", what)


def _descriptors(config: Config) -> Finding:
    # The server raises its own limit to the hard one when it starts.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    demand = config.limits.associations_max + OPEN_SEGMENTS + 64
    if hard == resource.RLIM_INFINITY:
        return good("open files", "not limited")
    what = f"a process may open {hard} files, and it may need {demand}"
    if hard >= demand:
        return good("open files", what)
    return warning("open files", what, f"raise the hard limit (LimitNOFILE={demand} in a systemd unit, or ulimit -Hn)")


def _workers(config: Config) -> Finding:
    cores = len(os.sched_getaffinity(0))
    what = f"{config.workers} workers on {cores} processors"
    if config.workers > cores:
        return warning("workers", what, "one for each processor is enough: more wait for each other")
    return good("workers", what)


class _Timex(ctypes.Structure):
    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_char * 252))


def _clock() -> Finding:
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex()))
    except (OSError, AttributeError):
        state = -1
    if state == _TIME_ERROR:
        return warning(
            "clock", "not synchronized", "run chrony or systemd-timesyncd: times of arrival and the audit depend on it"
        )
    if state < 0:
        return warning("clock", "the kernel does not say whether it is synchronized", "see timedatectl")
    return good("clock", "synchronized")


def _ports(config: Config) -> list[Finding]:
    """Checks whether the ports can be opened, and the certificate can be used."""
    try:
        answer = control.request(config.data, {"command": "ping"})
    except EngineError:
        findings = [_port("port", config.host, config.dicom_port, "dicom_port")]
        if config.http.enabled:
            findings.append(_port("HTTP port", config.http.host, config.http.port, "http.port"))
    else:
        findings = [good("port", f"the server of this archive runs (process {answer.get('pid')})")]
    if config.http.enabled and (finding := _https(config)) is not None:
        findings.append(finding)
    return findings


def _https(config: Config) -> Finding | None:
    try:
        settings = https.settings_of(config)
        if settings is None:
            return None
        https.server_context(settings)
    except ConfigError as error:
        return fault("HTTPS", str(error), "the server does not start with it")
    return good("HTTPS", f"{', '.join(map(str, settings.certificates))} can be used")


def _port(name: str, host: str, number: int, setting: str) -> Finding:
    where = f"{host}:{number}"
    if number == 0:
        return good(name, "any free one")
    try:
        addresses = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return fault(name, f"{where}: {error.strerror}", f"the host of {setting} must be an address of this machine")
    family, kind, protocol, _, address = addresses[0]
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            advice = f"another program uses it: stop that one or choose another {setting}"
            return fault(name, f"{where} cannot be bound: {error.strerror}", advice)
    return good(name, f"{where} is free")
