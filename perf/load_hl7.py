"""HL7 load: C connections, each sending N messages, the next one when the answer to the one before has come.

    python -m perf.load_hl7                                  starts filmroom; 1 and 16 connections
    python -m perf.load_hl7 --port 2575 --connections 16 --messages 500
    python -m perf.load_hl7 --port 2575 --rate 200           so many a second, on four connections, until it is ended
    python -m perf.load_hl7 --beside-ingest --rounds 5       C-STORE alone and beside 200 messages a second, in turns

Half are ADT^A08 of patients of its own, half OMI^O23, about 1 kB each. An answer that is no AA ends the load. The
table shows messages a second, the latency of answers, and the disk's own rate of one sync after another.

Beside ingest the messages come from a process of their own. Each round stores alone and beside them, the next round the
other way round; the ratios are those of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import uvloop

from engine.hl7 import FrameReader, framed
from perf import load_store, peers
from perf.harness import median

ROOT = Path(__file__).resolve().parent.parent


def message(run: str, connection: int, number: int) -> bytes:
    control_id = f"{run}-{connection}-{number}"
    patient = f"{connection}{number:06d}"
    kind = "ADT^A08^ADT_A01" if number % 2 else "OMI^O23^OMI_O23"
    lines = [
        f"MSH|^~\\&|LOAD|SITE|FILMROOM|RAD|20261130101500||{kind}|{control_id}|P|2.5.1||||||UNICODE UTF-8",
        f"PID|1||{patient}^^^HOSP^MR||Müller{patient}^Jörg^Karl||19600229|M|||Hauptstraße 1^^Köln^^50667^D||0221 4711",
        f"PV1|1|I|WARD1^101^2||||12^House^Gregory|12^House^Gregory|||||||||||V{patient}^^^VISITS",
    ]
    if number % 2 == 0:
        lines += [
            f"ORC|NW|P{patient}^RIS|F{patient}^RIS||SC|||||||77^Cuddy^Lisa",
            "TQ1|1||||||20261201080000+0100||R",
            f"OBR|1|P{patient}^RIS|F{patient}^RIS|CT01^CT Thorax^L|||||||||allergic to contrast|||12^House^Gregory",
            f"IPC|A{patient}^RIS|RP{patient}|1.2.826.0.1.{patient}|SPS{patient}|CT|PC1^Thorax^L|CT1|Room 2|CTSCANNER",
        ]
    return ("\r".join(lines) + "\r").encode()


BESIDE_PER_S = 200
BESIDE_CONNECTIONS = 4


async def send(
    port: int, run: str, connection: int, count: int, latencies: list[float], interval_s: float = 0.0
) -> None:
    """Sends messages on one connection; with `interval_s` each in its time, or as soon as the answer has come."""
    due = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    frames = FrameReader()
    for number in range(count):
        data = framed(message(run, connection, number))
        if interval_s:
            due += interval_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        writer.write(data)
        answers: list[object] = []
        while not answers:
            received = await reader.read(65536)
            if not received:
                raise SystemExit("the server has closed the connection")
            for frame in frames.feed(received):
                if b"\rMSA|AA|" not in frame.payload:
                    raise SystemExit(f"not accepted: {frame.payload!r}")
                answers.append(frame)
        latencies.append(time.perf_counter() - began)
    writer.close()


async def load(port: int, connections: int, messages: int) -> dict[str, float]:
    run = f"{os.getpid():x}{time.time_ns() & 0xFFFFFF:x}"
    latencies: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(*(send(port, run, number, messages, latencies) for number in range(connections)))
    took_s = time.perf_counter() - began
    latencies.sort()
    return {
        "connections": connections,
        "messages_per_s": round(len(latencies) / took_s, 1),
        "answer_p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "answer_p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
    }


async def pace(port: int, per_s: float) -> None:
    """Sends so many messages a second, without an end; prints a line when the first one was answered."""
    run = f"{os.getpid():x}{time.time_ns() & 0xFFFFFF:x}"
    await send(port, run, BESIDE_CONNECTIONS, 1, [])
    print("sending", flush=True)
    interval_s, forever = BESIDE_CONNECTIONS / per_s, 1 << 30
    await asyncio.gather(*(send(port, run, each, forever, [], interval_s) for each in range(BESIDE_CONNECTIONS)))


def taken(data: Path) -> int:
    """The number of messages in the journal of a server's data folder."""
    command = [sys.executable, "-m", "engine", "hl7", "journal", "--data", str(data), "--limit", "1", "--json"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return int(json.loads(shown.splitlines()[0])["number"]) if shown else 0


def beside_ingest(rounds: int, instances: int) -> list[dict[str, float]]:
    """Instances a second alone and beside messages, of each round."""
    port = peers.free_port()
    config = f'[[hl7_listener]]\nhost = "127.0.0.1"\nport = {port}\n'
    rows = []
    with peers.running("filmroom", workers=2, config=config) as peer:
        study, rates = 1, dict[bool, float]()
        for number in range(rounds):
            row: dict[str, float] = {"round": number + 1}
            for is_beside in (False, True) if number % 2 == 0 else (True, False):
                load = load_store.StoreLoad(association_count=4, instance_count=instances, first_study=study)
                study += load_store.study_count(load)
                with messages_beside(port) if is_beside else nullcontext():
                    before, began = taken(peer.data), time.perf_counter()
                    rates[is_beside] = load_store.run(peer.target, load).instances_per_s
                    if is_beside:
                        count = taken(peer.data) - before
                        row["messages_per_s"] = round(count / (time.perf_counter() - began), 1)
            row |= {"alone_per_s": rates[False], "beside_per_s": rates[True], "ratio": rates[True] / rates[False]}
            rows.append(row)
    return rows


@contextmanager
def messages_beside(port: int) -> Iterator[None]:
    """Messages at BESIDE_PER_S from another process."""
    command = [sys.executable, "-m", "perf.load_hl7", "--port", str(port), "--rate", str(BESIDE_PER_S)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield
            if process.poll() is not None:
                raise SystemExit("the messages have ended")
        finally:
            process.kill()


def syncs_per_s(folder: Path, seconds: float) -> float:
    """One write of 1.5 kB and one fdatasync after another, in blocks that were written before."""
    path = folder / "syncs"
    path.write_bytes(bytes(4 << 20))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        os.pwrite(fd, b"x" * 1500, count * 1504 % (3 << 20))
        os.fdatasync(fd)
        count += 1
    took_s = time.perf_counter() - began
    os.close(fd)
    path.unlink()
    return round(count / took_s, 1)


def measure(port: int, connections: list[int], messages: int, folder: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for count in connections:
        disk = syncs_per_s(folder, 1.0 if messages > 20 else 0.05)
        row = uvloop.run(load(port, count, messages))
        rows.append({**row, "syncs_per_s": disk})
    return rows


def started(folder: Path) -> tuple[subprocess.Popen[str], int]:
    config = folder / "filmroom.toml"
    config.write_text('[[hl7_listener]]\nhost = "127.0.0.1"\nport = 0\n[http]\nenabled = false\n')
    command = [sys.executable, "-m", "engine", "serve", "--config", str(config), "--data", str(folder / "data")]
    command += ["--dicom-port", "0", "--host", "127.0.0.1", "--workers", "1", "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"mllp://127\.0\.0\.1:(\d+)/", process.stdout.readline())
    if found is None:
        process.kill()
        raise SystemExit("the server did not start")
    return process, int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="of a running server; default: start one")
    parser.add_argument("--connections", type=int, action="append", help="may be given several times")
    parser.add_argument("--messages", type=int, default=1000, help="of each connection")
    parser.add_argument("--rate", type=float, help="messages a second, without an end")
    parser.add_argument("--beside-ingest", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="beside ingest")
    parser.add_argument("--instances", type=int, default=400, help="of each association, beside ingest")
    parser.add_argument("--smoke", action="store_true", help="a moment only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    messages = 5 if options.smoke else options.messages
    if options.rate:
        uvloop.run(pace(options.port, options.rate))
        return
    if options.beside_ingest:
        rows = beside_ingest(options.rounds, options.instances)
        show(rows, options.json)
        print(f"ratio {median([row['ratio'] for row in rows]):.3f} (median)")
        return
    with tempfile.TemporaryDirectory(prefix="filmroom-hl7-") as name:
        process, port = (None, options.port) if options.port else started(Path(name))
        try:
            rows = measure(port, options.connections or [1, 16], messages, Path(name))
        finally:
            if process is not None:
                process.terminate()
                process.wait(60)
                assert process.stdout is not None
                process.stdout.close()
    show(rows, options.json)


def show(rows: list[dict[str, float]], file: Path | None) -> None:
    """Prints rows, and writes them."""
    for row in rows:
        print("  ".join(f"{name} {value:g}" for name, value in row.items()))
    if file is not None:
        file.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
