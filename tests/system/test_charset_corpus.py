"""Every file of the character set corpus is found by each of its names, typed in UTF-8 and in its own set.

By the archive itself and by pynetdicom over the network; what comes back decodes to what pydicom reads from the file.
And data sets whose declaration is wrong, misspelt or not there. pydicom is the judge but where it is known to be
mistaken: it leaves the escape of ISO 2022 IR 58 in the text, and does not know ISO_IR 203.
"""

from __future__ import annotations

import io
import logging
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.request import ReceivedInstance
from engine.dicom import tags
from engine.index.format.types import Level, Match, Outcome, Query
from engine.storage.record import crc32c
from tests import samples
from tests.corpus import corpus_files, needs_corpus
from tests.system import foreign
from tests.system.server import Server, running

UTF_8 = "ISO_IR 192"
NAMES = ("PatientName", "OtherPatientNames", "ReferringPhysicianName", "OperatorsName")
TEXTS = ("StudyDescription", "PatientComments", "AdditionalPatientHistory")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


@dataclass(frozen=True)
class Filed:
    """A file of the corpus."""

    path: Path
    stored: foreign.Stored
    study_instance_uid: str
    character_set: str

    @classmethod
    def of(cls, path: Path) -> Filed:
        meta, data = foreign.read_file(path)
        ds = dcmread(path)
        stored = foreign.Stored(str(ds.SOPClassUID), str(ds.SOPInstanceUID), foreign.uid_of(meta, 0x0010), data)
        declared = ds.get("SpecificCharacterSet", "")
        character_set = declared if isinstance(declared, str) else "\\".join(declared)
        return cls(path, stored, str(ds.StudyInstanceUID), character_set)

    def texts(self, keyword: str) -> list[str]:
        """The values of an attribute as they are to be read."""
        ds = dcmread(self.path)
        if keyword not in ds:
            return []
        if self.character_set == "ISO_IR 203":
            raw = ds.get_item(keyword).value
            return [text.rstrip() for text in raw.decode("iso8859-15").split("\\")]
        value = ds[keyword].value
        several = list(value) if hasattr(value, "append") else [value]
        return [str(one).replace("\x1b$)A", "") for one in several]

    def encoded(self, name: str) -> bytes | None:
        """A name in this file's set, as pydicom encodes it; None if it cannot."""
        if name.isascii():
            return name.encode("ascii")
        if self.character_set == "ISO_IR 203":
            return name.encode("iso8859-15", "replace")
        encodings = convert_encodings(self.character_set.split("\\"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                data = PersonName(name, encodings).encode()
                return data if decode_bytes(data, encodings, TEXT_VR_DELIMS) == name else None
            except (UserWarning, ValueError, UnicodeError):
                return None


FILED = [Filed.of(path) for path in corpus_files("charset")]


def forms(name: str) -> list[str]:
    """A name as people type it: whole, by group, by component with wild cards, in the other case, without accents."""
    found = [name]
    groups = name.split("=")
    for position, group in enumerate(groups):
        if not group.strip("^ "):
            continue
        found += [group, "=" * position + group, _bare(group)]
        if _caseless(group.swapcase()) == _caseless(group):
            found.append(group.swapcase())
        for component in filter(None, group.split("^")):
            found += [f"*{component}*", f"*{component[1:]}*", f"{group[: group.index(component)]}{component[:1]}*"]
        if "\u0300" not in unicodedata.normalize("NFD", group)[:2]:
            found.append("?" + group[1:])
    return list(dict.fromkeys(form for form in found if form.strip("*")))


def _bare(text: str) -> str:
    """Without accents on Latin, Greek and Cyrillic letters."""
    apart = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(one for one in apart if not "\u0300" <= one <= "\u036f"))


def _caseless(text: str) -> str:
    return unicodedata.normalize("NFC", _bare(text.casefold()))


def filled(folder: Path, filed: list[Filed]) -> Archive:
    archive = Archive.open(folder, role="keeper", create=True)
    archive.writer("test", StorageOptions(segment_bytes=1 << 20))
    received = [
        ReceivedInstance(
            [one.stored.data_set],
            len(one.stored.data_set),
            crc32c(one.stored.data_set),
            one.stored.transfer_syntax_uid,
            "MODALITY",
        )
        for one in filed
    ]
    assert archive.ingest_batch(received) == [Outcome.STORED] * len(received)
    return archive


def once(filed: list[Filed]) -> tuple[list[Filed], list[Filed]]:
    """Those of one SOP Instance UID each, and the others."""
    first: dict[str, Filed] = {}
    for one in filed:
        first.setdefault(one.stored.sop_instance_uid, one)
    return list(first.values()), [one for one in filed if one not in first.values()]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Archive]]:
    """The archive that each file is in; what shares UIDs with another is in one of its own."""
    folder = tmp_path_factory.mktemp("charset")
    together, others = once(FILED)
    common = filled(folder / "common", together)
    found = {one.path: common for one in together}
    for number, one in enumerate(others):
        found[one.path] = filled(folder / str(number), [one])
    yield found
    for archive in {id(archive): archive for archive in found.values()}.values():
        archive.close()


def find(archive: Archive, keyword: str, key: bytes, character_set: str) -> dict[str, Match]:
    asked = {tags.StudyInstanceUID: b"", getattr(tags, keyword): key}
    query = Query(Level.STUDY, asked, character_set=character_set.encode())
    return {match.attributes[tags.StudyInstanceUID].decode(): match for match in archive.find(query)}


@needs_corpus("charset")
@pytest.mark.parametrize("filed", FILED, ids=lambda one: one.path.stem)
def test_a_file_is_found_by_each_of_its_names(filed: Filed, archives: dict[Path, Archive]) -> None:
    asked = 0
    for name in filter(None, filed.texts("PatientName")):
        for form in forms(name):
            for character_set, key in ((UTF_8, form.encode()), (filed.character_set, filed.encoded(form))):
                if key is None:
                    continue
                found = find(archives[filed.path], "PatientName", key, character_set)
                assert filed.study_instance_uid in found, f"{form!r} in {character_set!r}"
                answer = found[filed.study_instance_uid].attributes[tags.PatientName].decode()
                assert answer.rstrip("=") == name.rstrip("="), f"{form!r} in {character_set!r}"
                asked += 1
    assert asked > 8


@needs_corpus("charset")
@pytest.mark.parametrize("filed", FILED, ids=lambda one: one.path.stem)
def test_a_name_of_one_is_no_name_of_the_others(filed: Filed, archives: dict[Path, Archive]) -> None:
    (name,) = filed.texts("PatientName")
    found = find(archives[filed.path], "PatientName", name.encode(), UTF_8)
    expected = {
        other.study_instance_uid
        for other in FILED
        if archives[other.path] is archives[filed.path]
        and {_caseless(group) for group in name.split("=") if group}
        & {_caseless(group) for text in other.texts("PatientName") for group in text.split("=")}
    }
    assert filed.study_instance_uid in found
    assert found.keys() <= expected


@needs_corpus("charset")
@pytest.mark.parametrize("filed", FILED, ids=lambda one: one.path.stem)
def test_every_text_reads_as_pydicom_reads_it(filed: Filed, archives: dict[Path, Archive]) -> None:
    """Those of the study and the patient; and each is found by itself."""
    keywords = [keyword for keyword in (*NAMES, *TEXTS) if hasattr(tags, keyword)]
    asked: dict[int, bytes] = {getattr(tags, keyword): b"" for keyword in keywords if keyword != "OperatorsName"}
    asked[tags.StudyInstanceUID] = filed.study_instance_uid.encode()
    (match,) = archives[filed.path].find(Query(Level.STUDY, asked))
    for keyword in keywords:
        texts = filed.texts(keyword)
        if keyword == "OperatorsName" or not any(texts):
            continue
        given = match.attributes[getattr(tags, keyword)].decode().split("\\")
        assert [one.rstrip("= ") for one in given] == [text.rstrip("= ") for text in texts], keyword
        if keyword in TEXTS:
            key = "*" + texts[0][1:].strip()
            assert filed.study_instance_uid in find(archives[filed.path], keyword, key.encode(), UTF_8), keyword


# over the network ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("charsets") / "data", workers=1) as started:
        statuses = foreign.store(started.port, [one.stored for one in once(FILED)[0]])
        assert set(statuses) == {0}
        yield started


@needs_corpus("charset")
def test_pynetdicom_finds_every_file_by_its_names(server: Server) -> None:
    uid = foreign.model("study", "find")
    asked = 0
    with foreign.association(server.port, [(uid, foreign.EXPLICIT)]) as assoc:
        for filed in once(FILED)[0]:
            name = filed.texts("PatientName")[0]
            groups = [group for group in name.split("=") if group.strip("^")]
            for form in dict.fromkeys((name, *groups, groups[-1][:2] + "*", _bare(groups[0]).upper())):
                if _caseless(form.rstrip("*")) not in _caseless(name):
                    continue
                for character_set in dict.fromkeys((UTF_8, filed.character_set)):
                    key = form.encode() if character_set == UTF_8 else filed.encoded(form)
                    if key is None or character_set == "ISO_IR 203":
                        continue
                    matches = {
                        str(ds.StudyInstanceUID): ds
                        for _, ds in assoc.send_c_find(_identifier(form, character_set), uid)
                        if ds is not None
                    }
                    context = f"{filed.path.stem}: {form!r} in {character_set!r}"
                    assert filed.study_instance_uid in matches, context
                    answer = matches[filed.study_instance_uid]
                    assert _said(answer).rstrip("=") == name.rstrip("="), context
                    declared = _declared(answer)
                    assert declared in (character_set, UTF_8) or (not declared and name.isascii()), context
                    asked += 1
    assert asked > 100


def _identifier(name: str, character_set: str) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
    ds.QueryRetrieveLevel = "STUDY"
    ds.PatientName = name
    ds.StudyInstanceUID = ""
    return ds


def _declared(ds: Dataset) -> str:
    declared = ds.get("SpecificCharacterSet") or ""
    return declared if isinstance(declared, str) else "\\".join(declared)


def _said(ds: Dataset) -> str:
    """The name in an answer, by pydicom."""
    return str(ds.PatientName).replace("\x1b$)A", "")


@needs_corpus("charset")
def test_an_answer_is_in_the_set_that_was_asked_for_if_that_can_carry_it(server: Server) -> None:
    uid = foreign.model("study", "find")
    with foreign.association(server.port, [(uid, foreign.EXPLICIT)]) as assoc:
        for filed in once(FILED)[0]:
            for character_set in ("ISO_IR 100", "\\ISO 2022 IR 87", "GB18030", filed.character_set):
                if character_set == "ISO_IR 203":
                    continue
                asked = _identifier("", character_set)
                asked.StudyInstanceUID = filed.study_instance_uid
                found = [ds for _, ds in assoc.send_c_find(asked, uid) if ds is not None]
                assert len(found) == 1
                name = filed.texts("PatientName")[0]
                assert _said(found[0]).rstrip("=") == name.rstrip("="), (filed.path.stem, character_set)
                if not name.isascii():
                    wanted = {character_set} if _carries(filed, character_set, name) else {character_set, UTF_8}
                    assert _declared(found[0]) in wanted, (filed.path.stem, character_set)


def _carries(filed: Filed, character_set: str, name: str) -> bool:
    """Whether a set has every character of a name. pydicom takes an empty first value for Latin-1: it is ASCII."""
    data = Filed(filed.path, filed.stored, "", character_set).encoded(name)
    if data is None or "58" in character_set:
        return False
    return not character_set.startswith("\\") or b"\x1b" in data


# declarations that are wrong -------------------------------------------------------------------------

DECLARATIONS = [
    pytest.param(None, "Müller^Jörg".encode(), "Müller^Jörg", id="absent-utf8"),
    pytest.param(None, "Müller^Jörg".encode("latin-1"), "Müller^Jörg", id="absent-latin1"),
    pytest.param(b"", "Müller^Jörg".encode("latin-1"), "Müller^Jörg", id="empty-latin1"),
    pytest.param(b"ISO_IR 6", "王^小东".encode(), "王^小东", id="ascii-utf8"),
    pytest.param(b"ISO-IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg", id="misspelt-100"),
    pytest.param(b"ISO_IR_100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg", id="underscored-100"),
    pytest.param(b"ISO IR 192", "Müller^Jörg".encode(), "Müller^Jörg", id="spaced-192"),
    pytest.param(b"ISO2022IR87", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "山田^太郎", id="glued-87"),
    pytest.param(b"ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "山田^太郎", id="87-first"),
    pytest.param(b"ISO_IR 999", "Müller^Jörg".encode(), "Müller^Jörg", id="unknown-utf8"),
    pytest.param(b"ISO_IR 166", "Müller^Jörg".encode(), None, id="thai-utf8"),
    pytest.param(b"ISO_IR 127", "Müller^Jörg".encode(), None, id="arabic-utf8"),
    pytest.param(b"ISO_IR 192", "Müller^Jörg".encode("latin-1"), None, id="utf8-latin1"),
    pytest.param(b"GB18030", b"M\xfcller^J\xf6rg", None, id="gb18030-latin1"),
]


@pytest.mark.parametrize(("declared", "value", "text"), DECLARATIONS)
def test_a_wrong_declaration_loses_no_study(
    tmp_path: Path, declared: bytes | None, value: bytes, text: str | None
) -> None:
    """Where the text cannot be known it is still found by what surrounds it, and its bytes stay as they are."""
    ds = samples.instance()
    data = samples.encoded(ds)
    name = b"\x10\0\x10\0PN\x08\0Doe^Jane"
    value += b" " * (len(value) % 2)
    data = data.replace(name, b"\x10\0\x10\0PN" + len(value).to_bytes(2, "little") + value, 1)
    if declared is not None:
        declared += b" " * (len(declared) % 2)
        data = b"\x08\0\x05\0CS" + len(declared).to_bytes(2, "little") + declared + data
    stored = foreign.Stored(str(ds.SOPClassUID), str(ds.SOPInstanceUID), foreign.EXPLICIT, data)
    with filled(tmp_path, [Filed(Path(), stored, str(ds.StudyInstanceUID), "")]) as archive:
        if text is not None:
            for key in (text, text.upper(), f"*{text[1:]}", _bare(text)):
                found = find(archive, "PatientName", key.encode(), UTF_8)
                assert [match.attributes[tags.PatientName].decode() for match in found.values()] == [text], key
        assert len(find(archive, "PatientName", b"*^*" if text else b"M*", UTF_8)) == 1
        assert len(find(archive, "PatientName", b"", UTF_8)) == 1
        (instance,) = archive.instances(Query(Level.STUDY, {tags.StudyInstanceUID: ds.StudyInstanceUID.encode()}))
        assert archive.read(instance) == data
        assert dcmread(io.BytesIO(archive.read(instance)), force=True).get_item("PatientName").value == value
