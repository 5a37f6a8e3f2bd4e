"""pynetdicom against a whole server, as SCU and as SCP: store, find, move, get, permissions, transfer syntaxes."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from pynetdicom import evt

from tests import peer, samples
from tests.corpus import corpus_files, needs_corpus
from tests.system import foreign
from tests.system.foreign import EXPLICIT, IMPLICIT, VERIFICATION, Stored
from tests.system.server import Server, free_port, running

pytestmark = pytest.mark.slow

CT, MR, SC = samples.CT, samples.MR, "1.2.840.10008.5.1.4.1.1.7"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PLAIN = [(CT, EXPLICIT), (MR, EXPLICIT)]
RETRIEVAL_S = 0.8
"""How long a destination takes for a retrieval that is told of on the way: some `retrieve_scp.PENDING_INTERVAL_S`."""

PRIVATE_CLASS = "1.3.6.1.4.1.99999.5.1.4"
UNKNOWN_STANDARD_CLASS = "1.2.840.10008.5.1.4.1.1.99.99"
PRINT = "1.2.840.10008.5.1.1.9"
"""A class of the standard that is not served."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose peers each test sets; each test has study numbers of its own."""
    with running(tmp_path_factory.mktemp("pynetdicom") / "data") as started:
        yield started


@pytest.fixture(autouse=True)
def no_peers(request: pytest.FixtureRequest) -> None:
    """Each test begins with the default configuration."""
    if "server" in request.fixturenames:
        request.getfixturevalue("server").reload("")


def study_of(number: int, count: int = 4, **options: object) -> list[Stored]:
    """A study of one series."""
    return [Stored.of(samples.instance(number, 1, index, **options)) for index in range(1, count + 1)]  # type: ignore[arg-type]


def by_uid(stored: list[Stored]) -> dict[str, tuple[str, bytes]]:
    """What a retrieval of all of them must bring."""
    return {each.sop_instance_uid: (each.transfer_syntax_uid, each.data_set) for each in stored}


def study_keys(number: int) -> dict[str, object]:
    """The identifier of one whole study."""
    return {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.{number}"}


def count_of(server: Server, number: int) -> int:
    """How many instances of a study the archive finds."""
    keys = {"level": "IMAGE", "StudyInstanceUID": f"{samples.ROOT}.{number}", "SOPInstanceUID": ""}
    status, matches = foreign.find(server.port, keys)
    assert status == 0
    return len(matches)


# C-ECHO, C-STORE ---------------------------------------------------------------------------------


def test_c_echo_is_answered(server: Server) -> None:
    with foreign.association(server.port, [(VERIFICATION, [IMPLICIT, EXPLICIT])]) as assoc:
        assert assoc.send_c_echo().Status == 0


def test_instances_sent_on_several_associations_are_all_stored(server: Server) -> None:
    shares = [study_of(100 + number, 6) for number in range(4)]
    with ThreadPoolExecutor(len(shares)) as pool:
        statuses = list(pool.map(lambda share: foreign.store(server.port, share), shares))
    assert statuses == [[0] * 6] * 4
    for number, share in enumerate(shares):
        brought = foreign.get(server.port, study_keys(100 + number), PLAIN)
        assert brought.data_sets == by_uid(share)
        assert brought.statuses[-1] == 0


def test_the_same_bytes_again_are_a_success_and_are_stored_once(server: Server) -> None:
    stored = study_of(110, 3)
    assert foreign.store(server.port, stored) == [0, 0, 0]
    size = sum(file.stat().st_size for file in (server.data / "segments").iterdir())
    bytes_before = server.stats()["archive"]["live_bytes"]  # type: ignore[index]
    assert foreign.store(server.port, stored) == [0, 0, 0]
    assert count_of(server, 110) == 3
    assert server.stats()["archive"]["live_bytes"] == bytes_before  # type: ignore[index]
    assert sum(file.stat().st_size for file in (server.data / "segments").iterdir()) == size


def test_one_instance_sent_by_many_at_once_is_stored_once(server: Server) -> None:
    stored = study_of(111, 1)
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: foreign.store(server.port, stored), range(6)))
    assert statuses == [[0]] * 6
    assert count_of(server, 111) == 1
    assert foreign.get(server.port, study_keys(111), PLAIN).data_sets == by_uid(stored)


@pytest.mark.parametrize(
    ("policy", "status", "current"),
    [("keep-first", 0xB000, "first"), ("replace", 0, "second"), ("keep-both-versions", 0, "second")],
)
def test_other_bytes_under_a_known_uid_follow_the_policy(
    server: Server, policy: str, status: int, current: str
) -> None:
    server.reload(f'[[peer]]\naet = "FOREIGN"\nduplicates = "{policy}"\n')
    number = {"keep-first": 120, "replace": 121, "keep-both-versions": 122}[policy]
    first, second = study_of(number, 1), study_of(number, 1, pixels=bytes(512))
    versions = server.stats()["archive"]["versions"]  # type: ignore[index]
    assert foreign.store(server.port, first) == [0]
    assert foreign.store(server.port, second) == [status]
    assert count_of(server, number) == 1
    brought = foreign.get(server.port, study_keys(number), PLAIN)
    assert brought.data_sets == by_uid(first if current == "first" else second)
    kept = server.stats()["archive"]["versions"] - versions  # type: ignore[index]
    assert kept == (0 if policy == "replace" else 1)


def test_a_data_set_that_is_not_what_the_command_says_is_refused(server: Server) -> None:
    right = study_of(130, 1)[0]
    other_uid = Stored(CT, f"{samples.ROOT}.130.1.999", EXPLICIT, right.data_set)
    other_class = Stored(MR, right.sop_instance_uid, EXPLICIT, right.data_set)
    assert foreign.store(server.port, [other_uid]) == [0xA900]
    assert foreign.store(server.port, [other_class]) == [0xA900]
    assert count_of(server, 130) == 0


def test_what_is_no_data_set_is_refused_and_the_association_goes_on(server: Server) -> None:
    right = study_of(131, 1)[0]
    broken = Stored(CT, right.sop_instance_uid, EXPLICIT, b"\x08\x00\x16\x00UI\xff\x7fno data set")
    without_study = samples.instance(131, 1, 2)
    del without_study.StudyInstanceUID
    statuses = foreign.store(server.port, [broken, Stored.of(without_study), right])
    assert all(status & 0xF000 in (0xA000, 0xC000) for status in statuses[:2])
    assert statuses[2] == 0


@pytest.mark.parametrize("sop_class_uid", [PRIVATE_CLASS, UNKNOWN_STANDARD_CLASS])
def test_unknown_sop_classes_are_stored_like_others(server: Server, sop_class_uid: str) -> None:
    number = 140 + (sop_class_uid == PRIVATE_CLASS)
    stored = study_of(number, 2, sop_class_uid=sop_class_uid)
    assert foreign.store(server.port, stored) == [0, 0]
    with foreign.Receiver([(sop_class_uid, EXPLICIT)]) as sink:
        server.reload(sink.peer())
        assert foreign.move(server.port, study_keys(number), "SINK").statuses[-1] == 0
        assert sink.data_sets() == by_uid(stored)


def test_unknown_sop_classes_are_refused_where_the_configuration_says_so(server: Server) -> None:
    server.reload("promiscuous = false\n")
    assoc = foreign.request(server.port, [(PRIVATE_CLASS, EXPLICIT), (CT, EXPLICIT)])
    results = [(context.abstract_syntax, context.result) for context in assoc.rejected_contexts]
    assoc.release()
    assert results == [(PRIVATE_CLASS, 3)]


# Transfer syntaxes -------------------------------------------------------------------------------


def in_syntax(number: int, index: int, uid: str) -> Stored:
    """An instance in any transfer syntax; the compressed ones hold fragments that nobody can decode."""
    ds = samples.instance(number, 1, index)
    if uid == DEFLATED:
        plain = samples.encoded(ds)
        squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = squeezer.compress(plain) + squeezer.flush()
        return Stored(CT, str(ds.SOPInstanceUID), uid, data + b"\0" * (len(data) % 2))
    if uid not in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        ds.PixelData = encapsulate([bytes([index]) * 300, b"second fragment!"])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        return Stored(CT, str(ds.SOPInstanceUID), uid, samples.encoded(ds))
    if uid == BIG_ENDIAN:
        # pydicom writes Pixel Data as it is, in whatever byte order that may be.
        ds.PixelData = b"".join(ds.PixelData[at : at + 2][::-1] for at in range(0, len(ds.PixelData), 2))
    ds.file_meta.TransferSyntaxUID = UID(uid)
    return Stored.of(ds)


SYNTAXES = [
    *(IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED),
    *(f"1.2.840.10008.1.2.4.{leaf}" for leaf in (50, 51, 57, 70, 80, 81, 90, 91, 100, 102, 107, 201, 202, 203, 110)),
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.1.98",
]


def test_every_transfer_syntax_is_stored_and_given_back_untouched(server: Server) -> None:
    stored = [in_syntax(150, index, uid) for index, uid in enumerate(SYNTAXES, 1)]
    assert foreign.store(server.port, stored) == [0] * len(stored)
    kinds = [(CT, uid) for uid in SYNTAXES]
    assert foreign.get(server.port, study_keys(150), kinds).data_sets == by_uid(stored)
    with foreign.Receiver(kinds) as sink:
        server.reload(sink.peer())
        moved = foreign.move(server.port, study_keys(150), "SINK")
        assert moved.statuses[-1] == 0
        assert sink.data_sets() == by_uid(stored)


JPEG_LOSSLESS, JPEG_2000, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
EVERYTHING = [IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG_LOSSLESS, JPEG_2000, RLE, "1.2.840.10008.1.2.4.50"]


def taken(port: int, contexts: list[tuple[str, list[str]]], **options: object) -> list[str]:
    """The transfer syntaxes that are accepted."""
    with foreign.association(port, contexts, **options) as assoc:  # type: ignore[arg-type]
        return [str(context.transfer_syntax[0]) for context in assoc.accepted_contexts]


def test_who_offers_native_and_compressed_syntaxes_in_one_context_can_send_its_native_images(server: Server) -> None:
    assert taken(server.port, [(CT, EVERYTHING), (MR, [JPEG_LOSSLESS, IMPLICIT])]) == [EXPLICIT, IMPLICIT]
    with foreign.association(server.port, [(CT, EVERYTHING)]) as assoc:
        assert assoc.send_c_store(samples.instance(510, 1, 1)).Status == 0


def test_a_compressed_form_is_taken_alone_or_from_a_peer_that_is_configured_so(server: Server) -> None:
    assert taken(server.port, [(CT, [JPEG_LOSSLESS]), (CT, [RLE, JPEG_2000])]) == [JPEG_LOSSLESS, RLE]
    server.reload('[[peer]]\naet = "MODALITY"\nprefer_compressed = true\n')
    assert taken(server.port, [(CT, EVERYTHING), (MR, [IMPLICIT, EXPLICIT])], calling="MODALITY") == [
        JPEG_LOSSLESS,
        EXPLICIT,
    ]
    assert taken(server.port, [(CT, EVERYTHING)]) == [EXPLICIT]


@pytest.mark.parametrize("roles", [True, False], ids=["with role items", "without"])
@pytest.mark.parametrize(
    "syntaxes", [EVERYTHING, [EXPLICIT, RLE], [JPEG_LOSSLESS, IMPLICIT], [JPEG_2000, JPEG_LOSSLESS, BIG_ENDIAN]]
)
def test_c_get_on_a_context_of_native_and_compressed_syntaxes_brings_native_images(
    server: Server, syntaxes: list[str], roles: bool
) -> None:
    """As some viewers ask; those that also prefer compressed forms for what they store included."""
    server.reload('[[peer]]\naet = "VIEWER"\nprefer_compressed = true\n')
    stored = study_of(520, 2)
    assert foreign.store(server.port, stored) == [0, 0]
    got: dict[str, str] = {}

    def received(event: evt.Event) -> int:
        got[str(event.request.AffectedSOPInstanceUID)] = str(event.context.transfer_syntax)
        return 0

    model = foreign.model("study", "get")
    with foreign.association(
        server.port,
        [(model, EXPLICIT), (CT, syntaxes)],
        calling="VIEWER",
        handlers=[(evt.EVT_C_STORE, received)],
        roles=[CT] if roles else [],
    ) as assoc:
        if not roles:
            for context in assoc.accepted_contexts:
                context._as_scp = context._as_scu = True
        statuses = [status.Status for status, _ in assoc.send_c_get(foreign.identifier(study_keys(520)), model)]
    assert statuses[-1] == 0
    assert set(got) == {each.sop_instance_uid for each in stored}
    assert set(got.values()) <= {EXPLICIT, IMPLICIT, BIG_ENDIAN}


def test_modality_at_study_level_finds_the_studies_that_have_it_and_says_it(server: Server) -> None:
    patient = "MODALITY-AT-STUDY"
    made = [samples.instance(530, 1, 1, patient_id=patient, modality="CT")]
    made += [samples.instance(531, 1, 1, patient_id=patient, modality="MR")]
    assert foreign.store(server.port, [Stored.of(each) for each in made]) == [0, 0]
    keys = {"level": "study", "PatientID": patient, "StudyInstanceUID": "", "Modality": "CT"}
    statuses, found = foreign.find_statuses(server.port, keys, options=b"")
    assert statuses == [0xFF00, 0x0000]
    assert [(each.StudyInstanceUID, each.Modality) for each in found] == [(f"{samples.ROOT}.530", "CT")]
    assert len(foreign.find(server.port, keys)[1]) == 1, "relational"
    statuses, found = foreign.find_statuses(server.port, keys | {"Modality": ""}, options=b"")
    assert statuses == [0xFF01, 0xFF01, 0x0000], "to give it back is not supported, as of any key of a series"


def test_an_instance_whose_uid_is_too_long_fails_alone(server: Server) -> None:
    """Old archives hold some. Sent, it ends the association with many clients, pynetdicom for one."""
    instances = [samples.instance(540, 1, number) for number in (1, 2, 3)]
    long_uid = f"{samples.ROOT}.540." + "1" * 50
    assert len(long_uid) > 64
    instances[1].SOPInstanceUID = long_uid
    with peer.Peer(server.port) as script:
        script.associate((1, CT, [EXPLICIT]))
        for number, each in enumerate(instances, 1):
            request = peer.c_store_rq(number, CT, str(each.SOPInstanceUID))
            script.send(peer.message(1, request, samples.encoded(each)))
            assert script.expect_message().status() == 0
        script.release()
    got = foreign.get(server.port, study_keys(540), [(CT, EXPLICIT)])
    assert got.statuses[-1] == 0xB000
    assert got.counts[-1][1:] == (2, 1, 0)
    assert got.failed_uids == [long_uid]
    assert len(got.data_sets) == 2


def elements_of(data_set: bytes, syntax: str) -> dict[int, object]:
    """Every element, by pydicom; group lengths aside. Private and unknown ones as bytes."""
    ds = dcmread(io.BytesIO(foreign_part10(data_set, syntax)))
    return {
        int(element.tag): element.value if not element.tag.is_private else bytes(str(element.value), "utf-8")
        for element in ds
        if element.tag.element != 0
    }


def foreign_part10(data_set: bytes, syntax: str) -> bytes:
    """A Part 10 file of a data set."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\2\0\x10\0UI" + len(uid).to_bytes(2, "little") + uid
    return bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + len(element).to_bytes(4, "little") + element + data_set


@pytest.mark.parametrize("stored_syntax", [EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_destination_that_takes_only_implicit_little_endian_gets_it_converted(
    server: Server, stored_syntax: str
) -> None:
    number = 160 + [EXPLICIT, BIG_ENDIAN, DEFLATED].index(stored_syntax)
    stored = in_syntax(number, 1, stored_syntax)
    assert foreign.store(server.port, [stored]) == [0]
    with foreign.Receiver([(CT, IMPLICIT)]) as sink:
        server.reload(sink.peer())
        moved = foreign.move(server.port, study_keys(number), "SINK")
        assert moved.statuses[-1] == 0
        assert moved.counts[-1][1:] == (1, 0, 0)
    syntax, data_set = sink.data_sets()[stored.sop_instance_uid]
    assert syntax == IMPLICIT
    assert elements_of(data_set, IMPLICIT) == elements_of(samples.encoded(samples.instance(number, 1, 1)), EXPLICIT)


def test_what_cannot_be_converted_is_counted_as_failed_and_the_others_are_sent(server: Server) -> None:
    stored = [in_syntax(170, 1, EXPLICIT), in_syntax(170, 2, "1.2.840.10008.1.2.4.70"), in_syntax(170, 3, EXPLICIT)]
    assert foreign.store(server.port, stored) == [0, 0, 0]
    with foreign.Receiver([(CT, IMPLICIT)]) as sink:
        server.reload(sink.peer())
        moved = foreign.move(server.port, study_keys(170), "SINK")
    assert moved.statuses[-1] == 0xB000
    assert moved.counts[-1] == (None, 2, 1, 0)
    assert moved.failed_uids == [stored[1].sop_instance_uid]
    assert set(sink.data_sets()) == {stored[0].sop_instance_uid, stored[2].sop_instance_uid}


@needs_corpus("syntax", "dup", "series/mr-siemens-one-image-nine-syntaxes")
@pytest.mark.parametrize(
    "name", ["syntax/CT1_JLSN.dcm", "dup/MR_small_RLE.dcm", "series/mr-siemens-one-image-nine-syntaxes/9.dcm"]
)
def test_compressed_pixels_are_decoded_for_a_destination_that_takes_none(server: Server, name: str) -> None:
    paths = [path for path in corpus_files() if path.as_posix().endswith(name)]
    original = dcmread(paths[0])
    meta, data_set = foreign.read_file(paths[0])
    stored = Stored(str(original.SOPClassUID), str(original.SOPInstanceUID), foreign.uid_of(meta, 0x0010), data_set)
    assert foreign.store(server.port, [stored]) == [0]
    with foreign.Receiver([(stored.sop_class_uid, EXPLICIT), (stored.sop_class_uid, IMPLICIT)]) as sink:
        server.reload(sink.peer())
        keys = {"level": "STUDY", "StudyInstanceUID": str(original.StudyInstanceUID)}
        assert foreign.move(server.port, keys, "SINK").statuses[-1] == 0
    syntax, received = sink.data_sets()[stored.sop_instance_uid]
    assert syntax in (EXPLICIT, IMPLICIT)
    decoded = dcmread(io.BytesIO(foreign_part10(received, syntax)))
    assert (decoded.pixel_array == original.pixel_array).all()


def test_a_peer_gets_a_compressed_transfer_syntax_that_nothing_is_stored_in(server: Server) -> None:
    stored = study_of(177, 1)
    assert foreign.store(server.port, stored) == [0]
    rule = 'transfer_syntaxes = ["1.2.840.10008.1.2.4.80"]'
    with foreign.Receiver([(CT, "1.2.840.10008.1.2.4.80"), (CT, EXPLICIT)]) as sink:
        server.reload(sink.peer(more=rule))
        assert foreign.move(server.port, study_keys(177), "SINK").statuses[-1] == 0
    syntax, received = sink.data_sets()[stored[0].sop_instance_uid]
    assert syntax == "1.2.840.10008.1.2.4.80"
    decoded = dcmread(io.BytesIO(foreign_part10(received, syntax)))
    original = dcmread(io.BytesIO(foreign_part10(stored[0].data_set, EXPLICIT)))
    meant = (1 << original.BitsStored) - 1  # pydicom gives what lies above only of native pixels
    assert (decoded.pixel_array & meant == original.pixel_array & meant).all()


def test_a_peers_preferred_transfer_syntax_goes_before_the_stored_one(server: Server) -> None:
    stored = study_of(175, 1)
    assert foreign.store(server.port, stored) == [0]
    with foreign.Receiver([(CT, EXPLICIT), (CT, IMPLICIT)]) as sink:
        server.reload(sink.peer(more=f'transfer_syntaxes = ["{IMPLICIT}"]'))
        assert foreign.move(server.port, study_keys(175), "SINK").statuses[-1] == 0
    assert sink.receipts[0].transfer_syntax_uid == IMPLICIT


# C-FIND ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with four studies of three patients, for queries."""
    with running(tmp_path_factory.mktemp("library") / "data", workers=1) as started:
        made = [
            *(samples.instance(1, 1, number, ProtocolName="Head") for number in (1, 2, 3)),
            *(samples.instance(1, 2, number, sop_class_uid=MR, modality="MR") for number in (1, 2)),
            *(samples.instance(2, 1, number, study_date="20260203", StudyTime="173000.5") for number in (1, 2)),
            samples.instance(
                *(3, 1, 1),
                patient_id="P2",
                patient_name="Müller^Jürgen",
                study_date="19991231",
                StudyTime="080000",
                sop_class_uid=MR,
                modality="MR",
                StudyDescription="Schädel",
            ),
            samples.instance(
                *(4, 1, 1), patient_id="P3", patient_name="Doe^John", study_date="20260310", AccessionNumber="B4"
            ),
        ]
        assert set(foreign.store(started.port, [Stored.of(ds) for ds in made])) == {0}
        yield started


@pytest.mark.parametrize(
    ("keys", "studies"),
    [
        ({}, [1, 2, 3, 4]),
        ({"StudyInstanceUID": f"{samples.ROOT}.2"}, [2]),
        ({"StudyInstanceUID": [f"{samples.ROOT}.2", f"{samples.ROOT}.4", f"{samples.ROOT}.77"]}, [2, 4]),
        ({"PatientID": "P1"}, [1, 2]),
        ({"PatientID": "p1"}, []),
        ({"PatientID": "P*"}, [1, 2, 3, 4]),
        ({"PatientName": "Doe^Jane"}, [1, 2]),
        ({"PatientName": "doe^*"}, [1, 2, 4]),
        ({"PatientName": "*ohn*"}, [4]),
        ({"PatientName": "Doe^J?ne"}, [1, 2]),
        ({"PatientName": "*"}, [1, 2, 3, 4]),
        ({"PatientName": "Nobody"}, []),
        ({"StudyDate": "20260203"}, [2]),
        ({"StudyDate": "20260101-20260228"}, [1, 2]),
        ({"StudyDate": "-20000101"}, [3]),
        ({"StudyDate": "20260201-"}, [2, 4]),
        ({"StudyTime": "080000-120000"}, [1, 3, 4]),
        ({"StudyTime": "1730-1731"}, [2]),
        ({"AccessionNumber": "A2"}, [2]),
        ({"AccessionNumber": "A?"}, [1, 2, 3]),
        ({"StudyID": "S3"}, [3]),
        ({"ModalitiesInStudy": "MR"}, [1, 3]),
        ({"ModalitiesInStudy": "CT"}, [1, 2, 4]),
        ({"ModalitiesInStudy": "US"}, []),
        ({"StudyDescription": "Study 2"}, [2]),
        ({"ReferringPhysicianName": "Refer*"}, [1, 2, 3, 4]),
        ({"PatientBirthDate": "19700203"}, [1, 2, 3, 4]),
        ({"PatientID": "P1", "StudyDate": "20260102", "ModalitiesInStudy": "MR"}, [1]),
    ],
)
def test_studies_are_matched(library: Server, keys: dict[str, object], studies: list[int]) -> None:
    status, matches = foreign.find(library.port, {"level": "STUDY", "StudyInstanceUID": "", **keys})
    assert status == 0
    assert sorted(int(match.StudyInstanceUID.rpartition(".")[2]) for match in matches) == studies


def test_names_are_matched_in_the_character_set_of_the_question(library: Server) -> None:
    for character_set in ("ISO_IR 192", "ISO_IR 100"):
        keys = {"level": "STUDY", "SpecificCharacterSet": character_set, "PatientName": "Müller*", "PatientID": ""}
        status, matches = foreign.find(library.port, keys)
        assert status == 0
        assert [match.PatientID for match in matches] == ["P2"]


def test_an_answer_that_is_not_ascii_says_its_character_set(library: Server) -> None:
    keys = {"level": "STUDY", "PatientID": "P2", "PatientName": "", "StudyDescription": ""}
    _, matches = foreign.find(library.port, keys)
    assert matches[0].SpecificCharacterSet == "ISO_IR 192"
    assert str(matches[0].PatientName) == "Müller^Jürgen"
    assert matches[0].StudyDescription == "Schädel"


def test_a_study_answer_has_computed_keys_and_says_where_to_retrieve_from(library: Server) -> None:
    keys: dict[str, object] = dict.fromkeys(
        [
            "ModalitiesInStudy",
            "SOPClassesInStudy",
            "NumberOfStudyRelatedSeries",
            "NumberOfStudyRelatedInstances",
            "NumberOfPatientRelatedStudies",
            "NumberOfPatientRelatedSeries",
            "NumberOfPatientRelatedInstances",
            "InstanceAvailability",
            "PatientSex",
            "StudyTime",
        ],
        "",
    )
    _, matches = foreign.find(library.port, {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.1", **keys})
    (match,) = matches
    assert sorted(match.ModalitiesInStudy) == ["CT", "MR"]
    assert sorted(match.SOPClassesInStudy) == sorted([CT, MR])
    assert match.NumberOfStudyRelatedSeries == 2
    assert match.NumberOfStudyRelatedInstances == 5
    assert match.NumberOfPatientRelatedStudies == 2
    assert match.NumberOfPatientRelatedSeries == 3
    assert match.NumberOfPatientRelatedInstances == 7
    assert match.InstanceAvailability == "ONLINE"
    assert match.RetrieveAETitle == "FILMROOM"
    assert match.QueryRetrieveLevel == "STUDY"
    assert match.PatientSex == "F"
    assert match.StudyTime == "101112"


def test_an_answer_has_the_requested_keys_only(library: Server) -> None:
    _, matches = foreign.find(library.port, {"level": "STUDY", "StudyInstanceUID": "", "PatientID": "P3"})
    assert {element.keyword for element in matches[0]} == {
        "QueryRetrieveLevel",
        "RetrieveAETitle",
        "StudyInstanceUID",
        "PatientID",
    }


def test_series_are_matched_below_a_study(library: Server) -> None:
    keys = {"level": "SERIES", "StudyInstanceUID": f"{samples.ROOT}.1", "SeriesInstanceUID": "", "Modality": "MR"}
    more = {"SeriesNumber": "", "SeriesDescription": "", "NumberOfSeriesRelatedInstances": "", "ProtocolName": ""}
    status, matches = foreign.find(library.port, {**keys, **more})
    assert status == 0
    (match,) = matches
    assert match.SeriesInstanceUID == f"{samples.ROOT}.1.2"
    assert match.SeriesNumber == 2
    assert match.SeriesDescription == "Series 2"
    assert match.NumberOfSeriesRelatedInstances == 2
    assert not match.ProtocolName


def test_instances_are_matched_below_a_series(library: Server) -> None:
    above = {"StudyInstanceUID": f"{samples.ROOT}.1", "SeriesInstanceUID": f"{samples.ROOT}.1.1"}
    own = {"SOPInstanceUID": "", "InstanceNumber": "", "SOPClassUID": "", "Rows": None}
    status, matches = foreign.find(library.port, {"level": "IMAGE", **above, **own})
    assert status == 0
    assert sorted(int(match.InstanceNumber) for match in matches) == [1, 2, 3]
    assert {match.SOPClassUID for match in matches} == {CT}
    assert {match.Rows for match in matches} == {16}
    status, matches = foreign.find(library.port, {"level": "IMAGE", **above, **own, "InstanceNumber": "2"})
    assert [match.SOPInstanceUID for match in matches] == [f"{samples.ROOT}.1.1.2"]


@pytest.mark.parametrize("root", ["patient", "patient-study-only"])
def test_patients_are_matched(library: Server, root: str) -> None:
    keys = {"level": "PATIENT", "PatientID": "", "PatientName": "Doe*", "NumberOfPatientRelatedStudies": ""}
    status, matches = foreign.find(library.port, keys, root=root)
    assert status == 0
    assert {match.PatientID: match.NumberOfPatientRelatedStudies for match in matches} == {"P1": 2, "P3": 1}


@pytest.mark.parametrize("root", ["patient", "patient-study-only"])
def test_studies_are_matched_below_a_patient(library: Server, root: str) -> None:
    keys = {"level": "STUDY", "PatientID": "P1", "StudyInstanceUID": ""}
    status, matches = foreign.find(library.port, keys, root=root)
    assert status == 0
    assert sorted(match.StudyInstanceUID for match in matches) == [f"{samples.ROOT}.1", f"{samples.ROOT}.2"]


def test_every_level_answers_in_implicit_little_endian_too(library: Server) -> None:
    for level, key, count in (("STUDY", "StudyInstanceUID", 4), ("SERIES", "SeriesInstanceUID", 5)):
        status, matches = foreign.find(library.port, {"level": level, key: ""}, syntax=IMPLICIT)
        assert status == 0
        assert len(matches) == count


@pytest.mark.parametrize(
    ("root", "keys"),
    [
        ("study", {"PatientID": "P1"}),
        ("study", {"level": "PATIENT", "PatientID": "P1"}),
        ("study", {"level": "NONSENSE", "PatientID": "P1"}),
        ("patient-study-only", {"level": "IMAGE", "SOPInstanceUID": ""}),
    ],
)
def test_an_identifier_that_fits_no_level_is_answered_a900(library: Server, root: str, keys: dict[str, object]) -> None:
    status, matches = foreign.find(library.port, keys, root=root)
    assert (status, matches) == (0xA900, [])


def test_a_key_that_is_not_supported_comes_back_empty_with_status_ff01(library: Server) -> None:
    statuses, matches = foreign.find_statuses(
        library.port, {"level": "STUDY", "PatientID": "P2", "StudyInstanceUID": "", "PatientMotherBirthName": ""}
    )
    assert statuses == [0xFF01, 0]
    assert not matches[0].PatientMotherBirthName


def test_the_number_of_answers_has_a_limit(server: Server) -> None:
    foreign.store(server.port, study_of(180, 5))
    server.reload("[limits]\nquery_results_max = 3\n")
    keys = {"level": "IMAGE", "StudyInstanceUID": f"{samples.ROOT}.180", "SOPInstanceUID": ""}
    status, matches = foreign.find(server.port, keys)
    assert (status, len(matches)) == (0xA700, 3)


# C-GET, C-MOVE -----------------------------------------------------------------------------------


LEVELS = [
    ("study", {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.1"}, 5),
    ("study", {"level": "STUDY", "StudyInstanceUID": [f"{samples.ROOT}.1", f"{samples.ROOT}.2"]}, 7),
    (
        "study",
        {"level": "SERIES", "StudyInstanceUID": f"{samples.ROOT}.1", "SeriesInstanceUID": f"{samples.ROOT}.1.2"},
        2,
    ),
    (
        "study",
        {
            "level": "IMAGE",
            "StudyInstanceUID": f"{samples.ROOT}.1",
            "SeriesInstanceUID": f"{samples.ROOT}.1.1",
            "SOPInstanceUID": [f"{samples.ROOT}.1.1.1", f"{samples.ROOT}.1.1.3"],
        },
        2,
    ),
    ("study", {"level": "IMAGE", "SOPInstanceUID": f"{samples.ROOT}.1.1.2"}, 1),
    ("patient", {"level": "PATIENT", "PatientID": "P1"}, 7),
    ("patient", {"level": "STUDY", "PatientID": "P1", "StudyInstanceUID": f"{samples.ROOT}.2"}, 2),
    ("patient-study-only", {"level": "STUDY", "PatientID": "P3", "StudyInstanceUID": f"{samples.ROOT}.4"}, 1),
    ("study", {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.404"}, 0),
]


@pytest.mark.parametrize(("root", "keys", "count"), LEVELS)
def test_c_get_brings_what_the_identifier_names(
    library: Server, root: str, keys: dict[str, object], count: int
) -> None:
    brought = foreign.get(library.port, keys, PLAIN, root=root)
    assert brought.statuses[-1] == 0
    assert brought.counts[-1] == (None, count, 0, 0)
    assert len(brought.data_sets) == count


@pytest.mark.parametrize(("root", "keys", "count"), LEVELS)
def test_c_move_sends_what_the_identifier_names(
    library: Server, root: str, keys: dict[str, object], count: int
) -> None:
    with foreign.Receiver(PLAIN) as sink:
        library.reload(sink.peer())
        moved = foreign.move(library.port, keys, "SINK", root=root)
    assert moved.statuses[-1] == 0
    assert moved.counts[-1] == (None, count, 0, 0)
    assert len(sink.receipts) == count


def test_c_move_sub_operations_carry_their_originator_and_the_bytes_that_were_stored(server: Server) -> None:
    stored = study_of(200, 8)
    foreign.store(server.port, stored)

    def answer(uid: str) -> int:
        # What is over at once is told of in the final response alone.
        threading.Event().wait(RETRIEVAL_S / len(stored))
        return 0

    with foreign.Receiver(PLAIN, answer=answer) as sink:
        server.reload(sink.peer())
        moved = foreign.move(server.port, study_keys(200), "SINK", calling="MOVER")
    assert sink.data_sets() == by_uid(stored)
    assert {receipt.originator for receipt in sink.receipts} == {("MOVER", 1)}
    assert moved.statuses[-1] == 0
    pending = moved.counts[:-1]
    assert pending, f"no pending response in {RETRIEVAL_S} s"
    assert set(moved.statuses[:-1]) == {0xFF00}
    assert all(sum(count or 0 for count in counts) == 8 for counts in pending)
    assert moved.counts[-1] == (None, 8, 0, 0)


@pytest.mark.parametrize("associations", [1, 3])
def test_failures_and_warnings_of_the_destination_are_counted_and_named(server: Server, associations: int) -> None:
    number = 210 + associations
    stored = study_of(number, 7)
    foreign.store(server.port, stored)
    refused = {stored[1].sop_instance_uid, stored[4].sop_instance_uid}
    warned = {stored[2].sop_instance_uid}

    def answer(uid: str) -> int:
        return 0xA700 if uid in refused else 0xB000 if uid in warned else 0

    with foreign.Receiver(PLAIN, answer=answer) as sink:
        server.reload(sink.peer(more=f"store_associations = {associations}"))
        moved = foreign.move(server.port, study_keys(number), "SINK")
    assert moved.statuses[-1] == 0xB000
    assert moved.counts[-1] == (None, 4, 2, 1)
    assert set(moved.failed_uids) == refused
    assert len({receipt.association for receipt in sink.receipts}) == associations


def test_failures_of_a_c_get_are_counted_and_named(server: Server) -> None:
    stored = study_of(220, 5)
    foreign.store(server.port, stored)
    refused = stored[3].sop_instance_uid
    brought = foreign.get(server.port, study_keys(220), PLAIN, answer=lambda uid: 0xA900 if uid == refused else 0)
    assert brought.statuses[-1] == 0xB000
    assert brought.counts[-1] == (None, 4, 1, 0)
    assert brought.failed_uids == [refused]


def test_a_class_that_the_asker_of_a_c_get_did_not_propose_is_a_failure(library: Server) -> None:
    keys = {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.1"}
    brought = foreign.get(library.port, keys, [(CT, EXPLICIT)])
    assert brought.statuses[-1] == 0xB000
    assert brought.counts[-1] == (None, 3, 2, 0)
    assert sorted(brought.failed_uids) == [f"{samples.ROOT}.1.2.1", f"{samples.ROOT}.1.2.2"]


def test_a_class_that_the_destination_does_not_take_is_a_failure(library: Server) -> None:
    with foreign.Receiver([(MR, EXPLICIT)]) as sink:
        library.reload(sink.peer())
        moved = foreign.move(library.port, {"level": "STUDY", "StudyInstanceUID": f"{samples.ROOT}.1"}, "SINK")
    assert moved.statuses[-1] == 0xB000
    assert moved.counts[-1] == (None, 2, 3, 0)
    assert len(sink.receipts) == 2


def test_a_destination_that_cannot_be_reached_fails_every_sub_operation(server: Server) -> None:
    stored = study_of(230, 3)
    foreign.store(server.port, stored)
    server.reload(f'[[peer]]\naet = "NOBODY"\nhost = "127.0.0.1"\nport = {free_port()}\n')
    moved = foreign.move(server.port, study_keys(230), "NOBODY")
    assert moved.statuses == [0xA702]
    assert moved.counts[-1] == (None, 0, 3, 0)
    assert sorted(moved.failed_uids) == sorted(by_uid(stored))


def test_an_unknown_destination_is_answered_a801(server: Server) -> None:
    assert foreign.move(server.port, study_keys(230), "STRANGER").statuses == [0xA801]


def test_a_retrieval_without_its_unique_key_is_answered_a900(server: Server) -> None:
    assert foreign.get(server.port, {"level": "STUDY"}, PLAIN).statuses == [0xA900]
    assert foreign.get(server.port, {"level": "STUDY", "StudyInstanceUID": "*"}, PLAIN).statuses == [0xA900]
    with foreign.Receiver(PLAIN) as sink:
        server.reload(sink.peer())
        assert foreign.move(server.port, {"level": "SERIES"}, "SINK").statuses == [0xA900]
    assert not sink.receipts


def test_hundreds_of_uids_may_be_named_in_one_retrieval(server: Server) -> None:
    stored = study_of(240, 3)
    foreign.store(server.port, stored)
    uids = [f"{samples.ROOT}.240.1.{number}" for number in range(1, 400)]
    brought = foreign.get(server.port, {"level": "IMAGE", "SOPInstanceUID": uids}, PLAIN)
    assert brought.statuses[-1] == 0
    assert brought.data_sets == by_uid(stored)


# Permissions -------------------------------------------------------------------------------------


def rejection(port: int, **options: str) -> tuple[int, int, int] | None:
    """Result, source and reason of a rejection; None if the association was accepted."""
    with peer.Peer(port) as script:
        script.send(peer.associate_rq([(1, VERIFICATION, [IMPLICIT])], **options))  # type: ignore[arg-type]
        received = script.receive()
        assert received is not None
        return None if received[0] == peer.ASSOCIATE_AC else (received[1][1], received[1][2], received[1][3])


def test_a_peer_may_do_only_what_its_configuration_says(server: Server) -> None:
    stored = study_of(300, 1)
    foreign.store(server.port, stored)
    server.reload('[[peer]]\naet = "ASKER"\nmay = ["query"]\n[[peer]]\naet = "SENDER"\nmay = ["store"]\n')
    find, move, get = (foreign.model("study", operation) for operation in ("find", "move", "get"))
    proposed = [(uid, EXPLICIT) for uid in (VERIFICATION, CT, find, move, get)]
    taken = {}
    for calling in ("ASKER", "SENDER", "ANYBODY"):
        with foreign.association(server.port, proposed, calling=calling) as assoc:
            taken[calling] = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
    assert taken == {
        "ASKER": {VERIFICATION, find},
        "SENDER": {VERIFICATION, CT},
        "ANYBODY": {VERIFICATION, CT, find, move, get},
    }


def test_a_peer_that_may_only_retrieve_cannot_store_on_the_contexts_of_its_c_get(server: Server) -> None:
    server.reload('[[peer]]\naet = "VIEWER"\nmay = ["retrieve"]\n')
    stored = study_of(301, 1)
    assert foreign.store(server.port, stored, calling="VIEWER") == [0x0124]
    server.reload("")
    assert count_of(server, 301) == 0


def test_a_peer_that_is_no_destination_is_an_unknown_one(server: Server) -> None:
    with foreign.Receiver(PLAIN) as sink:
        server.reload(sink.peer(more='may = ["query", "retrieve"]'))
        assert foreign.move(server.port, study_keys(300), "SINK").statuses == [0xA801]


def test_unknown_peers_can_be_shut_out(server: Server) -> None:
    assert rejection(server.port, calling="STRANGER") is None
    server.reload('accept_unknown_peers = false\n[[peer]]\naet = "FRIEND"\n')
    assert rejection(server.port, calling="STRANGER") == (1, 1, 3)
    assert rejection(server.port, calling="FRIEND") is None


def test_the_called_ae_title_can_be_checked(server: Server) -> None:
    assert rejection(server.port, called="ANYTHING") is None
    server.reload("called_ae_title_check = true\n")
    assert rejection(server.port, called="ANYTHING") == (1, 1, 7)
    assert rejection(server.port, called="FILMROOM") is None


def test_more_associations_than_allowed_are_rejected_as_transient(server: Server) -> None:
    server.reload("[limits]\nassociations_max = 3\n")
    held = [peer.Peer(server.port) for _ in range(3)]
    try:
        for script in held:
            script.associate((1, VERIFICATION, [IMPLICIT]))
        assert rejection(server.port) == (2, 3, 2)
        for script in held:
            script.echo()
            script.release()
    finally:
        for script in held:
            script.close()
    server.reload("")
    assert rejection(server.port) is None


def test_an_association_of_128_contexts_is_answered_one_by_one(server: Server) -> None:
    kinds = [(number * 2 + 1, (CT, MR, SC, PRINT)[number % 4], [IMPLICIT]) for number in range(128)]
    with peer.Peer(server.port) as script:
        answer = script.associate(*kinds)
    assert {context_id: result for context_id, (result, _) in answer.contexts.items()} == {
        context_id: 3 if abstract_syntax == PRINT else 0 for context_id, abstract_syntax, _ in kinds
    }
