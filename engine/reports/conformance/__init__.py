"""The DICOM conformance statement in the structure of PS3.2, from the registries of the engine."""

from __future__ import annotations

from engine import __version__
from engine.reports.conformance import data, network, protection, web
from engine.reports.document import Document, Section
from engine.reports.facts import Facts
from engine.services import registry


def make(facts: Facts) -> Document:
    """The statement for the configuration in force."""
    return Document(
        "conformance",
        "DICOM conformance statement",
        (
            _overview(),
            _introduction(),
            network.section(facts),
            web.section(),
            data.media_interchange(),
            data.character_sets(),
            protection.section(facts),
            data.annexes(facts),
        ),
        {"sop_classes": network.sop_class_count(), "dicomweb_routes": web.route_count()},
    )


def _overview() -> Section:
    services = ", ".join(service.name for service in (*registry.SERVICES, registry.STORAGE))
    requested = ", ".join(dict.fromkeys(name for name, *_ in network.requested()))
    return Section(
        "Conformance statement overview",
        (
            f"Filmroom {__version__} is an archive: it stores composite instances, finds them and sends them on, by"
            " DIMSE and by DICOMweb. It shows images only as rendered pictures.",
            f"Network services as SCP: {services}. On associations that it requests: {requested}. Each SOP class is"
            " named in 3.2, each DICOMweb transaction in 4.",
        ),
    )


def _introduction() -> Section:
    return Section(
        "Introduction",
        (
            "For whoever connects other systems to this archive. It was made by `filmroom security-report` from the"
            " running configuration: another configuration has another statement.",
            "It does not replace a test of both systems together. References: PS3.2 to PS3.18 of the DICOM Standard.",
        ),
    )
