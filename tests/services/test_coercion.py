"""What a [[coercion]] rule changes on the way out, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from engine.archive.lifecycle import correction, patients
from engine.config import Coercion, Config
from engine.dicom import tags, transfer_syntax
from engine.dicom.coercion import values_of
from engine.errors import ConfigError
from engine.services import outgoing
from tests import peer, samples
from tests.actors import actor
from tests.oracle import foreign
from tests.services.serving import LIMITS, Serving, serve
from tests.services.test_storage_scu import GET, STORE, STUDY_ROOT_GET, answers, fill, get

CALLING = "PEER"


def configured(tmp_path: Path, *rules: Coercion) -> Config:
    return Config(data=tmp_path / "data", limits=LIMITS, coercion=rules)


def read(data: bytes, syntax_uid: str = "1.2.840.10008.1.2.1") -> Dataset:
    ds: Dataset = foreign.read_data_set(data, transfer_syntax.of(syntax_uid))
    ds.decode()
    return ds


def received(tmp_path: Path, config: Config, sizes: list[int]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What was stored and what comes back by C-GET."""
    stored: dict[str, bytes] = {}
    came: dict[str, bytes] = {}

    def script(serving: Serving) -> None:
        stored.update(fill(serving, sizes))
        with serving.call() as scripted:
            get(scripted)
            came.update(answers(scripted)[0])
            scripted.release()

    serve(tmp_path / "data", script, config=config)
    return stored, came


@pytest.mark.parametrize("whole_bytes_max", [8 << 20, 1000], ids=["in memory", "while it is sent"])
def test_values_are_changed_when_sent_and_the_rest_is_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes_max: int
) -> None:
    monkeypatch.setattr(outgoing, "WHOLE_BYTES_MAX", whole_bytes_max)
    rule = Coercion(
        corrections=False, values=("InstitutionName=St. Elsewhere", "PatientName=Müller^Jörg"), remove=("StudyTime",)
    )
    stored, came = received(tmp_path, configured(tmp_path, rule), [8, 5000, 400_000])
    assert came.keys() == stored.keys() and len(came) == 3
    for uid, data in came.items():
        before, after = read(stored[uid]), read(data)
        assert (after.InstitutionName, str(after.PatientName)) == ("St. Elsewhere", "Müller^Jörg")
        assert "StudyTime" not in after and after.PixelData == before.PixelData
        assert (after.SOPInstanceUID, after.StudyInstanceUID) == (before.SOPInstanceUID, before.StudyInstanceUID)
        (said,) = after.OriginalAttributesSequence
        assert said.ModifiedAttributesSequence[0].PatientName == before.PatientName
        assert said.ReasonForTheAttributeModification == "COERCE"


def test_the_first_matching_rule_applies_and_without_one_nothing_changes(tmp_path: Path) -> None:
    rules = (Coercion(aets=("ELSE",), values=("InstitutionName=Else",)),)
    stored, came = received(tmp_path / "a", configured(tmp_path / "a", *rules), [8, 5000])
    assert came == stored
    config = configured(tmp_path, *rules, Coercion(values=("InstitutionName=All",)))
    assert config.coercion_of("ELSE") == rules[0]
    found = config.coercion_of(CALLING)
    assert found is not None and found.values == ("InstitutionName=All",)


def test_corrections_are_applied_to_sent_instances_until_they_are_undone(tmp_path: Path) -> None:
    study = f"{samples.ROOT}.1"
    new = patients.Patient("RIGHT", "HOSP")
    stored: dict[str, bytes] = {}
    came: list[dict[str, bytes]] = []

    def script(serving: Serving) -> None:
        def retrieve() -> None:
            with serving.call() as scripted:
                get(scripted)
                came.append(answers(scripted)[0])
                scripted.release()

        stored.update(fill(serving, [8, 5000]))
        done = correction.split(
            serving.archive, [study], new, {tags.PatientName: "王^小東=Wang"}, actor=actor(), reason="test"
        )
        retrieve()
        correction.undo(serving.archive, done.number, actor=actor(), reason="test")
        retrieve()

    serve(tmp_path / "data", script, config=configured(tmp_path, Coercion()))
    corrected, undone = came
    assert undone == stored
    for uid, data in corrected.items():
        before, after = read(stored[uid]), read(data)
        assert (str(after.PatientName), after.PatientID, after.IssuerOfPatientID) == ("王^小東=Wang", "RIGHT", "HOSP")
        assert after.SpecificCharacterSet == "ISO_IR 192" and after.PixelData == before.PixelData
        (said,) = after.OriginalAttributesSequence
        assert said.ReasonForTheAttributeModification == "CORRECT"
        assert said.ModifiedAttributesSequence[0].PatientID == before.PatientID


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Coercion(values=("InstitutionName",)), "KEYWORD=VALUE"),
        (Coercion(values=("InstitutionNam=x",)), "not a DICOM keyword"),
        (Coercion(values=("StudyInstanceUID=1.2",)), "cannot be set"),
        (Coercion(remove=("PixelData",)), "cannot be set"),
        (Coercion(remove=("RequestAttributesSequence",)), "cannot be set"),
    ],
)
def test_forbidden_changes_are_refused(rule: Coercion, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        values_of(rule.values, rule.remove)


def test_corrections_of_a_series_uid_in_two_studies_apply_to_one_study(tmp_path: Path) -> None:
    study_uids = [f"{samples.ROOT}.1", f"{samples.ROOT}.2"]
    stored: dict[str, bytes] = {}
    came: dict[str, bytes] = {}

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            for number, study_uid in enumerate(study_uids, 1):
                ds = samples.instance(1, 1, number)
                ds.StudyInstanceUID, ds.PatientID = study_uid, f"P{number}"
                uid = str(ds.SOPInstanceUID)
                stored[uid] = samples.encoded(ds)
                scripted.send(peer.message(1, peer.c_store_rq(number, samples.CT, uid), stored[uid]))
                assert scripted.expect_message().status() == 0
            scripted.release()
        correction.correct_study(
            serving.archive, study_uids[0], {tags.PatientName: "NEW"}, actor=actor(), reason="test"
        )
        with serving.call() as scripted:
            scripted.associate(STORE, GET, user_items=peer.role(samples.CT, scu=False, scp=True))
            both = {0x00080052: "STUDY", 0x0020000D: "\\".join(study_uids)}
            scripted.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 7, STUDY_ROOT_GET), peer.identifier(both)))
            came.update(answers(scripted)[0])
            scripted.release()

    serve(tmp_path / "data", script, config=configured(tmp_path, Coercion()))
    first, second = stored
    assert read(came[first]).PatientName == "NEW" and came[second] == stored[second]
