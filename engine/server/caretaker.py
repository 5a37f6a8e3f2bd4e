"""The caretaker process: compaction, retention, scrubbing and other background jobs beside the workers.

The supervisor starts it as `python -m engine.server.caretaker FD` and replaces it when it dies; FD is its end of the
channel. It is a guest of the archive like the workers, without connections. It has three threads:

    jobs            runs the background jobs (`background_jobs`), step by step, at the lowest priority
    main            receives the supervisor's messages
    index-writer    writes the index at the priority of the workers. All processes wait for the index writer: at the
                    lowest priority, a busy machine might not run it for seconds

    a step leaves work to do              the job that is due first continues
    nothing to do                         the thread sleeps until a job is due
    another process compacts or scrubs    the job tries again later
    a step fails                          logged, and tried again after a pause that doubles up to FAILURE_PAUSE_MAX_S
    StorageFailed                         final, as for every writer: the process ends, a successor starts from the disk
    config                                every job applies the new configuration, and is due
    drain, or the supervisor has ended    an unfinished copy is discarded, and the process ends
"""

from __future__ import annotations

import math
import os
import select
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from traceback import format_exc
from typing import Any

from engine import guards, log
from engine.archive.archive import Archive
from engine.config import Config
from engine.errors import ArchiveInUse, EngineError, StorageFailed, for_log
from engine.server import bootstrap
from engine.server.background_jobs import JOBS, READ_ONLY_JOBS, ClosingJob, Job
from engine.server.channel import Channel, ChannelClosed

logger = log.get("server.caretaker")

NICENESS = 19
"""The niceness of the background jobs' thread: it gets only processor time that nobody else needs."""

IN_USE_PAUSE_S = 5.0
FAILURE_PAUSE_S = 5.0
FAILURE_PAUSE_MAX_S = 600.0

WAIT_MAX_S = 1.0
"""The longest sleep of the background jobs' thread, after which it notices a reload."""

FLUSH_MS = 20
"""The interval of retries for messages that did not fit into the supervisor's buffer."""

EXIT_STORAGE_FAILED = 3


class Caretaker:
    """The process; `run` returns its exit code."""

    def __init__(self, channel: Channel, config: Config, version: int = 1) -> None:
        """`version`: number of the configuration."""
        self._channel = channel
        self._version = version
        self._stopping = threading.Event()
        self._ended_read, self._ended_write = os.pipe()
        self._archive = Archive.open(config.data, role="guest")
        # Start the thread here: it inherits the normal priority of the main thread.
        self._writing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index-writer")
        self._writing.submit(threading.get_native_id).result()
        self._archive.write_index_by(lambda work: self._writing.submit(work).result())
        makers = READ_ONLY_JOBS if self._archive.is_read_only else JOBS
        self._jobs: list[Job] = [make(self._archive, config, self._stopping) for make in makers]
        self._due_s = dict.fromkeys((job.name for job in self._jobs), 0.0)
        self._failures: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._exit_code = 1

    def run(self) -> int:
        """Works until the supervisor sends drain, or ends."""
        thread = guards.start("jobs", self._work)
        try:
            self._channel.send("configured", version=self._version)
            self._listen()
        except ChannelClosed:
            self._stopping.set()
        thread.join()
        if self._exit_code == 0:
            for job in self._jobs:
                if isinstance(job, ClosingJob):
                    job.close()
            self._archive.close()
        self._writing.shutdown(wait=self._exit_code == 0)
        return self._exit_code

    # -- the background jobs' thread ---------------------------------------------------------------------

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            while not self._stopping.is_set():
                job = min(self._jobs, key=lambda job: self._due_s[job.name])
                wait_s = self._due_s[job.name] - time.monotonic()
                if wait_s > 0:
                    self._stopping.wait(min(wait_s, WAIT_MAX_S))
                    continue
                self._due_s[job.name] = math.inf
                self._archive.keep_reserve_file()
                pause_s = self._step(job)
                # A reload during the step may have made the job due.
                self._due_s[job.name] = min(self._due_s[job.name], time.monotonic() + pause_s)
                self._archive.retrieval.sweep()
            self._exit_code = 0
        except StorageFailed as error:
            logger.error("storage failed, the caretaker ends", error=for_log(error))
            self._exit_code = EXIT_STORAGE_FAILED
        except Exception:
            logger.error("the caretaker's work ended unexpectedly, the caretaker ends", error=format_exc())
        finally:
            os.write(self._ended_write, b"x")

    def _step(self, job: Job) -> float:
        """Runs one step and returns the job's pause. Raises StorageFailed."""
        pause_s: float
        try:
            pause_s = job.step()
        except ArchiveInUse:
            return IN_USE_PAUSE_S
        except StorageFailed:
            raise
        except EngineError as error:
            pause_s = self._note_failure(job, str(error))
            logger.warning("background work failed", job=job.name, error=for_log(error), pause_s=pause_s)
            return pause_s
        except Exception as error:
            # A defect of one job. Keep the process: the other jobs go on, and a successor would only crash again.
            pause_s = self._note_failure(job, repr(error))
            logger.error("background work crashed", job=job.name, error=for_log(error), pause_s=pause_s)
            return pause_s
        self._failures.pop(job.name, None)
        return pause_s

    def _note_failure(self, job: Job, error: str) -> float:
        """Notes a failure and returns the job's pause."""
        count = self._failures.get(job.name, 0)
        self._failures[job.name] = count + 1
        self._errors[job.name] = error
        return float(min(FAILURE_PAUSE_S * 2 ** min(count, 20), FAILURE_PAUSE_MAX_S))

    # -- the supervisor's messages --------------------------------------------------------------

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.register(self._ended_read, select.POLLIN)
        while not self._stopping.is_set():
            ready = {fd for fd, _ in poll.poll(FLUSH_MS if self._channel.backlog else None)}
            self._channel.flush()
            if self._ended_read in ready:
                return
            while (delivery := self._channel.receive()) is not None:
                self._handle(delivery[0])

    def _handle(self, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "ask":
                self._channel.send("answer", request=message["request"], answer=self._stats())
            case "config":
                config = Config.from_json(message["config"].encode())
                for job in self._jobs:
                    job.configure(config)
                    self._due_s[job.name] = 0.0
                self._channel.send("configured", version=message["version"])
            case "drain":
                self._stopping.set()

    def _stats(self) -> dict[str, object]:
        stats: dict[str, object] = {job.name: job.stats() for job in self._jobs}
        return {**stats, "failing": {name: self._errors[name] for name in list(self._failures)}}


def main(fd: int) -> int:
    """Runs the caretaker process; returns its exit code."""
    channel = bootstrap.open_channel(fd)

    def work(config: Config, message: dict[str, Any]) -> int:
        return Caretaker(channel, config, message["version"]).run()

    return bootstrap.run(channel, "caretaker", work, process="caretaker")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
