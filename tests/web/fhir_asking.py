"""Asks a hosted server for resources of FHIR, and has an independent implementation read each of them."""

from __future__ import annotations

from typing import Any

import requests
from fhir.resources import get_fhir_model_class as r5_class
from fhir.resources.R4B import get_fhir_model_class as r4_class

from tests.web.hosting import Hosting

R5 = {"Accept": "application/fhir+json; fhirVersion=5.0"}


def checked(resource: dict[str, Any], *, is_r5: bool = False) -> dict[str, Any]:
    """The resource, as an independent implementation reads it."""
    (r5_class if is_r5 else r4_class)(resource["resourceType"]).model_validate(resource)
    return resource


def get(hosting: Hosting, path: str, *, is_r5: bool = False, status: int = 200) -> dict[str, Any]:
    answer = requests.get(f"{hosting.url}/fhir/{path}", headers=R5 if is_r5 else {}, timeout=60)
    assert answer.status_code == status, answer.text
    version = "5.0" if is_r5 else "4.0"
    assert answer.headers["Content-Type"] == f"application/fhir+json; fhirVersion={version}"
    return checked(answer.json(), is_r5=is_r5)


def found(bundle: dict[str, Any], mode: str = "match") -> list[str]:
    """The ids of a bundle's resources."""
    return [
        each["resource"].get("id", "") for each in bundle.get("entry", []) if each["search"]["mode"] == mode
    ]  # fmt: skip


def next_of(bundle: dict[str, Any], hosting: Hosting) -> str | None:
    """The path of the next page; None: there is none."""
    link = next((each["url"] for each in bundle["link"] if each["relation"] == "next"), None)
    return None if link is None else link.removeprefix(f"{hosting.url}/fhir/")
