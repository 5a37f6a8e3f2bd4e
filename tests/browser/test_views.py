"""Every view: accessible, in German, on a phone, with hostile values, without growing."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests import effort, samples
from tests.browser import browsing, pictures
from tests.browser.browsing import Watch
from tests.browser.conftest import OpenPage
from tests.system.server import Server

pytestmark = pytest.mark.rotating(3, turn=1)

PATIENT_ID, ACCESSION = "PID-00001-2026", "ACC00000001"
BORN = "1948-12-28"
SLICES = pictures.slices(
    1, 2, patient_name="Stack^Stan", patient_id=PATIENT_ID, AccessionNumber=ACCESSION, PatientBirthDate="19481228"
)
CONFIG = """
[[peer]]
aet = "WORKSTATION"
host = "pacs.radiology.hospital.example.org"
port = 11112
"""
SCRIPT = "<img src=x onerror=window.hostile=1><script>window.hostile=1</script>"
RIGHT_TO_LEFT = "\u202eגולדברג^יוסי\u202c\u2067"
DATA_SETS = [
    *SLICES,
    samples.instance(2, patient_name=SCRIPT, patient_id=f"'\"><b>{SCRIPT}", StudyDescription=SCRIPT),
    samples.instance(3, patient_name=RIGHT_TO_LEFT, patient_id="RTL", StudyDescription=RIGHT_TO_LEFT),
    samples.instance(4, patient_name="W" * 64_000, patient_id="LONG", StudyDescription="x" * 64_000),
]
STUDY = SLICES[0].StudyInstanceUID
ADMINISTRATION = (
    "peers", "quarantine", "conflicts", "corrections", "holds", "trash", "retention", "users", "grants", "audit",
    "findings", "viewer", "settings", "log",
)  # fmt: skip
VIEWS = {
    "studies": "#/studies",
    "study": f"#/study/{STUDY}",
    "viewer": f"#/view/{STUDY}/{SLICES[0].SeriesInstanceUID}",
    "upload": "#/upload",
    "worklist": "#/worklist",
    "workitems": "#/worklist/workitems",
    "matching": "#/worklist/matching",
    "messages": "#/worklist/messages",
    "queues": "#/queues",
    "health": "#/health",
    **{f"administration, {name}": f"#/administration/{name}" for name in ADMINISTRATION},
}
FAST = """for (const name of ["setTimeout", "setInterval"]) {
    const real = window[name];
    window[name] = (work, ms = 0, ...rest) => real(work, ms / 30, ...rest);
}"""
"""The page's timers run thirty times as fast."""
ARRIVALS = effort.amount("ARRIVALS", 12, 34)
"""How often something comes in an hour of a page that stays open."""
READY = {"studies": "[role=row].cursor", "study": "a.card", "viewer": "img.picture"}


def ready(page: Page, view: str) -> None:
    """Waits until a view has what it shows."""
    expect(page.locator(READY.get(view, "h1")).first).to_be_visible()
    expect(page.get_by_text("Loading…")).to_have_count(0)


def test_no_view_has_an_accessibility_problem_dark_or_light(page: Page) -> None:
    problems = []
    for view, place in browsing.some([*VIEWS.items()]):
        page.goto(f"/{place}")
        ready(page, view)
        problems += [f"{view}: {problem}" for problem in browsing.accessibility_problems(page)]
        page.get_by_role("button", name="Dark or light").click()
        problems += [f"{view}, light: {one}" for one in browsing.accessibility_problems(page, "color-contrast")]
        page.get_by_role("button", name="Dark or light").click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    problems += [f"keys: {problem}" for problem in browsing.accessibility_problems(page)]
    assert not problems


def test_hostile_values_are_text_and_leave_the_layout_alone(page: Page, watch: Watch) -> None:
    watch.allow("status of (400|404|414|431)")
    expect(browsing.rows(page)).to_have_count(4)
    for row in browsing.rows(page).all():
        box = row.bounding_box()
        assert box is not None and box["height"] <= 40
    for data_set in DATA_SETS[2:]:
        for place in (
            f"#/study/{data_set.StudyInstanceUID}",
            f"#/view/{data_set.StudyInstanceUID}/{data_set.SeriesInstanceUID}",
        ):
            page.goto(f"/{place}")
            expect(page.locator("h1, img.picture").first).to_be_visible()
            assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), place
    for uid in ("1.2'\"><b>x", "../../api/stats", "%00", "9" * 65_000, "\u202e1.2.3"):
        page.goto(f"/#/study/{quote(uid, safe='')}")
        expect(page.get_by_role("alert").first).to_be_visible()
    for place in ("#/study/%E0%A4%A", "#/view/1.2", "#/no/such/view", "#/studies?PatientName=%E0"):
        page.goto(f"/{place}")
        page.reload()
        expect(page.locator("main > *:visible").first).to_be_visible()
    assert page.evaluate("window.hostile") is None
    assert page.locator("main img[src=x], main script, main b").count() == 0


def test_what_identifies_a_study_is_not_cut_at_1280_pixels(page: Page) -> None:
    cell = "(cell) => cell.scrollWidth <= cell.clientWidth"
    for text in (PATIENT_ID, ACCESSION, "2026-01-02", BORN):
        assert browsing.rows(page).get_by_text(text).first.evaluate(cell), text
    browsing.rows(page).get_by_text(PATIENT_ID).first.click()
    expect(page.get_by_role("button", name="Close")).to_be_visible()
    for text in ("2026-01-02", BORN):
        assert browsing.rows(page).get_by_text(text).first.evaluate(cell), f"{text}, with the series beside the list"


def test_empty_lists_lead_to_the_page_that_says_how_they_are_filled(page: Page) -> None:
    for view, name, file in (("workitems", "workitems are made", "workitems"), ("messages", "sends messages", "hl7")):
        page.goto(f"/{VIEWS[view]}")
        link = page.get_by_role("link", name=name)
        expect(link).to_have_attribute("href", f"docs/{file}")


def test_buttons_of_a_row_stand_beside_one_another(page: Page) -> None:
    page.goto("/#/administration/peers")
    boxes = [page.get_by_role("button", name=name).bounding_box() for name in ("Echo", "Details WORKSTATION")]
    assert all(box is not None and box["height"] < 36 for box in boxes)
    assert len({round(box["y"]) for box in boxes if box is not None}) == 1


def test_who_has_no_account_is_told_so(page: Page) -> None:
    page.goto("/#/account")
    expect(page.get_by_text("not logged in to an account")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_every_view_fits_a_phone_in_german(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, locale="de-DE", has_touch=True, is_mobile=True)
    expect(page.get_by_role("link", name="Verwaltung")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "de"
    wide = []
    for view, place in VIEWS.items():
        page.goto(f"/{place}")
        ready(page, view)
        if page.evaluate(
            "document.querySelector('main').scrollWidth > innerWidth || document.body.scrollWidth > innerWidth"
        ):
            wide.append(view)
    assert not wide, "these views scroll sideways"
    assert not page.get_by_text("Loading").count()


def test_the_language_and_the_theme_are_remembered(page: Page) -> None:
    page.get_by_label("Language").select_option("de")
    expect(page.get_by_role("link", name="Hochladen")).to_be_visible()
    page.get_by_role("button", name="Dunkel oder hell").click()
    page.reload()
    expect(page.get_by_role("link", name="Hochladen")).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


class Memory:
    """What the page holds, after a garbage collection."""

    def __init__(self, page: Page) -> None:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        session.send("HeapProfiler.enable")
        session.send("HeapProfiler.collectGarbage")
        session.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        session.detach()
        self.heap_bytes = metrics["JSHeapUsedSize"]
        self.nodes = metrics["Nodes"]
        self.listeners = metrics["JSEventListeners"]

    def __repr__(self) -> str:
        return f"{self.heap_bytes:.0f} bytes, {self.nodes:.0f} nodes, {self.listeners:.0f} listeners"


def is_steady(early: Memory, late: Memory) -> bool:
    return (
        late.nodes <= early.nodes + 50
        and late.listeners <= early.listeners + 5
        and late.heap_bytes <= early.heap_bytes * 1.05 + 100_000
    )


def test_a_page_that_stays_open_does_not_grow(open_page: OpenPage, serve: Server) -> None:
    page = open_page()
    page.add_init_script(FAST)
    page.reload()
    ready(page, "studies")
    numbers = iter(range(1, 10_000))

    def an_hour_passes() -> Memory:
        for _ in range(ARRIVALS):
            arrivals = [samples.instance(1, 9, next(numbers), patient_id=PATIENT_ID) for _ in range(3)]
            with page.expect_response("**/api/studies?*"):
                browsing.store(serve.url, *arrivals)
        for view in ("study", "viewer", "queues", "health", "studies"):
            page.goto(f"/{VIEWS[view]}")
            ready(page, view)
        page.evaluate("performance.clearResourceTimings()")
        return Memory(page)

    # Chromium compiles and caches in the first hours. What leaks grows in every hour.
    looks = [an_hour_passes(), an_hour_passes()]
    while not is_steady(*looks[-2:]) and len(looks) < 8:
        looks.append(an_hour_passes())
    assert is_steady(*looks[-2:]), looks
