"""C-FIND asked by findscu and pynetdicom, at every level of every model: the answers of a whole server are those of the
slow matcher of PS3.4 (`tests.oracle.matcher`), and those of dcmqrscp where that is right.

Where dcmqrscp (3.6.7) is not asked, since it is not right or leaves out what an archive may: text is compared as bytes,
so that a name is found only in the set and the case in which it was stored; Modalities in Study, the numbers of related
entities, Body Part Examined, Image Type and every sequence are passed over, neither matched nor given back; below
PATIENT in Patient Root keys of the patient other than its ID are passed over.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.storage.record import crc32c
from tests import samples, template
from tests.oracle import comparison, key_matching, matcher, query_question, query_world
from tests.oracle.key_matching import YES, Question, tag_of
from tests.oracle.matcher import NAMES
from tests.system import foreign
from tests.system.foreign import EXPLICIT, IMPLICIT, Stored
from tests.system.server import Server, free_port, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

BIG_ENDIAN = "1.2.840.10008.1.2.2"
UTF_8, LATIN_1 = "ISO_IR 192", "ISO_IR 100"
needs_findscu = pytest.mark.skipif(shutil.which("findscu") is None, reason="findscu is not installed (dcmtk)")
needs_dcmqrscp = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("findscu", "dcmqrscp", "storescu")),
    reason="dcmqrscp is not installed (dcmtk)",
)

PEOPLE = [
    ("P1", "Müller^Jörg", LATIN_1),
    ("P2", "MULLER^HANS", ""),
    ("P3", "Yamada^Tarou=山田^太郎=やまだ^たろう", "\\ISO 2022 IR 87"),
    ("P4", "Hong^Gildong=洪^吉洞=홍^길동", "\\ISO 2022 IR 149"),
    ("P5", "Wang^XiaoDong=王^小东", "GB18030"),
    ("P6", "Иванов^Пётр", "ISO_IR 144"),
    ("P7", "Meyer^Anna", ""),
    ("P8", "Maier^Anna Maria", ""),
]


def data_sets() -> list[Dataset]:
    """Eight patients with a study or two each, of two series with two instances each."""
    made = []
    for number, (patient_id, name, character_set) in enumerate(PEOPLE, 1):
        for study in (number, number + 20)[: 1 + number % 2]:
            for series, modality in ((1, "CT"), (2, "SR" if number % 3 else "PT")):
                for index in range(1, 3):
                    ds = samples.instance(
                        study,
                        series,
                        index,
                        modality=modality,
                        patient_id=patient_id,
                        patient_name="Nobody",
                        study_date=f"202601{number + study // 20:02}",
                        pixels=bytes(64),
                        StudyTime=f"{7 + number:02}15",
                        AccessionNumber=f"A{study}",
                        StudyDescription=f"Schädel {number}" if character_set == LATIN_1 else f"Head {number}",
                        BodyPartExamined="HEAD" if series == 1 else "CHEST",
                        ImageType=["ORIGINAL", "PRIMARY", "AXIAL" if index == 1 else "LOCALIZER"],
                    )
                    if character_set:
                        ds.SpecificCharacterSet = character_set.split("\\")
                    ds.PatientName = name
                    ds.RequestAttributesSequence = [_request(f"R{study}", "S1"), _request(f"R{series}00", "S2")]
                    made.append(ds)
    return made


def _request(procedure: str, step: str) -> Dataset:
    item = Dataset()
    item.RequestedProcedureID = procedure
    item.ScheduledProcedureStepID = step
    item.ScheduledProcedureStepDescription = "step"
    return item


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """What is stored, as the judge gets it: read from the bytes that are sent."""
    folder = tmp_path_factory.mktemp("library")
    return [dcmread(path) for path in samples.write(folder, *data_sets())]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, library: list[Dataset]) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("find") / "data", workers=1) as started:
        assert set(foreign.store(started.port, map(Stored.of, library))) == {0}
        yield started


# questions -------------------------------------------------------------------------------------------

STUDY_1, SERIES_1 = f"{samples.ROOT}.1", f"{samples.ROOT}.1.1"
BASE: dict[str, dict[str, Any]] = {
    "PATIENT": {"PatientID": "", "PatientName": ""},
    "STUDY": {"StudyInstanceUID": "", "PatientName": "", "StudyDate": "", "ModalitiesInStudy": ""},
    "SERIES": {"StudyInstanceUID": STUDY_1, "SeriesInstanceUID": "", "Modality": "", "SeriesNumber": ""},
    "IMAGE": {
        "StudyInstanceUID": STUDY_1,
        "SeriesInstanceUID": SERIES_1,
        "SOPInstanceUID": "",
        "InstanceNumber": "",
    },
}
PATIENT_KEYS = {"patient": {"PatientID": "P1"}, "patient-study-only": {"PatientID": "P1"}, "study": {}}
LEVELS_OF = {"patient": NAMES, "study": NAMES[1:], "patient-study-only": NAMES[:2]}

QUESTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("STUDY", {}, ""),
    ("STUDY", {"PatientName": "Müller^Jörg"}, UTF_8),
    ("STUDY", {"PatientName": "müller*"}, LATIN_1),
    ("STUDY", {"PatientName": "M?LLER*"}, ""),
    ("STUDY", {"PatientName": "*ller^*"}, ""),
    ("STUDY", {"PatientName": "山田^太郎"}, "\\ISO 2022 IR 87"),
    ("STUDY", {"PatientName": "山田*"}, UTF_8),
    ("STUDY", {"PatientName": "=洪^吉洞"}, "\\ISO 2022 IR 149"),
    ("STUDY", {"PatientName": "홍^길동"}, UTF_8),
    ("STUDY", {"PatientName": "*王^小东*"}, "GB18030"),
    ("STUDY", {"PatientName": "ИВАНОВ^ПЕТР"}, "ISO_IR 144"),
    ("STUDY", {"PatientName": "*"}, ""),
    ("STUDY", {"PatientID": "P?"}, ""),
    ("STUDY", {"PatientID": "p1"}, ""),
    ("STUDY", {"StudyDate": "20260103-20260106"}, ""),
    ("STUDY", {"StudyDate": "-20260103"}, ""),
    ("STUDY", {"StudyDate": "20260106-", "StudyTime": "12-"}, ""),
    ("STUDY", {"StudyTime": "0900-1015"}, ""),
    ("STUDY", {"StudyInstanceUID": [STUDY_1, f"{samples.ROOT}.2", "1.2.3"]}, ""),
    ("STUDY", {"ModalitiesInStudy": "PT"}, ""),
    ("STUDY", {"AccessionNumber": "A2*"}, ""),
    ("STUDY", {"StudyDescription": "Schädel*"}, UTF_8),
    ("STUDY", {"StudyDescription": "schädel*"}, UTF_8),
    ("STUDY", {"NumberOfStudyRelatedInstances": "", "NumberOfStudyRelatedSeries": "", "SOPClassesInStudy": ""}, ""),
    ("STUDY", {"AccessionNumber": "nothing like it"}, ""),
    ("SERIES", {}, ""),
    ("SERIES", {"Modality": "CT", "NumberOfSeriesRelatedInstances": ""}, ""),
    ("SERIES", {"SeriesNumber": "2", "BodyPartExamined": "C*"}, ""),
    ("SERIES", {"RequestAttributesSequence": [{"RequestedProcedureID": "R1", "ScheduledProcedureStepID": ""}]}, ""),
    ("SERIES", {"RequestAttributesSequence": [{"RequestedProcedureID": "R1", "ScheduledProcedureStepID": "S2"}]}, ""),
    ("SERIES", {"RequestAttributesSequence": [{"RequestedProcedureID": "R?00"}]}, ""),
    ("SERIES", {"RequestAttributesSequence": []}, ""),
    ("IMAGE", {}, ""),
    ("IMAGE", {"InstanceNumber": "2", "SOPClassUID": ""}, ""),
    ("IMAGE", {"ImageType": "AXIAL"}, ""),
    ("IMAGE", {"SOPInstanceUID": [f"{SERIES_1}.1", f"{SERIES_1}.2"]}, ""),
]
PATIENT_QUESTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("PATIENT", {}, ""),
    ("PATIENT", {"PatientName": "M*", "PatientSex": "F", "NumberOfPatientRelatedStudies": ""}, ""),
    ("PATIENT", {"PatientID": "P3", "PatientBirthDate": "19700101-19701231"}, ""),
    ("PATIENT", {"PatientName": "홍*"}, UTF_8),
]


def asked(level: str, root: str, keys: Mapping[str, Any], character_set: str) -> Dataset:
    """The identifier of a question in a model."""
    ds = Dataset()
    if character_set:
        ds.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
    ds.QueryRetrieveLevel = level
    above = PATIENT_KEYS[root] if level != "PATIENT" else {}
    for keyword, value in {**BASE[level], **above, **keys}.items():
        if keyword.endswith("Sequence"):
            value = [foreign.identifier(item) for item in value]
        setattr(ds, keyword, value)
    return ds


def every_question() -> list[tuple[str, str, Dataset]]:
    """Root, what a failure says, identifier."""
    found = []
    for root in foreign.MODELS:
        for level, keys, character_set in (*PATIENT_QUESTIONS, *QUESTIONS):
            breaks = level != "PATIENT" and root != "study" and "?" in str(keys.get("PatientID", ""))
            if level in LEVELS_OF[root] and not breaks:
                found.append((root, f"{level} {root} {keys} {character_set}", asked(level, root, keys, character_set)))
    return found


def wrong_in(library: Sequence[Dataset], identifier: Dataset, matches: Sequence[Dataset], **flags: bool) -> str:
    """What is wrong with an answer; nothing if nothing is."""
    question = Question(NAMES.index(str(identifier.QueryRetrieveLevel)), identifier, **flags)
    search = matcher.Search(matcher.Archive(library), question)
    assert all(one.verdict == YES for one in search.answer), "the question is one that the standard leaves open"
    return comparison.disagreement(search, [key_matching.read(ds) for ds in matches])


# pynetdicom ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_every_answer_to_pynetdicom_is_the_judges(server: Server, library: list[Dataset], syntax: str) -> None:
    for root in foreign.MODELS:
        uid = foreign.model(root, "find")
        with foreign.association(server.port, [(uid, syntax)], options=b"") as assoc:
            for of, what, identifier in every_question():
                if of != root or (syntax != EXPLICIT and root != "study"):
                    continue
                responses = list(assoc.send_c_find(identifier, uid))
                statuses = {int(status.Status) for status, _ in responses}
                assert statuses <= {0xFF00, 0}, f"{what}: {sorted(map(hex, statuses))}"
                got = [ds for _, ds in responses if ds is not None]
                assert not (wrong := wrong_in(library, identifier, got)), f"{what}: {wrong}"
                for ds in got:
                    assert ds.QueryRetrieveLevel == identifier.QueryRetrieveLevel, what
                    asked_for = {int(tag) for tag in identifier.keys()}  # noqa: SIM118
                    assert {int(tag) for tag in ds.keys()} - asked_for <= matcher.PASSED_OVER, what  # noqa: SIM118


@pytest.mark.parametrize(
    ("root", "keys"),
    [
        ("study", {"level": "SERIES", "SeriesInstanceUID": ""}),
        ("study", {"level": "IMAGE", "SOPInstanceUID": "", "StudyInstanceUID": STUDY_1}),
        ("study", {"level": "IMAGE", "SOPInstanceUID": f"{SERIES_1}.1"}),
        ("study", {"level": "SERIES", "SeriesInstanceUID": "", "StudyInstanceUID": [STUDY_1, "1.2"]}),
        ("study", {"level": "PATIENT", "PatientID": ""}),
        ("study", {"level": "FRAME", "PatientID": ""}),
        ("study", {"PatientID": ""}),
        ("patient", {"level": "STUDY", "StudyInstanceUID": ""}),
        ("patient", {"level": "STUDY", "StudyInstanceUID": "", "PatientID": "P*"}),
        ("patient", {"level": "SERIES", "SeriesInstanceUID": "", "PatientID": "P1"}),
        ("patient-study-only", {"level": "SERIES", "SeriesInstanceUID": "", "PatientID": "P1"}),
    ],
)
def test_an_identifier_that_breaks_the_hierarchy_is_answered_a900_with_a_comment(
    server: Server, root: str, keys: dict[str, object]
) -> None:
    uid = foreign.model(root, "find")
    with foreign.association(server.port, [(uid, EXPLICIT)], options=b"") as assoc:
        responses = list(assoc.send_c_find(foreign.identifier(keys), uid))
    assert [f"{int(status.Status):04X}" for status, _ in responses] == ["A900"]
    assert len(str(responses[0][0].ErrorComment)) > 10


@contextmanager
def negotiated(server: Server, root: str, *flags: int) -> Iterator[Any]:
    """An association whose extended negotiation asks for these bytes of Table C.5-1; yields it and what was said."""
    uid = foreign.model(root, "find")
    with foreign.association(server.port, [(uid, EXPLICIT)], options=bytes(flags)) as assoc:
        said = [
            bytes(one.service_class_application_information)
            for one in assoc.acceptor.user_information
            if isinstance(one, SOPClassExtendedNegotiation) and one.sop_class_uid == uid
        ]
        yield assoc, said[0] if said else b""


NEGOTIATED: list[tuple[str, tuple[int, ...], dict[str, bool], str, dict[str, Any], str]] = [
    ("relational", (1,), {"relational": True}, "SERIES", {"StudyInstanceUID": "", "Modality": "PT"}, ""),
    ("relational", (1,), {"relational": True}, "STUDY", {"Modality": "PT", "SOPClassUID": samples.CT}, ""),
    ("relational", (1,), {"relational": True}, "IMAGE", {"StudyInstanceUID": "", "SeriesInstanceUID": ""}, ""),
    (
        "date-time",
        (0, 1),
        {"date_time": True},
        "STUDY",
        {"StudyDate": "20260103-20260106", "StudyTime": "1200-1015"},
        "",
    ),
    ("fuzzy", (0, 0, 1), {"fuzzy": True}, "STUDY", {"PatientName": "meier anna"}, ""),
    ("fuzzy", (0, 0, 1), {"fuzzy": True}, "STUDY", {"PatientName": "Joerg Mueller"}, ""),
    ("fuzzy", (0, 0, 1), {"fuzzy": True}, "STUDY", {"PatientName": "太郎 山*"}, UTF_8),
    ("empty value", (0, 0, 0, 0, 0, 1), {"empty_values": True}, "STUDY", {"StudyDescription": '""'}, ""),
    ("empty value", (0, 0, 0, 0, 0, 1), {"empty_values": True}, "STUDY", {"PatientComments": '""'}, ""),
    (
        "multiple value",
        (0, 0, 0, 0, 0, 0, 1),
        {"multiple_values": True},
        "STUDY",
        {"ModalitiesInStudy": ["PT", "CT"]},
        "",
    ),
]


@pytest.mark.parametrize(
    ("name", "flags", "words", "level", "keys", "character_set"),
    NEGOTIATED,
    ids=[f"{name}-{number}" for number, (name, *_) in enumerate(NEGOTIATED)],
)
def test_what_was_negotiated_is_done(
    server: Server,
    library: list[Dataset],
    name: str,
    flags: tuple[int, ...],
    words: dict[str, bool],
    level: str,
    keys: dict[str, Any],
    character_set: str,
) -> None:
    identifier = asked(level, "study", keys, character_set)
    with negotiated(server, "study", *flags) as (assoc, said):
        assert said[: len(flags)] == bytes(flags), f"{name} was not granted: {said!r}"
        got = [ds for _, ds in assoc.send_c_find(identifier, foreign.model("study", "find")) if ds is not None]
    assert not (wrong := wrong_in(library, identifier, got, **words)), wrong
    assert got or name == "empty value"


# random questions ------------------------------------------------------------------------------------

RANDOM = 60
FLAGS = ("relational", "date_time", "fuzzy", "timezone", "", "empty_values", "multiple_values")
"""By the byte that negotiates it (PS3.4 Table C.5-1)."""


def test_random_questions_are_answered_over_the_network_as_by_the_judge(tmp_path: Path) -> None:
    world = query_world.world(random.Random("network:1"))
    world.has_extras = False
    judge = matcher.Archive(map(query_world.read, world.data_sets))
    archive = Archive.open(tmp_path / "data", role="keeper", create=True)
    archive.ingest_batch([ReceivedInstance([data], len(data), crc32c(data), EXPLICIT) for data in world.data_sets])
    archive.close()
    with running(tmp_path / "data", workers=1) as server:
        for turn in range(RANDOM):
            asked = query_question.question(random.Random(f"network:{turn}"), world)
            uid = foreign.model(asked.root.lower().replace("_", "-"), "find")
            options = bytes(asked.flags.get(name, False) for name in FLAGS)
            identifier = query_world.read(asked.identifier)
            identifier.QueryRetrieveLevel = NAMES[asked.level]
            with foreign.association(server.port, [(uid, EXPLICIT)], options=options) as assoc:
                responses = list(assoc.send_c_find(identifier, uid))
            search = matcher.Search(judge, asked.question())
            pending = 0xFF01 if search.unsupported else 0xFF00
            statuses = [int(status.Status) for status, _ in responses]
            assert statuses == [pending] * (len(statuses) - 1) + [0], f"turn {turn}: {asked}: {statuses[-3:]}"
            answers = [key_matching.read(ds) for _, ds in responses if ds is not None]
            assert not (wrong := comparison.disagreement(search, answers)), f"turn {turn}: {asked}: {wrong}"


# many answers, cancel --------------------------------------------------------------------------------

MANY = 1000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A series of thousands, imported."""
    folder = tmp_path_factory.mktemp("many")
    data = folder / "data"
    pattern = samples.part10(samples.instance(1, 1, 1000, pixels=bytes(32)))
    assert pattern.count(b".1.1.1000") == 2
    files = folder / "files"
    files.mkdir()
    for number in range(1000, 1000 + MANY):
        instance = pattern.replace(b".1.1.1000", b".1.1.%d" % number)
        (files / f"{number}.dcm").write_bytes(instance)
    with running(data, workers=1) as started:
        done = template.run("engine", "import", "--data", str(data), str(files))
        assert done.returncode == 0, done.stderr
        yield started


IMAGES = {"level": "IMAGE", "StudyInstanceUID": STUDY_1, "SeriesInstanceUID": SERIES_1, "SOPInstanceUID": ""}


def test_thousands_of_answers_come_whole_and_once(large: Server) -> None:
    status, matches = foreign.find(large.port, IMAGES)
    assert status == 0
    uids = [str(ds.SOPInstanceUID) for ds in matches]
    assert len(uids) == len(set(uids)) == MANY
    again = foreign.find(large.port, IMAGES)[1]
    assert [str(ds.SOPInstanceUID) for ds in again] == uids


def test_a_cancel_ends_the_answers_and_the_association_goes_on(large: Server) -> None:
    uid = foreign.model("study", "find")
    with foreign.association(large.port, [(uid, EXPLICIT)]) as assoc:
        statuses = []
        for status, _ in assoc.send_c_find(foreign.identifier(IMAGES), uid, msg_id=7):
            statuses.append(int(status.Status))
            if len(statuses) == 3:
                assoc.send_c_cancel(7, query_model=uid)
        assert statuses[-1] in (0xFE00, 0)
        assert set(statuses[:-1]) == {0xFF00}
        if statuses[-1] == 0xFE00:
            assert len(statuses) < MANY
        again = [int(status.Status) for status, _ in assoc.send_c_find(foreign.identifier(IMAGES), uid)]
        assert again[-1] == 0 and len(again) == MANY + 1


# findscu ---------------------------------------------------------------------------------------------

OPTION_OF = {"patient": "-P", "study": "-S", "patient-study-only": "-O"}


def findscu(
    port: int, root: str, identifier: Dataset, folder: Path, *options: str, called: str = "FILMROOM"
) -> list[Dataset]:
    """What findscu writes: one file a match."""
    folder.mkdir(parents=True)
    request = folder / "request.dcm"
    identifier.save_as(request, implicit_vr=False, little_endian=True)
    found = folder / "found"
    found.mkdir()
    done = subprocess.run(
        [
            "findscu",
            OPTION_OF[root],
            "-aec",
            called,
            "-X",
            "-od",
            str(found),
            *options,
            "127.0.0.1",
            str(port),
            str(request),
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return [dcmread(path, force=True) for path in sorted(found.glob("rsp*.dcm"))]


@needs_findscu
@pytest.mark.parametrize("root", foreign.MODELS)
def test_every_answer_to_findscu_is_the_judges(
    server: Server, library: list[Dataset], tmp_path: Path, root: str
) -> None:
    for number, (of, what, identifier) in enumerate(every_question()):
        if of == root and (root == "study" or number % 5 == 0):
            options = random.Random(number).choice([["-xi"], ["-xe"], ["-xb"], []])
            got = findscu(server.port, root, identifier, tmp_path / str(number), *options)
            assert not (wrong := wrong_in(library, identifier, got)), f"{what}: {wrong}"


@needs_findscu
def test_keys_on_the_command_line_of_findscu_are_taken_in_their_character_set(server: Server, tmp_path: Path) -> None:
    for number, (character_set, codec) in enumerate(((UTF_8, "utf-8"), (LATIN_1, "latin-1"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        keys = [
            f"SpecificCharacterSet={character_set}",
            "QueryRetrieveLevel=STUDY",
            "PatientName=müller^j*",
            "PatientID",
        ]
        command = [b"findscu", b"-S", b"-aec", b"FILMROOM", b"-X", b"-od", str(folder).encode()]
        for key in keys:
            command += [b"-k", key.encode(codec)]
        done = subprocess.run([*command, b"127.0.0.1", str(server.port).encode()], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        found = [dcmread(path, force=True) for path in sorted(folder.glob("rsp*.dcm"))]
        assert [(str(ds.PatientID), str(ds.PatientName)) for ds in found] == [("P1", "Müller^Jörg")] * 2


@needs_findscu
def test_findscu_may_cancel(large: Server, tmp_path: Path) -> None:
    found = findscu(large.port, "study", foreign.identifier(IMAGES), tmp_path / "cancel", "--cancel", "5")
    assert 5 <= len(found) <= MANY
    status, matches = foreign.find(large.port, IMAGES)
    assert (status, len(matches)) == (0, MANY)


# dcmqrscp --------------------------------------------------------------------------------------------


@contextmanager
def dcmqrscp(folder: Path) -> Iterator[int]:
    """A running dcmqrscp with an empty archive."""
    storage = folder / "storage"
    storage.mkdir(parents=True)
    port = free_port()
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nFILMROOM {storage} RW (200, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        ["dcmqrscp", "-c", str(config), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: _listens(port), what="dcmqrscp")
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


COMPARED: list[tuple[str, str, dict[str, Any]]] = [
    ("study", "STUDY", {}),
    ("study", "STUDY", {"PatientID": "P7"}),
    ("study", "STUDY", {"PatientID": "P?"}),
    ("study", "STUDY", {"AccessionNumber": "A2*"}),
    ("study", "STUDY", {"StudyDate": "20260103-20260106"}),
    ("study", "STUDY", {"StudyDate": "-20260103"}),
    ("study", "STUDY", {"StudyDate": "20260106-"}),
    ("study", "STUDY", {"StudyDate": "20260106-", "StudyTime": "12-"}),
    ("study", "STUDY", {"StudyTime": "0900-1015"}),
    ("study", "STUDY", {"StudyInstanceUID": [STUDY_1, f"{samples.ROOT}.2", "1.2.3"]}),
    ("study", "STUDY", {"PatientName": "Me*"}),
    ("study", "STUDY", {"AccessionNumber": "nothing"}),
    ("study", "SERIES", {}),
    ("study", "SERIES", {"Modality": "CT"}),
    ("study", "IMAGE", {}),
    ("study", "IMAGE", {"InstanceNumber": "2"}),
    ("patient", "PATIENT", {}),
    ("patient", "PATIENT", {"PatientName": "Ma*"}),
    ("patient", "STUDY", {}),
    ("patient", "SERIES", {}),
    ("patient", "IMAGE", {}),
]


@needs_dcmqrscp
def test_dcmqrscp_finds_the_same_where_it_is_right(server: Server, library: list[Dataset], tmp_path: Path) -> None:
    keys_of = [tag_of(word) for word in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    with dcmqrscp(tmp_path / "dcmqrscp") as port:
        files = samples.write(tmp_path / "files", *library)
        stored = subprocess.run(
            ["storescu", "-aec", "FILMROOM", "-R", "127.0.0.1", str(port), *map(str, files)],
            capture_output=True,
            check=False,
        )
        assert stored.returncode == 0, stored.stderr
        for number, (root, level, keys) in enumerate(COMPARED):
            identifier = asked(level, root, keys, "")
            if "ModalitiesInStudy" in identifier:
                del identifier.ModalitiesInStudy  # it does not know it
            sets = []
            for name, to in (("theirs", port), ("ours", server.port)):
                found = findscu(to, root, identifier, tmp_path / name / str(number))
                unique = [tag for tag in keys_of if tag in identifier]
                sets.append({tuple(str(ds.get(tag, None) and ds[tag].value) for tag in unique) for ds in found})
            assert sets[0] == sets[1], f"{root} {level} {keys}: theirs {sets[0]}, ours {sets[1]}"
            assert sets[0] or "nothing" in keys.values()
