"""FHIR over HTTP at /fhir: what records systems read. One file a resource; the forms are in `engine.fhir`."""
