"""engine.cli against a real archive: what the commands do there, by the rules of the configuration."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from engine.access import Action, Decision, Destination, Kind, Policy, Principal
from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import run


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["PatientName=DOE*"], 4),
        (["StudyInstanceUID=*"], 5),
        (["QueryRetrieveLevel=PATIENT", "PatientID=P2"], 1),
        (["QueryRetrieveLevel=SERIES", "Modality=MR"], 1),
        (["Modality=MR"], 3),
        (["--study", f"{samples.ROOT}.1", "--series", f"{samples.ROOT}.1.2"], 3),
        (["QueryRetrieveLevel=IMAGE", "InstanceNumber=2"], 1),
    ],
)
def test_export_writes_what_a_query_matches_each_instance_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], count: int
) -> None:
    code, out, err = run(capsys, "export", "out.zip", *arguments, "--json")
    assert (code, err) == (exit_codes.OK, "")
    assert json.loads(out)["written"] == count
    with zipfile.ZipFile("out.zip") as archive:
        assert len(archive.namelist()) == count


@pytest.mark.usefixtures("filled")
def test_a_key_that_is_not_indexed_is_a_mistake_rather_than_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "export", "out.zip", "KVP=120")
    assert (code, out) == (exit_codes.USAGE, "")
    assert "KVP is not indexed at the study level" in err
    assert not Path("out.zip").exists()
    assert run(capsys, "find", "-l", "patient", "ModalitiesInStudy=MR")[0] == exit_codes.USAGE
    assert run(capsys, "find", "-r", "KVP")[0] == exit_codes.OK


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    code, out, err = run(capsys, "find", *arguments, "--json")
    assert (code, err) == (exit_codes.OK, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.usefixtures("filled")
def test_find_goes_through_its_matches_by_offset_and_limit(capsys: pytest.CaptureFixture[str]) -> None:
    everything = found(capsys, "-l", "instance", "-r", "SOPInstanceUID")
    assert len(everything) == 5
    pages = [
        found(capsys, "-l", "instance", "-r", "SOPInstanceUID", "-n", "2", "--offset", str(at)) for at in (0, 2, 4, 6)
    ]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [match for page in pages for match in page] == everything


@pytest.mark.usefixtures("filled")
def test_find_explains_how_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "find", "PatientID=P2", "-r", "StudyInstanceUID", "--explain", "--json")
    assert (code, json.loads(out)) == (exit_codes.OK, {"PatientID": "P2", "StudyInstanceUID": f"{samples.ROOT}.3"})
    facts = json.loads(err)
    assert "PatientID" in facts["access"]
    assert (facts["candidates"], facts["examined"], facts["matches"], facts["pages"]) == (1, 1, 1, 1)
    assert facts["took_ms"] > 0
    assert "P2" not in err
    _, _, err = run(capsys, "find", "StudyInstanceUID", "--explain")
    assert err.startswith("access: every study\n")
    assert "candidates: 3\n" in err


def test_find_looks_into_sequences_and_shows_them_nested(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def request(number: int, meaning: str) -> Dataset:
        item, code = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = f"C{number}", "99T", meaning
        item.ScheduledProcedureStepID = f"SPS{number}"
        item.ScheduledProtocolCodeSequence = [code]
        return item

    name = {"patient_name": "Müller^Jörg"}
    one = samples.instance(1, 1, 1, RequestAttributesSequence=[request(1, "Schädel"), request(2, "Hals")], **name)
    other = samples.instance(1, 2, 1, RequestAttributesSequence=[request(3, "Thorax")], **name)
    samples.write(tmp_path / "files", one, other)
    assert run(capsys, "import", "files")[0] == exit_codes.OK
    series = ("-l", "series", "-r", "SeriesInstanceUID")
    asked = "RequestAttributesSequence[0].ScheduledProcedureStepID=SPS2"
    for key in (asked, "(0040,0275)[0].(0040,0009)=SPS2"):
        # Of a sequence the items that match, with what was asked for (PS3.4 C.2.2.2.6).
        assert found(capsys, *series, key) == [
            {
                "RequestAttributesSequence": [{"ScheduledProcedureStepID": "SPS2"}],
                "SeriesInstanceUID": f"{samples.ROOT}.1.1",
            }
        ]
    (match,) = found(capsys, *series, "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeMeaning=Sch*del")
    assert match["RequestAttributesSequence"] == [{"ScheduledProtocolCodeSequence": [{"CodeMeaning": "Schädel"}]}]
    whole = found(capsys, "-l", "series", "-r", "RequestAttributesSequence")
    steps = [[item["ScheduledProcedureStepID"] for item in match["RequestAttributesSequence"]] for match in whole]  # type: ignore[attr-defined]
    assert steps == [["SPS1", "SPS2"], ["SPS3"]]
    assert found(capsys, *series, "RequestAttributesSequence.ScheduledProcedureStepID=SPS4") == []
    more = ("-r", "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeMeaning")
    _, out, _ = run(capsys, "find", *series, *more, "RequestAttributesSequence.ScheduledProcedureStepID=SPS3")
    step, code = "ScheduledProcedureStepID=SPS3", "ScheduledProtocolCodeSequence=[CodeMeaning=Thorax]"
    assert out.splitlines()[1:] == [f"[{code}, {step}]\t{samples.ROOT}.1.2"]
    # Names are typed as they are written.
    assert [match["PatientName"] for match in found(capsys, "PatientName=müller^*")] == ["Müller^Jörg"]


def test_find_takes_private_keys_in_any_block_of_their_creator(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "filmroom.toml").write_text(
        '[[attribute]]\ntag = "0009,xx02"\ncreator = "FILMROOM TEST"\nlevel = "series"\nvr = "LO"\n'
    )
    one, other = samples.instance(1, 1, 1), samples.instance(1, 2, 1)
    one.add_new(0x00091002, "LO", "seven")
    other.add_new(0x00091002, "LO", "eight")
    samples.write(tmp_path / "files", one, other)
    assert run(capsys, "import", "files")[0] == exit_codes.OK
    assert run(capsys, "reindex")[0] == exit_codes.OK
    series = ("-l", "series", "-r", "SeriesInstanceUID")
    for keys in (
        ("0009,xx02=seven",),
        ("00091002=seven",),
        ("(0009,0010)=FILMROOM TEST", "(0009,1002)=seven"),
        ("0009,0042=FILMROOM TEST", "0009,4202=sev*"),
    ):
        matches = found(capsys, *series, *keys)
        assert [match["SeriesInstanceUID"] for match in matches] == [f"{samples.ROOT}.1.1"], keys
        assert "seven" in matches[0].values()
    code, _, err = run(capsys, "find", "0009,0010=SOMEBODY ELSE", "0009,1002=seven")
    assert code == exit_codes.USAGE
    assert "00091002 is not indexed" in err


@pytest.mark.usefixtures("filled")
def test_find_asks_for_what_has_no_value_and_for_one_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    studies = [f"{samples.ROOT}.{number}" for number in (1, 2, 3)]

    def of(*keys: str) -> list[object]:
        return [match["StudyInstanceUID"] for match in found(capsys, "-r", "StudyInstanceUID", *keys)]

    assert of("AccessionNumber=A1\\A3") == [studies[0], studies[2]]
    assert of('PatientName=""') == []
    assert of('PatientComments=""') == studies
    code, out, err = run(capsys, "find", "PatientName=\udcff")
    assert (code, out) == (exit_codes.USAGE, "")
    assert "the value of PatientName is not UTF-8" in err


@pytest.mark.usefixtures("filled")
def test_import_follows_the_duplicates_policy_of_the_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for policy, key in (("keep-first", "versions"), ("replace", "replaced")):
        samples.write(tmp_path / policy, samples.instance(2, 1, 1, pixels=policy.encode().ljust(512)))
        monkeypatch.setenv("FILMROOM_DUPLICATES", policy)
        code, out, _ = run(capsys, "import", policy, "--json")
        assert code == exit_codes.OK
        assert json.loads(out)[key] == 1


def test_import_leaves_the_reserve_of_the_disk_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.write(tmp_path / "files", samples.instance())
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", str(1 << 60))
    code, out, err = run(capsys, "import", "files")
    assert (code, out) == (exit_codes.UNAVAILABLE, "")
    assert "reserve" in err


@pytest.mark.usefixtures("filled")
def test_an_archive_that_may_not_be_opened_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "filmroom-data" / "keeper.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    code, out, err = run(capsys, "find")
    assert (code, out) == (exit_codes.UNAVAILABLE, "")
    assert "keeper.lock" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "action"),
    [(["echo", "WS"], "ASSOCIATE"), (["send", "WS", "."], "SEND"), (["pull", "WS", "PatientID=1"], "RETRIEVE")],
)
def test_a_command_that_calls_a_peer_asks_whether_this_operator_may(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], action: str
) -> None:
    asked: list[tuple[Principal, str, object]] = []

    def refuse(rules: Policy, principal: Principal, action: Action, target: object) -> Decision:
        asked.append((principal, action.name, target))
        return Decision(False, "closed for today")

    monkeypatch.setattr(Policy, "allowed", refuse)
    peer, *rest = arguments[1:]
    code, out, err = run(capsys, arguments[0], f"{peer}@127.0.0.1:1", *rest)
    assert (code, out) == (exit_codes.FAILED, "")
    assert "not allowed for WS: closed for today" in err
    (principal, asked_action, target), *_ = asked
    assert (principal.kind, asked_action, target) == (Kind.OPERATOR, action, Destination("WS"))
