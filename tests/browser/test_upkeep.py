"""Health, queues and administration in a browser: what they say, what they change, and what they cost."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, expect

from engine import cli
from engine.archive import messages
from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.cli import exit_codes
from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.journal import Outcome, Received, Result
from engine.orders.registry import NoRules
from engine.orders.values import Identifier, PatientMerge, PatientUpdate, Source
from engine.orders.workitems.store import Workitems
from tests import effort, samples
from tests.browser import browsing
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.hl7.samples import ADT_A08
from tests.orders.workitem_sets import scheduled
from tests.system.server import Server

pytestmark = pytest.mark.rotating(3, turn=0)

CONFIG = """
[jobs]
retry_s = 3600
[[peer]]
aet = "FILED"
host = "127.0.0.1"
port = 1
"""
DATA_SETS = [samples.instance(1, 1, 1), samples.instance(2, 1, 1)]
STUDY = f"{samples.ROOT}.1"


def api(serve: Server, path: str, body: Any = None) -> Any:
    url = f"{serve.url}/api/{path}"
    answer = requests.get(url, timeout=60) if body is None else requests.post(url, json=body, timeout=60)
    assert answer.ok, answer.text
    return answer.json()


def test_health_says_in_words_what_needs_attention_and_what_to_do(open_page: OpenPage) -> None:
    page = open_page("#/health")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("Something needs attention.")
    expect(verdict).to_contain_text("There is no backup.")
    expect(verdict).to_contain_text("Run filmroom backup every night")
    expect(page.locator(".tiles")).to_contain_text("2 studies, 2 images")


def test_health_shows_what_arrives_while_one_looks(open_page: OpenPage, serve: Server) -> None:
    page = open_page("#/health")
    expect(page.locator(".tiles")).to_be_visible()
    browsing.send(serve.port, samples.instance(1, 1, 2))
    expect(page.get_by_role("table", name=re.compile("^Peers in the last"))).to_contain_text("images")
    expect(page.locator("figure .uplot").first).to_be_visible()


def test_two_tabs_share_one_stream_and_a_hidden_one_has_none(open_page: OpenPage, serve: Server) -> None:
    first = open_page("#/health")
    expect(first.locator(".tiles")).to_be_visible()
    context: BrowserContext = first.context
    second = context.new_page()
    second.goto("/#/health")
    expect(second.locator(".tiles")).to_be_visible()
    wait_for_streams(first, serve, 1)
    for page in (first, second):
        hide(page)
    wait_for_streams(first, serve, 0)
    hide(second, is_hidden=False)
    wait_for_streams(first, serve, 1)
    expect(second.locator(".failure")).to_have_count(0)


def hide(page: Page, is_hidden: bool = True) -> None:
    """What a browser does with a tab that nobody looks at."""
    page.evaluate(
        """(isHidden) => {
            Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def streams(serve: Server) -> int:
    """Requests in progress, but this one."""
    workers: list[dict[str, Any]] = api(serve, "stats")["workers"]
    return sum(worker["http"]["requests"] for worker in workers) - 1


def wait_for_streams(page: Page, serve: Server, count: int) -> None:
    browsing.wait_until(page, lambda: streams(serve) == count, f"requests in progress: {count}")


def test_a_peer_is_added_changed_and_removed_with_questions_in_the_page(open_page: OpenPage, watch: Watch) -> None:
    watch.allow(r"status of 400")  # the browser reports each refused request
    page = open_page("#/administration/peers")
    expect(page.get_by_role("row", name="FILED")).to_contain_text("configuration file")
    expect(page.get_by_role("button", name="Change… FILED")).to_have_count(0)
    page.get_by_role("button", name="Add a peer…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("AE title").fill("NEW1")
    dialog.get_by_label("Host").fill("10.0.0.9")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("port is missing")
    dialog.get_by_label("Port").fill("104")
    dialog.get_by_role("button", name="Save").click()
    row = page.get_by_role("row", name="NEW1")
    expect(row).to_contain_text("10.0.0.9:104")
    page.get_by_role("button", name="Change… NEW1").click()
    dialog.get_by_label("Port").fill("11112")
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("10.0.0.9:11112")
    row.get_by_role("button", name="Remove").click()
    expect(row.get_by_role("button", name="No")).to_be_focused()
    page.keyboard.press("Escape")
    expect(row).to_be_visible()
    row.get_by_role("button", name="Remove").click()
    row.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("row", name="NEW1")).to_have_count(0)


def test_a_stranger_is_seen_with_what_it_took(open_page: OpenPage, serve: Server) -> None:
    browsing.send(serve.port, samples.instance(1, 1, 3))
    page = open_page("#/administration/peers")
    strangers = page.get_by_role("table", name="Seen, but not known")
    strangers.get_by_role("button", name=re.compile("Details")).first.click()
    expect(page.get_by_role("dialog")).to_contain_text("VR Little Endian")


def test_security_says_what_is_open_and_what_to_do(open_page: OpenPage) -> None:
    page = open_page("#/administration/findings")
    findings = page.get_by_role("list", name="Security")
    expect(findings).to_contain_text("Warning: whoever uses the title of these peers is taken for them: FILED")
    expect(findings).to_contain_text('give each networks, or tls = "required" with certificates')
    expect(findings).to_contain_text("Good: AE titles without a [[peer]] may be used by programs on this machine only")


def test_settings_are_written_as_the_configuration_file_takes_them(open_page: OpenPage) -> None:
    page = open_page("#/administration/settings")
    page.get_by_label("Search").fill("jobs.retry_s")
    row = page.get_by_role("table", name="Settings").get_by_role("row", name="jobs.retry_s")
    expect(row.get_by_role("cell").nth(1)).to_have_text("3600")
    expect(row).to_contain_text("configuration file")


def test_jobs_are_filtered_by_state_and_cancelled_in_bulk(open_page: OpenPage, serve: Server) -> None:
    for _ in range(3):
        api(serve, "jobs", {"kind": "send", "peer": "FILED", "studies": [STUDY]})
    page = open_page("#/queues")
    page.get_by_role("button", name=re.compile("^waiting 3")).click()
    rows = page.get_by_role("table", name="Sends and pulls").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("cannot be reached")
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Cancel 1 chosen").click()
    page.get_by_role("button", name="Cancel 1 chosen").click()
    expect(page.get_by_role("button", name="cancelled 1")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Cancel 2 that")).click()
    page.get_by_role("button", name=re.compile("^Cancel 2 that")).click()
    expect(page.get_by_role("button", name="cancelled 3")).to_be_visible()


def test_the_log_is_searched_and_new_events_appear(open_page: OpenPage, serve: Server) -> None:
    browsing.send(serve.port, samples.instance(1, 1, 5))
    page = open_page("#/administration/log")
    rows = page.locator("table.log tbody tr")
    expect(rows.first).to_be_visible()
    page.get_by_label("Event", exact=True).fill("reloaded by nobody")
    expect(page.get_by_text("No such event.")).to_be_visible()
    page.get_by_label("Event", exact=True).fill("association accepted")
    expect(rows.first).to_contain_text("association accepted")
    count = rows.count()
    browsing.send(serve.port, samples.instance(1, 1, 4))
    expect(rows).to_have_count(count + 1)


@pytest.mark.parametrize("scheme", effort.one_of("dark", "light"))
def test_these_views_are_accessible_and_fit_a_phone(open_page: OpenPage, scheme: str) -> None:
    places = (
        "health",
        "queues",
        "queues/webhooks",
        "queues/outbox",
        "administration/peers",
        "administration/settings",
        "administration/findings",
        "administration/log",
    )
    page = open_page(color_scheme=scheme, viewport={"width": 390, "height": 800})
    some = browsing.some(places)
    for place in places:
        page.goto("about:blank")  # so that each view is opened like the first one
        page.goto(f"/#/{place}")
        expect(page.locator("h1")).to_be_visible()
        if place == "health":
            expect(page.locator(".tiles")).to_be_visible()
        expect(page.locator("[role=status]", has_text="Loading")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
        if place in some:
            assert browsing.accessibility_problems(page) == [], place


def test_german_has_words_for_all_of_it(open_page: OpenPage) -> None:
    page = open_page("#/health", locale="de-DE")
    expect(page.locator(".verdict")).to_contain_text("Es gibt keine Sicherung.")
    page.goto("/#/administration/log")
    expect(page.get_by_label("Neue Ereignisse zeigen, sobald sie kommen")).to_be_checked()


def test_the_worklist_shows_what_is_scheduled_and_why_a_station_has_nothing(serve: Server, open_page: OpenPage) -> None:
    add = ["worklist", "add", "--data", str(serve.data), "ScheduledProcedureStepStartDate=20301201"]
    step = ["PatientID=4711", "PatientName=Doe^Jane", "Modality=CT", "ScheduledStationAETitle=CT1"]
    assert cli.run([*add, *step]) == exit_codes.OK
    page = open_page("#/worklist")
    expect(page.get_by_text("Nothing is scheduled.")).to_be_visible()
    page.get_by_label("Day", exact=True).fill("2030-12-01")
    row = page.get_by_role("row").filter(has_text="Doe, Jane")
    expect(row).to_contain_text("CT1")
    expect(row).to_contain_text("scheduled")
    page.get_by_label("Patient", exact=True).fill("roe")
    expect(row).to_have_count(0)
    page.get_by_label("Patient", exact=True).fill("doe")
    expect(row).to_have_count(1)
    why = page.locator("h2 ~ form")
    why.get_by_label("Station (AE title)").fill("MR9")
    why.get_by_role("button", name="Explain").click()
    expect(page.get_by_text("MR9 has never asked.")).to_be_visible()
    expect(page.get_by_role("table", name="Why is a list empty?")).to_contain_text("CT1")


def test_messages_are_listed_filtered_and_shown_with_their_fields(
    serve: Server, open_page: OpenPage, watch: Watch
) -> None:
    watch.allow("409")
    with Archive.open(serve.data, role="guest") as archive:
        journal = messages.open_journal(archive)
        for number, patient in ((1, "4711"), (2, "<b>&\u202e4712")):
            row = Received(time=time.time() + number, source="ris", host="::1", kind="ADT^A08", patient_id=patient)
            journal.append(row, ADT_A08)
        journal.append_outcome(Outcome(number=1, time=2.0, result=Result.APPLIED, changes=("patient 7 created",)))
        journal.close()
    page = open_page("#/worklist/messages", viewport={"width": 390, "height": 844})
    rows = page.get_by_role("table", name="Messages").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("<b>&")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("Result").select_option("applied")
    expect(rows).to_have_count(1)
    rows.get_by_role("button", name="Show message 1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("patient 7 created")
    expect(dialog.get_by_role("table", name="PID")).to_contain_text("Patient Identifier List")
    expect(dialog.locator("pre").last).to_contain_text("MSH|")
    assert browsing.accessibility_problems(page) == []
    dialog.get_by_role("button", name="Apply again").click()
    dialog.get_by_role("button", name="Apply again").click()
    expect(dialog.get_by_role("alert")).to_contain_text("this server receives no messages")


def test_a_study_is_matched_to_a_proposed_order_and_the_link_is_undone(serve: Server, open_page: OpenPage) -> None:
    data_set = DATA_SETS[1]
    day, name = str(data_set.StudyDate), str(data_set.PatientName)
    texts = {"PatientID": str(data_set.PatientID), "PatientName": name, "Modality": str(data_set.Modality)}
    step = {"ScheduledProcedureStepStartDate": day, "AccessionNumber": "ACC71", **texts}
    add = ["worklist", "add", "--data", str(serve.data), *(f"{name}={text}" for name, text in step.items())]
    assert cli.run(add) == exit_codes.OK
    with Archive.open(serve.data, role="guest") as archive, open_orders(archive, NoRules()) as orders:
        survivor = PatientUpdate(identifiers=(Identifier("SURVIVOR1"),), attributes={"PatientName": "Roe^Ann"})
        orders.apply(PatientMerge(survivor=survivor, prior=Identifier("PRIOR1")), Source(name="KIS"))
    page = open_page("#/worklist/matching", viewport={"width": 390, "height": 844})
    page.get_by_label("From").fill(f"{day[:4]}-{day[4:6]}-{day[6:]}")
    studies = page.get_by_role("table", name="Studies without an order")
    row = studies.get_by_role("row").filter(has_text=f"accession {data_set.AccessionNumber}")
    row.get_by_role("button", name="Match").click()
    dialog = page.get_by_role("dialog")
    proposals = dialog.get_by_role("table", name="Orders that it may fulfil")
    expect(proposals).to_contain_text("same patient ID")
    assert browsing.accessibility_problems(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    proposals.get_by_role("row").filter(has_text="ACC71").get_by_role("button", name="Link").click()
    links = dialog.get_by_role("table", name="Links")
    expect(links).to_contain_text("by hand")
    links.get_by_role("button", name="Undo the link").click()
    links.get_by_role("button", name="Undo the link").click()
    expect(links).to_contain_text("undone")
    dialog.get_by_role("button", name="Close").click()
    expect(row).to_have_count(1)
    page.get_by_label("Reason for an undo").fill("two persons")
    merges = page.get_by_role("table", name="Merged patients")
    merge = merges.get_by_role("row").filter(has_text="PRIOR1")
    expect(merge).to_contain_text("SURVIVOR1")
    merge.get_by_role("button", name="Undo the merge").click()
    merge.get_by_role("button", name="Undo the merge").click()
    expect(merge).to_contain_text("two persons")
    assert browsing.accessibility_problems(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_workitems_are_found_shown_with_their_steps_and_cancelled(serve: Server, open_page: OpenPage) -> None:
    step = {"AccessionNumber": "ACC72", "PatientID": "4713", "PatientName": "Roe^Ann", "Modality": "CT"}
    day = {"ScheduledProcedureStepStartDate": "20301202", "RequestedProcedureDescription": "CT of the liver"}
    add = ["worklist", "add", "--data", str(serve.data), *(f"{name}={text}" for name, text in {**step, **day}.items())]
    assert cli.run(add) == exit_codes.OK
    request = [DataSet({tags.AccessionNumber: b"ACC72"})]
    with Archive.open(serve.data, role="guest") as archive, open_orders(archive, NoRules()) as orders:
        for number, label in ((1, b"Segment the liver"), (2, b"Check the segments")):
            values = scheduled(ProcedureStepLabel=label, PatientID=b"4713", ReferencedRequestSequence=request)
            Workitems(orders).create(f"1.2.3.7{number}", values, "AI")
    page = open_page("#/worklist/workitems", viewport={"width": 390, "height": 844})
    rows = page.get_by_role("table", name="Workitems").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(page.get_by_text("scheduled: 2 ·")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("Search").fill("LIVER")
    expect(rows).to_have_count(1)
    rows.get_by_role("button", name="Segment the liver").press("Enter")
    dialog = page.get_by_role("dialog", name="Segment the liver")
    expect(dialog.get_by_role("table", name="History")).to_contain_text("created")
    expect(dialog.get_by_role("table", name="Steps of the same request")).to_contain_text("CT")
    assert browsing.accessibility_problems(page) == []
    dialog.get_by_label("Reason").fill("wrong patient")
    dialog.get_by_role("button", name="Cancel this workitem").click()
    dialog.get_by_role("button", name="Cancel this workitem").click()
    expect(dialog.get_by_role("table", name="History")).to_contain_text("wrong patient")
    dialog.get_by_role("button", name="Close").click()
    page.get_by_label("State").select_option("CANCELED")
    expect(rows.get_by_text("cancelled")).to_be_visible()
    page.goto("/#/worklist/list")
    page.get_by_label("Day", exact=True).fill("2030-12-02")
    page.get_by_role("button", name="show the step").click()
    shown = page.get_by_role("dialog", name="CT of the liver").get_by_role(
        "table", name="Workitems of the same request"
    )
    expect(shown).to_contain_text("Check the segments")
    assert browsing.accessibility_problems(page) == []
