"""A server started like a user's, for the system tests: a process, its folder, its port."""

from __future__ import annotations

import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson

from engine import control
from tests import template

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """`filmroom serve` on a free loopback port."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        config: str = "",
        prefix: tuple[str, ...] = (),
        workers: int = 2,
        config_file: Path | None = None,
        environment: Mapping[str, str] | None = None,
        await_ready: bool = True,
        http: bool = False,
    ) -> None:
        """`http`: whether it serves HTTP too, on a free port (`url`).

        `prefix`: the command of a program that runs the server. With it or `environment` the server is an interpreter
        of its own, else it is forked (`tests.template`). Without `await_ready` call `wait_ready` yourself.
        """
        self.data = data
        if config_file is None:
            data.mkdir(parents=True, exist_ok=True)
        self.prefixed = bool(prefix)
        self.config_file = config_file or data.parent / f"{data.name}.toml"
        self.config_file.write_text(config)
        words = [
            *("serve", "--data", str(data), "--host", "127.0.0.1", "--dicom-port", "0"),
            *("--workers", str(workers), "--config", str(self.config_file), "--log-format", "json"),
            *arguments,
        ]
        variables = {**self._light_settings(config), **os.environ, **self._http(http), **(environment or {})}
        self.process: subprocess.Popen[str] | template.Process
        if prefix or environment:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "engine", *words],
                cwd=ROOT,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        else:
            self.process = template.start("engine", *words, environment=variables, folder=ROOT)
        self.log: list[str] = []
        threading.Thread(target=self._read_log, daemon=True).start()
        self.ready_line = ""
        self.port = 0
        self.url = ""
        """The HTTP URL, without a slash at the end."""
        if await_ready:
            self.wait_ready()

    @staticmethod
    def _light_settings(config: str) -> dict[str, str]:
        """No prewriting, since half a gigabyte of zeros per worker and start would slow the tests; no pauses of the
        caretaker, since no other process needs the disk."""
        settings = {"FILMROOM_CARETAKER_PAUSE_S": "0"}
        return settings if "prewrite_bytes" in config else {**settings, "FILMROOM_STORAGE_PREWRITE_BYTES": "0"}

    @staticmethod
    def _http(enabled: bool) -> dict[str, str]:
        """HTTP is off unless a test needs it: it costs memory and time at each start."""
        return {"FILMROOM_HTTP_ENABLED": str(enabled).lower(), **({"FILMROOM_HTTP_PORT": "0"} if enabled else {})}

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Waits for the ready line."""
        if not self.is_ready_within(timeout_s):
            self.kill_all()
            raise AssertionError(f"not ready: {self.ready_line!r}\n" + "".join(self.log[-40:]))

    def is_ready_within(self, seconds: float) -> bool:
        """Whether its ready line comes in that time; also false if it has ended."""
        assert self.process.stdout is not None
        if not self.ready_line and select.select([self.process.stdout], [], [], seconds)[0]:
            self.ready_line = self.process.stdout.readline()
        found = re.search(r" on \S+:(\d+)", self.ready_line)
        self.port = int(found[1]) if found else 0
        url = re.search(r" (https?://\S+)/,", self.ready_line)
        self.url = url[1] if url else ""
        return found is not None

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log.append(line)

    def events(self, event: str) -> list[dict[str, object]]:
        """The log lines of one event so far."""
        lines = [orjson.loads(line) for line in list(self.log) if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def stats(self, *, are_workers_awaited: bool = True) -> dict[str, object]:
        """The statistics from the control socket.

        A worker that is busy for some seconds has none: they are asked for again until each worker has answered.
        """
        found: list[dict[str, object]] = []

        def is_complete() -> bool:
            try:
                found.append(control.request(self.data, {"command": "stats"}))
            except control.ControlUnavailable as error:
                raise AssertionError(f"{error}\n" + "".join(self.log[-40:])) from error
            workers: list[dict[str, object]] = found[-1]["workers"]  # type: ignore[assignment]
            return not are_workers_awaited or all("counters" in worker for worker in workers)

        wait_for(is_complete, what="the answer of each worker")
        return found[-1]

    def reload(self, config: str) -> None:
        """Loads another configuration, which applies to every later association."""
        self.config_file.write_text(config)
        control.request(self.data, {"command": "reload"})

    def worker_pids(self) -> list[int]:
        """The workers' process ids."""
        return [int(worker["pid"]) for worker in self.stats(are_workers_awaited=False)["workers"]]  # type: ignore[attr-defined]

    def kill_all(self) -> None:
        """Kills supervisor and workers at once with SIGKILL."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself, and its workers with it
        self.wait()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, or `drain` to the control socket if another program started the server."""
        if self.prefixed:
            control.request(self.data, {"command": "drain"})
        else:
            self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 60.0) -> int:
        """Asks it to stop; returns its exit code."""
        if self.process.poll() is None:
            self.ask_to_stop()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for its end; returns its exit code."""
        assert self.process.stdout is not None
        code = self.process.wait(timeout_s)
        self.process.stdout.close()
        return code

    def close(self) -> None:
        """Stops the server in any case."""
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill_all()
        else:
            self.wait()


@contextmanager
def running(data: Path, *arguments: str, **options: object) -> Iterator[Server]:
    """A server during a `with` block."""
    server = Server(data, *arguments, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    """A free loopback port, below those that the kernel gives to others meanwhile, or to a connection to itself."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = lowest - 1 - secrets.randbelow(min(8000, lowest - 1024))
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def wait_for(condition: object, timeout_s: float = 60.0, what: str = "condition") -> None:
    """Polls until `condition()` is true; a failure contains `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} not reached within {timeout_s} s"
        threading.Event().wait(0.02)


def filmroom(server: Server, *arguments: str) -> dict[str, object]:
    """Runs a command beside the server; returns its last line of JSON."""
    variables = {**os.environ, "FILMROOM_CONFIG": str(server.config_file)}
    done = template.run("engine", *arguments, "--data", str(server.data), "--json", environment=variables, folder=ROOT)
    assert done.returncode == 0, done.stderr + done.stdout
    answer: dict[str, object] = orjson.loads(done.stdout.splitlines()[-1])
    return answer
