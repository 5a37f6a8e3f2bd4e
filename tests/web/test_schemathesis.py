"""What the OpenAPI document allows and forbids is asked of the server: seeded, a bounded number of requests a route.

FILMROOM_FUZZ_RUNS and FILMROOM_FUZZ_SEED make it long and another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
from hypothesis import HealthCheck, Phase

from engine.web import openapi
from engine.web.routes import ROUTES
from tests import samples
from tests.archive import kept
from tests.web.hosting import Hosting
from tests.web.lone_server import Link
from tests.web.serving import serving

EXAMPLES = int(os.environ.get("FILMROOM_FUZZ_RUNS", "12"))
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))

PLACES = {
    "study": f"{samples.ROOT}.1",
    "series": f"{samples.ROOT}.1.1",
    "instance": kept.uid_of(0),
    "frames": "1",
    "tag": "7FE00010",
    "studyUID": f"{samples.ROOT}.1",
    "seriesUID": f"{samples.ROOT}.1.1",
    "objectUID": kept.uid_of(0),
    "requestType": "WADO",
}
"""What leads to something: half of the requests have these in their paths and queries."""

DOCUMENT: Any = openapi.document(ROUTES, "")
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
OPERATIONS = sorted(
    ((path, method) for path, item in DOCUMENT["paths"].items() for method in METHODS & set(item)),
    key=lambda operation: (operation[1] == "delete", operation),
)
"""Those that delete at the end: the others would find nothing."""


@pytest.fixture(scope="module")
def schema() -> Any:
    """Import schemathesis late: every process of the tests collects this module."""
    import schemathesis
    from schemathesis.config import SchemathesisConfig

    @schemathesis.serializer("application/dicom", 'multipart/related; type="application/dicom"')
    def in_bytes(context: Any, value: Any) -> bytes:
        """A file, or what is none."""
        return samples.part10(samples.instance(5)) if isinstance(value, dict | list) else str(value).encode()

    config = SchemathesisConfig.from_dict({"seed": SEED, "generation": {"mode": "all"}})
    read = schemathesis.openapi.from_dict(DOCUMENT, config=config)
    assert len(OPERATIONS) == sum(1 for _ in read.get_all_operations())
    return read


def checks_of_the_document() -> list[Any]:
    """All that the document can contradict, but for the judgement of data: a parameter that is not known is passed
    over, as PS3.18 8.3.4 wants it, and what the index does not have is no error."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    return [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
        checks.unsupported_method,
    ]


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("schemathesis") / "data"
    with kept.opened(data) as archive:
        kept.store(archive, [kept.data_set(number, pixels=512) for number in range(3)])
    with serving(data, link=Link) as hosting:
        yield hosting


@pytest.mark.rotating(3)  # each operation by itself; the tests of its room ask it in each run
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=str)
def test_the_server_behaves_as_documented(hosting: Hosting, schema: Any, path: str, method: str) -> None:
    operation, checks = schema[path][method.upper()], checks_of_the_document()
    session = requests.Session()

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(), leads_somewhere=hypothesis.strategies.booleans())
    def ask(case: Any, leads_somewhere: bool) -> None:
        hypothesis.note(f"FILMROOM_FUZZ_SEED={SEED} FILMROOM_FUZZ_RUNS={EXAMPLES}")
        if leads_somewhere:
            case.path_parameters = {name: PLACES.get(name, value) for name, value in case.path_parameters.items()}
            case.query = {name: PLACES.get(name, value) for name, value in (case.query or {}).items()}
        case.call_and_validate(base_url=hosting.url, session=session, checks=checks, timeout=60)

    ask()
    session.close()
