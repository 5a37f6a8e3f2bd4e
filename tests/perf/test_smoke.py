"""The loads keep running: each program with its smoke parameters, and the bytes that they build, read by others.

A run takes one peer a program, another one with each commit (`effort`); --all takes each with each.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from perf import corpus, harness, load_find, memory, population, wire
from perf.association import Connection, Target
from perf.sink import Sink
from tests import effort

pytestmark = [pytest.mark.slow, pytest.mark.rotating(7)]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM_TIMEOUT_S = 900
"""Of a failure only: a program takes seconds, on a busy machine a minute."""


def run_program(name: str, *arguments: str) -> str:
    """Its output; skips where what it needs is not installed or not built."""
    done = subprocess.run(
        [sys.executable, "-m", f"perf.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, f"perf.{name} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def parse(data_set: bytes) -> pydicom.Dataset:
    parsed = pydicom.dcmread(io.BytesIO(data_set), force=True)
    parsed.file_meta = pydicom.dataset.FileMetaDataset()
    parsed.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return parsed


# programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peer", effort.one_of("sink", "storescp", "dcmqrscp", "orthanc", "filmroom", "filmroom-write-behind")
)
def test_store_load_runs(peer: str, tmp_path: Path) -> None:
    result = tmp_path / "store.json"
    # dcmqrscp refuses an instance now and then when two associations store at once.
    association_count = 1 if peer == "dcmqrscp" else 2
    run_program(
        "load_store", "--smoke", "--peer", peer, "--associations", str(association_count), "--json", str(result)
    )
    assert json.loads(result.read_text())["load_store"]["sent_count"] == 20 * association_count


def test_the_load_of_dicomweb_runs(tmp_path: Path) -> None:
    result = tmp_path / "web.json"
    cases = "frames-6,get,study,metadata,studies,instances,rendered,thumbnail,stow-1,stow-parts"
    run_program("web", "--smoke", "--peers", "filmroom", "--cases", cases, "--json", str(result))
    found = json.loads(result.read_text())
    assert found["left_out"] == {}
    rates = {row["case"]: row["rate"] for row in found["rows"]}
    assert len(rates) == len(cases.split(",")) + 2, "metadata and thumbnail have a row for the first request"
    assert min(rates.values()) > 0


@pytest.mark.parametrize("peer", effort.one_of("sink", "filmroom"))
def test_store_load_with_a_window_runs(peer: str, tmp_path: Path) -> None:
    result = tmp_path / "store.json"
    run_program("load_store", "--smoke", "--peer", peer, "--window", "4", "--json", str(result))
    assert json.loads(result.read_text())["load_store"]["window"] == 4


@pytest.mark.parametrize("peer", effort.one_of("dcmqrscp", "orthanc", "filmroom"))
@pytest.mark.parametrize("program", ["load_move", "load_get"])
def test_retrieval_load_receives_every_instance(program: str, peer: str, tmp_path: Path) -> None:
    result = tmp_path / "retrieval.json"
    run_program(program, "--smoke", "--peer", peer, "--json", str(result))
    assert json.loads(result.read_text())[program]["instance_count"] == 20


@pytest.mark.parametrize("peer", effort.one_of("dcmqrscp", "filmroom"))
def test_find_load_finds_something_with_each_query(peer: str, tmp_path: Path) -> None:
    result = tmp_path / "find.json"
    run_program("load_find", "--smoke", "--peer", peer, "--json", str(result))
    empty = {each["query"]: each["empty_count"] for each in json.loads(result.read_text())["load_find"]}
    if peer == "dcmqrscp":
        empty.pop("PatientName fuzzy")  # it knows exact names only
    assert empty.keys() <= load_find.QUERIES.keys() and not any(empty.values()), empty


def test_hl7_messages_are_answered() -> None:
    assert "connections 16" in run_program("load_hl7", "--smoke")


def test_pages_that_stay_open_are_watched(tmp_path: Path) -> None:
    result = tmp_path / "pages.json"
    assert "studies arrived" in run_program("open_page", "--smoke", "--json", str(result))
    looks = json.loads(result.read_text())["open_page"]
    assert looks.keys() == {"list", "health"} and all(look["nodes"] for each in looks.values() for look in each)


def test_queries_of_an_archive_and_of_peers_stand_in_one_table(tmp_path: Path) -> None:
    data = tmp_path / "archive"
    run_program("fill", "--direct", str(data), "--studies", "20", "--long-series", "30")
    by_http = run_program("web_queries", "--smoke", "--archive", f"{data}:20", "--long-series")
    assert "50 studies" in run_program("fhir", "--smoke", "--archive", f"{data}:20")
    assert "instances of a study" in by_http and "/api by PatientName from" in by_http
    assert "referrer" in run_program("scopes", "--smoke", "--archive", f"{data}:20")
    assert "keystroke to rows" in run_program("page", "--smoke", "--archive", f"{data}:20")
    shown = run_program("queries", "--smoke", "--archive", f"{data}:20", "--long-series", "--peers", "dcmqrscp")
    assert "filmroom, 20 studies of archive" in shown and "dcmqrscp, 20 studies" in shown


@pytest.mark.parametrize("peer", effort.one_of("storescp", "filmroom"))
def test_memory_of_many_associations_is_shown(peer: str) -> None:
    assert "PSS MB" in run_program("memory", "--smoke", "--peer", peer)


def test_large_object_comes_back_as_sent() -> None:
    assert "the same" in run_program("memory", "--smoke", "--peer", "filmroom", "--large-bytes", "20000000")


@pytest.mark.parametrize("how", effort.one_of((), ("--kill",)))
def test_start_is_timed(how: tuple[str, ...]) -> None:
    assert "median ready" in run_program("start", "--smoke", "--peer", "filmroom", *how)


@pytest.mark.parametrize("peer", effort.one_of("sink", "filmroom"))
def test_stock_senders_run(peer: str, tmp_path: Path) -> None:
    result = tmp_path / "stock.json"
    run_program("stock", "--smoke", "--peer", peer, "--json", str(result))
    assert json.loads(result.read_text())["stock"]["failed_count"] == 0


@pytest.mark.parametrize("program", effort.one_of("load_store", "load_get", "load_move", "load_find"))
def test_each_load_can_leave_nagles_algorithm_on(program: str) -> None:
    run_program(program, "--smoke", "--nagle", "--peer", "filmroom")


def test_pdus_written_one_by_one_are_the_same_bytes_and_show_what_is_overwritten() -> None:
    message = wire.StoreMessage(corpus.template("mr"), 1, 16384)
    pdus = message.pdus()
    assert len(pdus) > 3
    message.set_study(population.plain_study(7, "MR", (1,)))
    message.set_series(corpus.series_uid(7, 1), 1)
    message.set_instance(3, 9)
    assert b"".join(pdus) == bytes(message.buffer)
    assert all(pdu[0] == wire.P_DATA_TF for pdu in pdus)


def test_fill_runs() -> None:
    assert "200 instances of 20 studies" in run_program("fill", "--smoke", "--peer", "filmroom")


LONGEST = effort.one_of("scale", "life", "run")
"""Of the programs that start several servers each."""


def another_times(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(program not in LONGEST, reason=f"perf.{program}: with another commit, or --all")


@another_times("scale")
def test_scale_runs() -> None:
    assert "filled against empty" in run_program("scale", "--smoke")


@another_times("life")
def test_life_runs(tmp_path: Path) -> None:
    result = tmp_path / "life.json"
    run_program("life", "--smoke", "--json", str(result))
    life = json.loads(result.read_text())["life"]
    assert life["deleted_studies"] > 0
    assert 0 < life["backup_more_bytes"] < life["backup_full_bytes"]
    assert life["given_back"] > 0


def test_disk_loop_and_sink_run() -> None:
    assert "append" in run_program("disk_loop", "--smoke")
    assert "sink ready" in run_program("sink", "--smoke")


def test_the_loads_over_tls_reach_every_server(tmp_path: Path) -> None:
    if shutil.which("storescp") is None:
        pytest.skip("DCMTK is not installed (Debian package dcmtk)")
    result = tmp_path / "result.json"
    run_program("tls", "--smoke", "--json", str(result))
    cases = {(case, server) for case, server, _, _ in json.loads(result.read_bytes())["tls"]}
    assert {server for case, server in cases if case == "store-8"} == {
        *("filmroom", "filmroom, TLS", "filmroom-write-behind", "filmroom-write-behind, TLS", "storescp, TLS")
    }
    assert ("handshakes", "openssl s_server") in cases


def test_the_bare_server_answers_every_sender(tmp_path: Path) -> None:
    result = tmp_path / "bare.json"
    run_program("bare_store", "--smoke", "--json", str(result))
    runs = json.loads(result.read_text())["bare_store"]
    assert [run["connection_count"] for run in runs] == [1, 8]
    assert all(run["instances_per_s"] > 0 for run in runs)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_bare_sender_sends_what_the_sink_takes() -> None:
    shown = run_program("bare_retrieval", "--smoke")
    assert len([line for line in shown.splitlines() if line.startswith(("| ct", "| mr"))]) == 4


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_bare_server_answers_every_request() -> None:
    shown = run_program("bare_http", "--smoke")
    assert len([line for line in shown.splitlines() if line.startswith(("| read", "| sendfile"))]) == 2


@pytest.mark.skipif(shutil.which("perf") is None, reason="Linux perf is not installed")
def test_a_profile_names_the_interpreter() -> None:
    assert "interpreter" in run_program("profile", "--smoke", "--case", "get")


@another_times("run")
def test_runner_compares_the_peers(tmp_path: Path) -> None:
    result = tmp_path / "run.json"
    assert "instances/s" in run_program("run", "--smoke", "--json", str(result))
    assert json.loads(result.read_text())["samples"]


# bytes -------------------------------------------------------------------------------------------


def test_ct_is_a_data_set_of_some_eighty_elements() -> None:
    template = corpus.template("ct")
    message = wire.StoreMessage(template, 1, 131072)
    message.set_study(population.plain_study(1, "CT", (1,)))
    message.set_series(corpus.series_uid(1, 1), 1)
    message.set_instance(1, 1)
    parsed = parse(message.data_set())
    assert len(parsed) == template.element_count
    assert 75 <= template.element_count <= 90
    assert parsed.pixel_array.shape == (512, 512)
    assert 525_000 < len(template.data_set) < 535_000
    assert [element.tag for element in parsed] == sorted(element.tag for element in parsed)


@pytest.mark.parametrize("name", ["ct", "mr", "tiny", "tiny-us", "tiny-ot"])
def test_every_patchable_value_is_where_the_offsets_say(name: str) -> None:
    template = corpus.template(name)
    assert set(template.offsets) == set(corpus.PATCHABLE)
    data_set = bytearray(template.data_set)
    facts = population.study(4711)
    for key, value in {"patient_id": facts.patient_id, "study_uid": facts.study_uid}.items():
        offset, length = template.offsets[key]
        data_set[offset : offset + length] = value.ljust(length)
    parsed = parse(bytes(data_set))
    assert parsed.PatientID == facts.patient_id.decode()
    assert parsed.StudyInstanceUID == facts.study_uid.decode()


@pytest.mark.parametrize("pdu_length_max", [0, 4096, 16384, 131072])
def test_patched_message_unframes_to_the_patched_data_set(pdu_length_max: int) -> None:
    message = wire.StoreMessage(corpus.template("mr"), 1, pdu_length_max)
    facts = population.study(12)
    message.set_study(facts)
    message.set_series(corpus.series_uid(12, 3), 3)
    message.set_instance(77, 0x1234)
    parsed = parse(message.data_set())
    assert parsed.SOPInstanceUID == corpus.instance_uid(12, 3, 77).decode()
    assert (parsed.InstanceNumber, parsed.SeriesNumber) == (77, 3)
    assert parsed.PatientName == facts.patient_name.decode()
    assert len(message.data_set()) == len(corpus.template("mr").data_set)


def test_reader_takes_any_framing() -> None:
    """Several PDVs in one PDU, command and data set in one PDU, fragments of any even size."""
    for seed in range(20):
        rng = random.Random(seed)
        command = wire.store_rq(corpus.SOP_CLASS_OF_MODALITY["CT"], b"1.2.3", seed)
        data_set = rng.randbytes(2 * rng.randint(1, 3000))
        pdvs = _pdvs(command, 1, rng) + _pdvs(data_set, 0, rng)
        stream = b""
        while pdvs:
            count = rng.randint(1, 4)
            stream += wire.pdu(wire.P_DATA_TF, b"".join(pdvs[:count]))
            pdvs = pdvs[count:]
        near, far = socket.socketpair(socket.AF_UNIX)
        with near, far:
            # A Unix socket has no Nagle to switch off and does not discard by MSG_TRUNC: read the data set instead.
            connection = Connection.__new__(Connection)
            connection.sock, connection._pdu_left, connection._other_body = near, 0, b""
            far.sendall(stream + wire.RELEASE_RQ_PDU)
            message = connection.read_message()
            assert message is not None, f"seed {seed}"
            assert message.field == wire.C_STORE_RQ and message.has_data_set
            assert connection.read_data_set() == data_set, f"seed {seed}"
            assert connection.read_message() is None
            assert far.recv(100) == wire.RELEASE_RP_PDU


def _pdvs(payload: bytes, command: int, rng: random.Random) -> list[bytes]:
    made, offset = [], 0
    while offset < len(payload):
        piece = payload[offset : offset + 2 * rng.randint(1, 1500)]
        offset += len(piece)
        control = command | (2 if offset >= len(payload) else 0)
        made.append(struct.pack(">IBB", len(piece) + 2, 1, control) + piece)
    return made


def test_status_is_found_behind_a_message_id_that_looks_like_its_tag() -> None:
    for message_id in (1, 0x0209, 0x0900, 0x0902):
        request = wire.parse_command(wire.store_rq(corpus.SOP_CLASS_OF_MODALITY["CT"], b"1.2.3", message_id))
        reply = wire.frame(1, wire.response(request, 0xA700), command=True, pdu_length_max=16384)
        assert wire.status_of(reply) == 0xA700


def test_large_object_is_a_whole_encapsulated_data_set() -> None:
    large = memory.large_object(1_000_000, 16378)
    data_set = large.head + large.item * large.item_count + large.tail
    assert len(data_set) == large.data_set_bytes
    pixel_data = parse(data_set).PixelData
    assert len(pixel_data) == 8 + len(large.item) * large.item_count


def test_large_object_is_sent_whole() -> None:
    sink = Sink()
    try:
        large = memory.store_large(Target(sink.port, "SINK"), 3_000_000)
        assert (sink.counts.instance_count, sink.counts.data_set_bytes) == (1, large.data_set_bytes)
    finally:
        sink.close()


# population and numbers --------------------------------------------------------------------------


def test_ten_studies_in_a_row_have_a_hundred_instances() -> None:
    assert sum(facts.instance_count for facts in population.studies(41, 10)) == 100


def test_a_study_is_the_same_each_time_and_its_patient_has_three() -> None:
    studies = [population.study(number) for number in range(300)]
    assert studies == list(population.studies(0, 300))
    by_patient: dict[bytes, set[bytes]] = {}
    for facts in studies:
        by_patient.setdefault(facts.patient_id, set()).add(facts.patient_name + facts.birth_date + facts.sex)
    assert len(by_patient) == 100
    assert all(len(persons) == 1 for persons in by_patient.values())


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [harness.percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert harness.percentile([], 0.5) == 0
    assert harness.median([3, 1, 2]) == 2
    assert harness.median([4, 1, 2, 3]) == 2.5


def test_cpu_of_a_finished_child_still_counts() -> None:
    work = "sum(range(3_000_000))"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}']); print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert harness.cpu_s(process.pid) >= 0.02
    process.communicate(b"\n")
