"""ServiceRequest and Task over HTTP: what a hospital ordered, as another implementation reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fhir.resources import get_fhir_model_class as r5_class
from fhir.resources.R4B import get_fhir_model_class as r4_class

from engine.access import Action, Policy, Principal, Scope
from engine.access.question import ARCHIVE, Target
from engine.access.scope import Attribute, Matching, scope_of
from engine.orders.values import (
    Code,
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepState,
    StepUpdate,
)
from tests.web.hosting import Hosting
from tests.web.serving import serving

HOSPITAL = Issuer("HOSP", "1.2.3", "ISO")
R5 = {"Accept": "application/fhir+json; fhirVersion=5.0"}
ORDERS = 5


def order(number: int, patient: str, *steps: StepUpdate, action: OrderAction = OrderAction.NEW) -> OrderUpdate:
    code = Code("CTCHEST", "L", "Chest CT")
    attributes = {"RequestedProcedureCodeSequence": (code,), "RequestedProcedurePriority": "STAT"}
    procedure = ProcedureUpdate(study_instance_uid=f"1.2.{number}", steps=steps, attributes=attributes)
    return OrderUpdate(
        action=action,
        patient=PatientUpdate(
            identifiers=(Identifier(patient, HOSPITAL),), attributes={"PatientName": f"Doe^{patient}"}
        ),
        accession=Identifier(f"A{number}"),
        placer=Identifier(f"P{number}"),
        attributes={"RequestingPhysician": "Roe^Jane"},
        procedures=(procedure,) if steps else (),
    )


def step(name: str, modality: str = "CT") -> StepUpdate:
    return StepUpdate(
        scheduled_procedure_step_id=name, modality=modality, station_aes=(f"{modality}1",), start_date="20261201",
        start_time="0900", state=StepState.SCHEDULED,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("fhir") / "data") as hosting:
        registry = hosting.engine.orders()
        for number in range(1, ORDERS):
            steps = (step(f"S{number}"), *([step("S1b", "MR")] if number == 1 else []))
            registry.apply(order(number, "P1" if number < 3 else f"P{number}", *steps), Source(name="RIS"))
        registry.apply(order(3, "P3", action=OrderAction.CANCEL), Source(name="RIS"))
        registry.apply(order(5, "P5"), Source(name="RIS"))
        yield hosting


def get(hosting: Hosting, path: str, *, is_r5: bool = False, status: int = 200) -> dict[str, Any]:
    answer = requests.get(f"{hosting.url}/fhir/{path}", headers=R5 if is_r5 else {}, timeout=60)
    assert answer.status_code == status, answer.text
    resource: dict[str, Any] = answer.json()
    (r5_class if is_r5 else r4_class)(resource["resourceType"]).model_validate(resource)
    return resource


def found(bundle: dict[str, Any], mode: str = "match") -> list[dict[str, Any]]:
    return [each["resource"] for each in bundle.get("entry", []) if each["search"]["mode"] == mode]


def accessions(bundle: dict[str, Any]) -> list[str]:
    return [each["value"] for one in found(bundle) for each in one["identifier"] if each["value"].startswith("A")]


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_an_order_is_read_with_its_steps(hosting: Hosting, is_r5: bool) -> None:
    bundle = get(hosting, "ServiceRequest?identifier=A1&_revinclude=Task:focus", is_r5=is_r5)
    (request,) = found(bundle)
    assert (request["status"], request["intent"], request["priority"]) == ("active", "order", "stat")
    code = request["code"]["concept"] if is_r5 else request["code"]
    assert code["coding"] == [{"code": "CTCHEST", "display": "Chest CT"}]
    assert request["subject"]["identifier"]["value"] == "P1" and request["requester"]["display"] == "Jane Roe"
    assert request["occurrenceDateTime"] == "2026-12-01"
    assert get(hosting, f"ServiceRequest/{request['id']}", is_r5=is_r5) == request
    tasks = found(bundle, "include")
    assert [each["identifier"][0]["value"] for each in tasks] == ["S1", "S1b"]
    for each in tasks:
        assert each["status"] == "requested" and each["focus"] == {"reference": f"ServiceRequest/{request['id']}"}
        assert get(hosting, f"Task/{each['id']}", is_r5=is_r5) == each
        assert ("requestedPeriod" in each) is is_r5


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", "54321"),
        ("patient=P1..1.2e2.2e3", "21"),
        ("patient.identifier=P1", "21"),
        ("subject:identifier=urn:oid:1.2.3|P4", "4"),
        ("subject:identifier=urn:oid:9.9|P4", ""),
        ("patient.identifier=P1&identifier=A3", ""),
        ("identifier=P2,A4", "42"),
        ("status=revoked", "3"),
        ("status=active&patient.identifier=P1", "21"),
        ("_id=999999", ""),
        ("_id=x", ""),
    ],
)
def test_orders_are_found_the_latest_first(hosting: Hosting, query: str, numbers: str) -> None:
    bundle = get(hosting, f"ServiceRequest?{query}&_total=accurate")
    assert accessions(bundle) == [f"A{number}" for number in numbers]
    assert bundle["total"] == len(numbers)


def test_steps_are_found_by_their_own_values_and_those_of_their_order(hosting: Hosting) -> None:
    (request,) = found(get(hosting, "ServiceRequest?identifier=A1"))
    of_order = found(get(hosting, f"Task?focus=ServiceRequest/{request['id']}"))
    assert [each["identifier"][0]["value"] for each in of_order] == ["S1", "S1b"]
    (one,) = found(get(hosting, f"Task?_id={of_order[1]['id']}"))
    assert one == of_order[1]
    assert len(found(get(hosting, "Task?status=cancelled"))) == 1
    bundle = get(hosting, "Task?identifier=S1b&_include=Task:focus")
    assert [each["identifier"][0]["value"] for each in found(bundle)] == ["S1b"]
    assert found(bundle, "include") == [request]


def test_pages_lead_through_all_orders(hosting: Hosting) -> None:
    bundle = get(hosting, "ServiceRequest?_count=2")
    seen = accessions(bundle)
    while (link := next((each["url"] for each in bundle["link"] if each["relation"] == "next"), None)) is not None:
        bundle = get(hosting, link.removeprefix(f"{hosting.url}/fhir/"))
        seen += accessions(bundle)
    assert seen == ["A5", "A4", "A3", "A2", "A1"]


def test_elements_leave_the_others_out_and_say_so(hosting: Hosting) -> None:
    (request,) = found(get(hosting, "ServiceRequest?identifier=A1&_elements=identifier"))
    assert set(request) == {"resourceType", "id", "identifier", "status", "intent", "subject", "meta"}
    assert request["meta"]["tag"][0]["code"] == "SUBSETTED"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("ServiceRequest/0", 404),
        ("ServiceRequest/999999", 404),
        ("Task/x", 404),
        ("ServiceRequest?_page=x", 400),
        ("ServiceRequest?_include=Task:focus", 400),
        ("ServiceRequest?_revinclude=Observation:subject", 400),
        ("Task?_elements=a.b", 400),
    ],
)
def test_what_is_wrong_has_an_outcome(hosting: Hosting, path: str, status: int) -> None:
    assert get(hosting, path, status=status)["resourceType"] == "OperationOutcome"


class _Narrowed(Policy):
    chosen: Scope

    def scope(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return self.chosen


def test_an_order_exists_for_whose_worklist_shows_one_of_its_steps(hosting: Hosting) -> None:
    engine = hosting.engine
    before, (one,) = engine.access, found(get(hosting, "ServiceRequest?identifier=A2"))
    rules = _Narrowed(lambda: engine.config, before.directory)  # type: ignore[attr-defined]
    rules.chosen = scope_of([frozenset({Matching.of(Attribute.MODALITY, ["mr"])})])
    hosting.engine.access = rules
    try:
        bundle = get(hosting, "ServiceRequest?_revinclude=Task:focus&_total=accurate")
        assert (accessions(bundle), bundle["total"]) == (["A1"], 1)
        assert [each["identifier"][0]["value"] for each in found(bundle, "include")] == ["S1b"]
        get(hosting, f"ServiceRequest/{one['id']}", status=404)
        assert [each["identifier"][0]["value"] for each in found(get(hosting, "Task"))] == ["S1b"]
    finally:
        hosting.engine.access = before
