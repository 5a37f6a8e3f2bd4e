"""Clients as they come: libraries that are driven, and requests of those that cannot be, replayed as they send them."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient

from engine.web.multipart import PartBegin
from tests import samples
from tests.archive import kept
from tests.web.asking import parts_of
from tests.web.hosting import Hosting
from tests.web.serving import serving

COUNT = 28
STUDY = f"{samples.ROOT}.1"
SERIES = f"{STUDY}.1"
OTHER_STUDY, OTHER_SERIES = f"{samples.ROOT}.7", f"{samples.ROOT}.7.3"
UIDS = [kept.uid_of(number) for number in range(COUNT)]
CT_IMAGE = f"/studies/{STUDY}/series/{SERIES}/instances/{UIDS[0]}"

JSON = "application/dicom+json"
Ask = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("clients") / "data"
    with kept.opened(data) as archive:
        kept.store(archive, [kept.data_set(number, WindowCenter="2048", WindowWidth="4096") for number in range(COUNT)])
        other = samples.instance(7, 3, 1, patient_id="P7", patient_name="Roe^Richard", study_date="20260301")
        kept.store(archive, [samples.encoded(other)])
    with serving(data) as hosting:
        yield hosting


@pytest.fixture
def ask(hosting: Hosting) -> Iterator[Ask]:
    """Asks for a path of DICOMweb as it stands, with these headers and no others of its own but Host."""
    with requests.Session() as session:
        session.headers.clear()

        def ask(path: str, accept: str | None = None, method: str = "GET", **more: object) -> requests.Response:
            request = requests.Request(method, "http://127.0.0.1", headers={"Accept": accept} if accept else {}, **more)  # type: ignore[arg-type]
            prepared = request.prepare()
            prepared.url = f"{hosting.url}/dicom-web{path}"
            return session.send(prepared, timeout=60, allow_redirects=False)

        yield ask


def syntax_of(part: PartBegin) -> str:
    assert part.content_type is not None
    return part.content_type.parameter("transfer-syntax")


# dicomweb-client for Python, and who is built on it (3D Slicer, MONAI Label) ---------------------------


def test_dicomweb_client_searches_and_pages_to_the_end(hosting: Hosting) -> None:
    client = DICOMwebClient(f"{hosting.url}/dicom-web")
    assert len(client.search_for_studies(search_filters={"PatientName": "*"}, fuzzymatching=True)) == 2
    (row,) = client.search_for_studies(fields=["StudyDescription", "Modality"], search_filters={"PatientID": "P7"})
    assert row["0020000D"]["Value"] == [OTHER_STUDY]
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []
    assert len(client.search_for_series(STUDY)) == 1
    assert len(client.search_for_series(search_filters={"Modality": "CT"})) == 2
    rows = client.search_for_instances(STUDY, SERIES, limit=10, get_remaining=True)
    assert sorted(row["00080018"]["Value"][0] for row in rows) == sorted(UIDS)
    pages: list[list[str]] = []
    # Slicer goes on until a page is empty or begins as the one before.
    while rows := client.search_for_instances(STUDY, offset=sum(map(len, pages)), limit=9):
        pages.append([row["00080018"]["Value"][0] for row in rows])
    assert sorted(itertools.chain(*pages)) == sorted(UIDS) and len(pages) == 4


def test_dicomweb_client_retrieves_at_every_level(hosting: Hosting) -> None:
    client = DICOMwebClient(f"{hosting.url}/dicom-web")
    for files in (client.retrieve_study(STUDY), client.retrieve_series(STUDY, SERIES)):
        assert sorted(file.SOPInstanceUID for file in files) == sorted(UIDS)
    assert len(list(client.iter_series(STUDY, SERIES))) == COUNT
    file = client.retrieve_instance(STUDY, SERIES, UIDS[0])
    assert file.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert client.retrieve_instance_frames(STUDY, SERIES, UIDS[0], [1]) == [file.PixelData]
    for rows in (client.retrieve_study_metadata(STUDY), client.retrieve_series_metadata(STUDY, SERIES)):
        assert len(rows) == COUNT
    row = client.retrieve_instance_metadata(STUDY, SERIES, UIDS[0])
    assert pydicom.Dataset.from_json(row, lambda *_: None).PatientName == "Doe^Jane"
    assert client.retrieve_bulkdata(row["7FE00010"]["BulkDataURI"]) == [file.PixelData]
    for rendered in (
        client.retrieve_instance_rendered(STUDY, SERIES, UIDS[0], media_types=("image/png",)),
        client.retrieve_instance_frames_rendered(STUDY, SERIES, UIDS[0], [1], media_types=("image/png",)),
    ):
        assert rendered.startswith(b"\x89PNG")


def test_dicomweb_client_gets_not_found(hosting: Hosting) -> None:
    client = DICOMwebClient(f"{hosting.url}/dicom-web")
    with pytest.raises(requests.HTTPError, match="404"):
        client.retrieve_study("1.2.3")
    with pytest.raises(requests.HTTPError, match="404"):
        client.retrieve_instance_frames(STUDY, SERIES, UIDS[0], [2])


# dcmjs' client -------------------------------------------------------------------------------------------

NPM_PACKAGES = ("dicomweb-client@0.11.3", "xhr2@0.2.1")


@pytest.fixture(scope="module")
def modules() -> Path:
    """dcmjs' client and an XMLHttpRequest for Node, kept beside other temporary files for the next run."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm")
    folder = Path(tempfile.gettempdir()) / "filmroom-tests-dcmjs-client-0.11.3"
    if not (folder / "complete").exists():
        folder.mkdir(exist_ok=True)
        options = ("--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0")
        try:
            done = subprocess.run(
                ["npm", "install", *options, *NPM_PACKAGES], capture_output=True, text=True, timeout=60, cwd=folder
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm does not come to an end: no registry?")
        if done.returncode:
            pytest.skip(f"npm cannot install dcmjs' client: {done.stderr[-200:]}")
        (folder / "complete").touch()
    return folder


SCRIPT = """
globalThis.XMLHttpRequest = require('xhr2');
const { api } = require('dicomweb-client');
const [url, study, series, instance] = process.argv.slice(1);
const client = new api.DICOMwebClient({ url });
const at = { studyInstanceUID: study, seriesInstanceUID: series, sopInstanceUID: instance };
(async () => {
  const file = await client.retrieveInstance(at);
  const rows = await client.retrieveInstanceMetadata(at);
  const bulk = await client.retrieveBulkData({ BulkDataURI: rows[0]['7FE00010']['BulkDataURI'] });
  const octets = [{ mediaType: 'application/octet-stream', transferSyntaxUID: '*' }];
  const frames = await client.retrieveInstanceFrames({ ...at, frameNumbers: '1', mediaTypes: octets });
  const rendered = await client.retrieveInstanceRendered({ ...at, mediaTypes: [{ mediaType: 'image/png' }] });
  console.log(JSON.stringify({
    studies: (await client.searchForStudies({ queryParams: { PatientID: 'P*', limit: 101, offset: 0 } })).length,
    series: (await client.searchForSeries({ studyInstanceUID: study })).length,
    instances: (await client.searchForInstances({ studyInstanceUID: study, seriesInstanceUID: series })).length,
    nothing: await client.searchForStudies({ queryParams: { PatientID: 'nobody' } }),
    metadata: (await client.retrieveSeriesMetadata(at)).length,
    files: (await client.retrieveSeries(at)).map((each) => each.byteLength),
    file: file.byteLength,
    bulk: Buffer.from(bulk[0] || bulk).toString('hex'),
    frames: frames.map((each) => Buffer.from(each).toString('hex')),
    rendered: Buffer.from(Array.isArray(rendered) ? rendered[0] : rendered).toString('latin1', 1, 4),
  }));
})().catch((error) => { console.error(error.stack || error); process.exit(1); });
"""


def test_dcmjs_client_gets_what_it_requests(hosting: Hosting, modules: Path) -> None:
    command = ["node", "-e", SCRIPT, f"{hosting.url}/dicom-web", STUDY, SERIES, UIDS[0]]
    environment = {"NODE_PATH": str(modules / "node_modules"), "PATH": str(Path(shutil.which("node") or "").parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    pixels = pixels_of(hosting, UIDS[0])
    assert (said["studies"], said["series"], said["instances"], said["nothing"]) == (2, 1, COUNT, [])
    assert said["metadata"] == len(said["files"]) == COUNT
    assert said["file"] in said["files"]
    assert said["frames"] == [pixels.hex()] and said["bulk"] == pixels.hex()
    assert said["rendered"] == "PNG"


STORE_SCRIPT = """
globalThis.XMLHttpRequest = require('xhr2');
const { api } = require('dicomweb-client');
const { readFileSync } = require('fs');
const [url, study, ...files] = process.argv.slice(1);
const client = new api.DICOMwebClient({ url });
const datasets = files.map((name) => { const file = readFileSync(name); return new Uint8Array(file).buffer; });
(async () => { await client.storeInstances({ datasets, studyInstanceUID: study }); })()
  .catch((error) => { console.error(error.stack || error); process.exit(1); });
"""


def test_dcmjs_client_stores(hosting: Hosting, modules: Path, tmp_path: Path) -> None:
    """It does not look at the answer: what is stored is compared."""
    stored = [samples.instance(77, 1, number, pixels=bytes([number]) * 70_000) for number in (1, 2)]
    files = [tmp_path / f"{number}.dcm" for number in range(2)]
    for file, ds in zip(files, stored, strict=True):
        file.write_bytes(samples.part10(ds))
    command = ["node", "-e", STORE_SCRIPT, f"{hosting.url}/dicom-web", stored[0].StudyInstanceUID, *map(str, files)]
    environment = {"NODE_PATH": str(modules / "node_modules"), "PATH": str(Path(shutil.which("node") or "").parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    for ds in stored:
        assert pixels_of(hosting, ds.SOPInstanceUID) == ds.PixelData
    url = f"{hosting.url}/dicom-web/studies/{stored[0].StudyInstanceUID}"
    assert requests.delete(url, timeout=60).status_code == 204, "other tests count studies"


def pixels_of(hosting: Hosting, uid: str) -> bytes:
    instance = hosting.engine.archive.instance(uid)
    assert instance is not None
    return bytes(hosting.engine.archive.dataset(instance).PixelData)


# Requests as they were seen -------------------------------------------------------------------------------


def test_ohif_opens_a_study(ask: Ask) -> None:
    fields = "includefield=00081030%2C00080060%2C00080090%2C00100030"
    for name in ("", "&PatientName=*doe*", "&00100020=*P1*&ModalitiesInStudy=CT%5C%5CMR"):
        rows = ask(f"/studies?limit=101&offset=0&fuzzymatching=false&{fields}{name}", JSON).json()
        assert any(row["0020000D"]["Value"] == [STUDY] for row in rows), name
        assert all(row["00080061"]["vr"] == "CS" and "00201208" in row for row in rows)
    both = ask(f"/studies?StudyInstanceUID={STUDY}%5C{OTHER_STUDY}&{fields}", JSON).json()
    assert len(both) == 2, "study UIDs joined by a backslash"
    path = f"/studies/{STUDY}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011"
    (series,) = ask(path, f"{JSON}, application/json").json()
    assert series["0020000E"]["Value"] == [SERIES] and series["0020000D"]["Value"] == [STUDY]
    metadata = ask(f"/studies/{STUDY}/series/{SERIES}/metadata", JSON)
    assert metadata.headers["Content-Type"] == JSON
    rows = metadata.json()
    assert len(rows) == COUNT and isinstance(rows[0]["00280010"]["Value"][0], int)
    assert rows[0]["7FE00010"]["BulkDataURI"].startswith("http://127.0.0.1:")
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
    for row in rows:
        uid = row["00080018"]["Value"][0]
        ((part, frame),) = parts_of(ask(f"/studies/{STUDY}/series/{SERIES}/instances/{uid}/frames/1", accept))
        assert len(frame) == 512 and syntax_of(part) == "1.2.840.10008.1.2.1"
    prior = ask("/studies?00100020=P1&limit=101&offset=0", JSON).json()
    assert [row["0020000D"]["Value"][0] for row in prior] == [STUDY]


@pytest.mark.parametrize("accept", [
    "multipart/related; type=application/octet-stream; transfer-syntax=*",
    'multipart/related; type="application/octet-stream"; transfer-syntax=*; transfer-syntax=*, */*;q=0.1',
    "multipart/related; type=image/jpeg; transfer-syntax=1.2.3, multipart/related; type=application/octet-stream",
    'multipart/related; type="*/*"',
    "*/*",
    None,
])  # fmt: skip
def test_cornerstone_and_others_ask_for_a_frame_in_every_spelling(ask: Ask, accept: str | None) -> None:
    answer = ask(f"{CT_IMAGE}/frames/1", accept)
    ((_, frame),) = parts_of(answer)
    assert len(frame) == 512
    head = answer.content[: answer.content.index(b"\r\n\r\n")]
    assert b"\r\nContent-Type:" in head and len(head) < 1000
    assert answer.content.startswith(b"--")
    assert answer.content.rstrip(b"\r\n").endswith(b"--")


def test_weasis_lists_pages_of_instances_and_takes_one_series(ask: Ask) -> None:
    rows = ask(f"/studies/{STUDY}/series/{SERIES}/instances?limit=1000&offset=0", JSON).json()
    assert len(rows) == COUNT
    assert ask(f"/studies/{STUDY}/series/{SERIES}/instances?limit=1000&offset=1000", JSON).json() == []
    (middle,) = ask(f"/studies/{STUDY}/series/{SERIES}/instances?limit=1&offset={COUNT // 2}", JSON).json()
    # It puts /instances behind the Retrieve URL of a series.
    (series,) = ask(f"/studies/{STUDY}/series", JSON).json()
    url = series["00081190"]["Value"][0].partition("/dicom-web")[2]
    assert len(ask(f"{url}/instances", JSON).json()) == COUNT
    uid = middle["00080018"]["Value"][0]
    for resource in ("rendered", "thumbnail"):
        answer = ask(f"{url}/instances/{uid}/{resource}?viewport=64%2C64", "image/jpeg")
        assert answer.headers["Content-Type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    accept = 'multipart/related;type="application/dicom";transfer-syntax=*'
    parts = parts_of(ask(f"{url}", accept))
    assert len(parts) == COUNT
    assert {pydicom.dcmread(io.BytesIO(file)).SeriesInstanceUID for _, file in parts} == {SERIES}


def test_monai_label_and_deploy_ask_with_slashes_too_many(ask: Ask) -> None:
    rows = ask("/series?Modality=CT&limit=100&offset=0", f"{JSON}, application/json").json()
    assert {row["0020000E"]["Value"][0] for row in rows} == {SERIES, OTHER_SERIES}
    assert ask("//studies?limit=1", JSON).status_code == 200
    assert len(ask("/studies/?PatientID=P1", JSON).json()) == 1
    parts = parts_of(ask(f"/studies/{STUDY}/", 'multipart/related; type="application/dicom"'))
    assert len(parts) == COUNT
    assert len(ask(f"/studies/{STUDY}/metadata/", JSON).json()) == COUNT
    assert ask(f"/studies/{STUDY}/instances/", JSON).status_code == 200


def test_the_google_adapter_asks_without_accept_and_for_a_single_part(ask: Ask) -> None:
    rows = ask(f"/studies/{STUDY}/instances?SOPInstanceUID={UIDS[0]}").json()
    assert [row["00080018"]["Value"][0] for row in rows] == [UIDS[0]]
    answer = ask(CT_IMAGE, "application/dicom; transfer-syntax=*")
    assert answer.headers["Content-Type"].startswith("application/dicom")
    assert pydicom.dcmread(io.BytesIO(answer.content)).SOPInstanceUID == UIDS[0]
    assert ask("/studies?PatientID=nobody").json() == []


def test_a_conformance_smoke_of_ps3_18(ask: Ask) -> None:
    """What test tools look at first: each resource, its default type, its refusals."""
    statuses = {
        f"/studies/{STUDY}": 200, f"/studies/{STUDY}/series/{SERIES}": 200, CT_IMAGE: 200,
        f"/studies/{STUDY}/metadata": 200, f"{CT_IMAGE}/metadata": 200, f"{CT_IMAGE}/frames/1": 200,
        f"{CT_IMAGE}/frames/0": 400, f"{CT_IMAGE}/frames/2": 404,
        f"{CT_IMAGE}/bulkdata/7FE00010": 200, f"{CT_IMAGE}/pixeldata": 200,
        f"/studies/{STUDY}/rendered": 200, f"{CT_IMAGE}/rendered": 200, f"{CT_IMAGE}/frames/1/rendered": 200,
        f"/studies/{STUDY}/thumbnail": 200, f"{CT_IMAGE}/thumbnail": 200,
        "/studies": 200, "/series": 200, "/instances": 200, "/studies/1.2.3": 404, "/studies/1.2.3/metadata": 404,
        "/studies?limit=x": 400, "/studies?StudyDate=x": 400, "/nothing": 404,
    }  # fmt: skip
    assert {path: ask(path).status_code for path in statuses} == statuses
    for path in (f"/studies/{STUDY}", "/studies", CT_IMAGE, f"{CT_IMAGE}/metadata"):
        assert ask(path, "image/nonsense").status_code == 406
        head = ask(path, method="HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Type"].split(";")[0] == ask(path).headers["Content-Type"].split(";")[0]
    assert "application" in ask("", "application/json", "OPTIONS").json()
    assert b"<application" in ask("/", None, "OPTIONS").content
    assert ask("/studies", method="PUT").status_code == 405
    assert np.frombuffer(parts_of(ask(f"{CT_IMAGE}/pixeldata"))[0][1], "<u2").size == 256
