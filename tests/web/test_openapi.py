"""The OpenAPI document: valid, complete, and what the server does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.web import openapi
from engine.web.route import PATH_PARAMETERS
from engine.web.routes import ROUTES
from engine.web.schemas import SCHEMAS

DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document(ROUTES, "http://pacs.example:8080")))


def test_the_document_is_valid_openapi_3_1() -> None:
    import schemathesis  # late: every process of the tests collects this module

    schemathesis.openapi.from_dict(DOCUMENT).validate()
    broken = {**DOCUMENT, "paths": {"/x": {"get": {"responses": {"200": {}}}}}}
    with pytest.raises(Exception, match="description"):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_route_is_an_operation_with_a_name_of_its_own() -> None:
    operations = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]
    assert sorted(operations) == sorted((route.method.lower(), route.path) for route in ROUTES)
    names = [item[method]["operationId"] for item in DOCUMENT["paths"].values() for method in item]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_each_parameter_of_a_path_is_described(route: Any) -> None:
    own = {parameter.name for parameter in route.parameters}
    names = {segment.strip("{}") for segment in route.path.split("/") if segment.startswith("{")}
    assert names <= own | set(PATH_PARAMETERS)
    assert not route.schema or route.schema in SCHEMAS
